"""No process outlives the one that started it, however that one died."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait

OWNER_VARIABLE = "THAW_FORKSERVER_OWNER"
"""Environment variable of a forkserver: the process id of the worker that it belongs to."""

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies (Linux; see `watch_parent` for the others).

    Linux means the thread that started it: threads that start processes must last as long as the worker.
    """
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def watch_parent() -> None:
    """End this process group when the worker is gone, by a thread that waits for it.

    Slower than the kernel's way (it needs the interpreter's lock), so it is only for systems that have none.
    """
    if sys.platform == "linux":
        return
    parent = multiprocessing.parent_process()
    assert parent is not None, "only child processes have a parent to watch"

    def end_with(sentinel: int) -> None:
        wait([sentinel])
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=end_with, args=(parent.sentinel,), name="lifeline", daemon=True).start()
