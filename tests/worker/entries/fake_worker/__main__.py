"""`python -m worker` with the fake engine: the real program, with children that need no TensorFlow."""

import logging
import sys

import fake_engine

from app.logs import configure_logging
from app.settings import Settings
from worker import program
from worker.processes import Launcher

if __name__ == "__main__":
    configure_logging(libraries=logging.WARNING)
    launcher = Launcher(entry=fake_engine.entry, preload=[])
    sys.exit(program.run(Settings(), sys.argv[1].split(","), launcher=launcher))
