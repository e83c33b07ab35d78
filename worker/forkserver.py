"""Ties the forkserver to its worker. Imported by the forkserver first of all, and by nobody else.

Python's forkserver ends when it reads the end of a pipe, which it does only once it has imported what it was
told to preload: with TensorFlow, up to 20 s after a worker that was killed meanwhile. An import is the only hook
that it offers, so this is the one module of the house that acts when it is imported, and only in the process of
which the worker says that it is its forkserver.
"""

import os
import signal

from worker import lifeline

PID: int | None = None
"""The forkserver's process id; children see by it whether they were orphaned before they could say so."""

_owner = os.environ.get(lifeline.OWNER_VARIABLE)
if _owner == str(os.getppid()):
    PID = os.getpid()
    lifeline.die_with_parent()
    # A service manager signals every process of the service at once. The worker ends its children in order.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif _owner:
    os._exit(0)  # the worker died before we could ask to die with it
