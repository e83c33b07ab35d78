"""Logs: JSON lines for machines, one shape for ours and for libraries'."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from app.logs import configure_logging


@pytest.fixture
def stream(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """Where a freshly configured process would log; everything is as before afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = getattr(request, "param", io.StringIO)()
    configure_logging(stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.captureWarnings(capture=False)


def fail(secret: str) -> None:
    """Log an exception of a function with a local variable that nobody should see."""
    try:
        _ = len(secret) / 0
    except ZeroDivisionError:
        structlog.get_logger("thaw.test").exception("It failed.")


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_fixed_sentence_has_its_facts_as_fields(stream: io.StringIO) -> None:
    structlog.get_logger("thaw.test").info("A job ended.", job_id="ftjob-1", attempt=2)
    (line,) = lines(stream)
    assert (line["event"], line["job_id"], line["attempt"]) == ("A job ended.", "ftjob-1", 2)
    assert (line["level"], line["logger"]) == ("info", "thaw.test")
    assert str(line["timestamp"]).endswith("Z")


def test_libraries_log_in_the_same_shape(stream: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").warning("port %d is taken", 80)
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("port 80 is taken", "warning", "uvicorn.error")


def test_an_exception_is_one_line_with_its_trace(stream: io.StringIO) -> None:
    fail("swordfish")
    (line,) = lines(stream)
    assert "ZeroDivisionError" in str(line["exception"])
    assert "swordfish" not in stream.getvalue()


def test_details_below_the_level_are_left_out(stream: io.StringIO) -> None:
    structlog.get_logger("thaw.test").debug("Nobody wants to know.")
    assert lines(stream) == []


def test_what_is_bound_to_the_context_is_in_every_line_of_libraries_too(stream: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(job_id="ftjob-1", attempt=2):
        structlog.get_logger("worker.test").info("A step.")
        logging.getLogger("celery").warning("a word")
    structlog.get_logger("worker.test").info("Something else.")
    assert [line.get("job_id") for line in lines(stream)] == ["ftjob-1", "ftjob-1", None]


def test_libraries_can_be_asked_for_less_than_ours(stream: io.StringIO) -> None:
    configure_logging(stream, libraries=logging.WARNING)
    logging.getLogger("celery.worker").info("a detail of a library")
    structlog.get_logger("worker.test").info("Ours.")
    assert [line["event"] for line in lines(stream)] == ["Ours."]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal], indirect=True)
def test_a_terminal_gets_text_for_people_without_local_variables(stream: io.StringIO) -> None:
    fail("swordfish")
    assert "It failed." in stream.getvalue()
    assert "ZeroDivisionError" in stream.getvalue()
    assert "swordfish" not in stream.getvalue()
    assert not stream.getvalue().startswith("{")
