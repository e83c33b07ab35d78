"""`python -m worker.engine.export order.json`: the converting process."""

import os
import sys
from pathlib import Path

from worker.engine import durable
from worker.engine.export import converting
from worker.engine.export.order import NO_ROOM, Order

try:
    converting.main(Order.model_validate_json(Path(sys.argv[1]).read_bytes()))
except Exception as error:
    if durable.lacks_room(error):
        # Not `sys.exit`: what is printed goes to the full disk as well, and that would change the status.
        os._exit(NO_ROOM)
    raise
