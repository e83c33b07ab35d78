"""`python -m worker.engine.export order.json PARENT`: the converting process, which ends with the process PARENT."""

import os
import signal
import sys
from pathlib import Path

from worker import lifeline
from worker.engine import durable
from worker.engine.export.order import NO_ROOM, Order


def main(order_file: Path, parent: int) -> None:
    """Carry out the order."""
    for number in (signal.SIGTERM, signal.SIGINT):  # sent to all processes at once; the parent's answer counts for both
        signal.signal(number, signal.SIG_IGN)
    lifeline.die_with_parent()
    if os.getppid() != parent:  # it died just before: then the kernel will never tell
        os._exit(1)
    order = Order.model_validate_json(order_file.read_bytes())
    from worker.engine.export import converting

    try:
        converting.main(order)
    except Exception as error:
        if durable.lacks_room(error):
            # Not `sys.exit`: what is printed goes to the full disk as well, and that would change the status.
            os._exit(NO_ROOM)
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
