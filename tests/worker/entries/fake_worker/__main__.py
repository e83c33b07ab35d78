"""`python -m worker` with the fake engine: the real program, with children that need no TensorFlow."""

import sys

import fake_engine

from app.settings import Settings
from worker import logs, program
from worker.processes import Launcher

if __name__ == "__main__":
    logs.configure()
    launcher = Launcher(entry=fake_engine.entry, preload=[])
    sys.exit(program.run(Settings(), sys.argv[1].split(","), launcher=launcher))
