"""Becomes a program that is signalled when its parent dies (Linux): `python tether.py PARENT SIGNAL PROGRAM …`.

`prctl(PR_SET_PDEATHSIG)` concerns the process that calls it, so it must be called in the child. Between fork and
exec of a process with threads Python code is not safe to run, so a tiny program of its own does it after the exec
and then becomes the real one. Needs the standard library only and runs as a script, so that it starts in 10 ms.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(parent: int, signal_number: int, command: list[str]) -> None:
    """Ask for the signal, then become `command`. Ends at once if the parent is dead already."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 (no shell is the point)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
