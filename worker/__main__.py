"""`python -m worker --queues cpu,prepare`: one worker process."""

import argparse
import logging
import sys
from typing import cast, get_args

from app.domain.errors import ThawError
from app.logs import configure_logging
from app.queue import QueueName
from app.settings import Settings
from worker import program


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, work, return the exit code."""
    options = _parser().parse_args(arguments)
    configure_logging(libraries=logging.WARNING)
    try:
        return program.run(Settings.read(), options.queues)
    except ThawError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m worker", description="Takes hints off queues, trains jobs and checks files. Settings: THAW_…"
    )
    parser.add_argument(
        "--queues",
        type=_queues,
        required=True,
        metavar="NAME[,NAME]",
        help="prepare: check models and datasets; cpu, gpu: train",
    )
    return parser


def _queues(text: str) -> list[QueueName]:
    names = [name.strip() for name in text.split(",")]
    unknown = sorted(set(names) - set(get_args(QueueName)))
    if unknown:
        message = f"unknown {', '.join(map(repr, unknown))}; choose from {', '.join(get_args(QueueName))}"
        raise argparse.ArgumentTypeError(message)
    return cast("list[QueueName]", list(dict.fromkeys(names)))


if __name__ == "__main__":
    sys.exit(main())
