"""The environment of child processes: what programs need to run, and nothing that anybody must not read.

Settings are read first; then everything else goes from this process's environment, so that the forkserver, which
is started from it, and every child have none of it: not in `os.environ`, not in their `/proc/<pid>/environ`. A list of
what may stay is safer than one of what must go: nobody knows the names of all secrets.

This keeps secrets from what shows or stores an environment by mistake. It does not keep them from a child that wants
them: it runs as the same user, to whom `/proc` shows what the worker itself was started with.
"""

import os
from collections.abc import Iterable

_KEPT = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LANGUAGE", "TZ", "TMPDIR", "HOSTNAME"),
        *("HF_ENDPOINT", "HF_HUB_OFFLINE", "KAGGLEHUB_CACHE", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *("PGSERVICEFILE", "PGSYSCONFDIR"),  # where services are looked up; what libpq reads else is kept by the engine
        *("VIRTUAL_ENV", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
        *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"),
    )
)
_KEPT_PREFIXES = (
    *("LC_", "PYTHON"),
    *("TF_", "KERAS_", "CUDA_", "NVIDIA_", "NCCL_", "XLA_"),
    *("OMP_", "MKL_", "KMP_", "OPENBLAS_", "MALLOC_", "GOMP_"),
)


def scrub() -> list[str]:
    """Take everything else out of this process's environment; returns the names."""
    gone = [name for name in os.environ if not is_kept(name)]
    _delete(gone)
    return gone


def is_kept(name: str) -> bool:
    """Whether child processes may have this variable."""
    return name in _KEPT or name.startswith(_KEPT_PREFIXES)


def _delete(names: Iterable[str]) -> None:
    for name in names:
        del os.environ[name]
