"""`python -m worker.engine.export order.json`: the converting process."""

import sys
from pathlib import Path

from worker.engine.export import converting
from worker.engine.export.order import Order

converting.main(Order.model_validate_json(Path(sys.argv[1]).read_bytes()))
