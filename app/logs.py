"""Logs of API and worker: a fixed sentence and facts as fields. JSON lines, or colours on a terminal.

structlog's loggers (ours) ─┐
                            ├─> the same processors ─> standard error
logging's (uvicorn, …) ─────┘

What a line is about stands in fields that are bound to the context of whoever works on it, so that every line of
that work has them, libraries' warnings included:

    request_id               API: from a request's first line to its last, in its thread, too
    job_id, attempt, worker  worker: from a claim to its last write (`model_id`, `dataset_id` for checks of files)

The API's line "Created a job." has both `request_id` and `job_id`: from there a request can be followed into workers.
"""

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import Processor

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


OURS = ("app", "worker", "thaw")
"""The names under which Thaw logs; everything else is a library."""


def configure_logging(stream: TextIO | None = None, *, libraries: int = logging.INFO) -> None:
    """Send everything that this process logs to `stream` (standard error). For programs, not for libraries.

    Ours is logged from INFO on, that of `libraries` from their level.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(stream)],
        )
    )
    logging.basicConfig(level=libraries, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _rendering(stream: TextIO) -> list[Processor]:
    # Plain traces: structlog's own for terminals show local variables, which may be keys and people's data.
    if stream.isatty():
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
