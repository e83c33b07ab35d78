"""`python -m worker` with the fake engine: the real program, with children that need no TensorFlow.

With a second argument `stuck`, nothing that it fetches ever comes, and nobody can cut that short. With `patient`, only
somebody who asks twice gets it to end a process that does not listen.
"""

import logging
import sys
import time

import fake_engine

from app.logs import configure_logging
from app.settings import Settings
from app.storage.local import LocalArtifacts
from worker import program, watch
from worker.processes import Launcher

if __name__ == "__main__":
    configure_logging(libraries=logging.WARNING)
    if sys.argv[2:] == ["stuck"]:
        LocalArtifacts.fetch = lambda *_, **__: time.sleep(600)  # type: ignore[method-assign]
    if sys.argv[2:] == ["patient"]:
        watch.GRACE_SECONDS["stop"] = program.STOP_SECONDS = 600.0  # type: ignore[index]
        program.HURRY_SECONDS = 20.0
    launcher = Launcher(entry=fake_engine.entry, preload=[])
    sys.exit(program.run(Settings(), sys.argv[1].split(","), launcher=launcher))
