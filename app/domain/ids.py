"""Ids: a prefix that says what it is, and a ULID that sorts by time of creation.

`ftjob-01JD…`: 48 bits of Unix milliseconds and 80 random bits in Crockford's base32, lower case,
26 characters (https://github.com/ulid/spec).
"""

import secrets
import time
from typing import Literal

Prefix = Literal["file", "upload", "part", "model", "ds", "ftjob", "ckpt", "req", "key", "worker"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LENGTH = 26
_RANDOM_BITS = 80


def new_id(prefix: Prefix) -> str:
    """A fresh id such as `ftjob-01jd8k2v7e…`; later ids sort after earlier ones (to the millisecond)."""
    milliseconds = time.time_ns() // 1_000_000
    return f"{prefix}-{_base32((milliseconds << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS))}"


def event_id(job_id: str, number: int) -> str:
    """The id of a job's event: derived from the job and the event's number, so it needs no column."""
    return f"ftevent-{job_id.removeprefix('ftjob-')}-{number:08d}"


def event_number(identifier: str) -> int | None:
    """The number inside an event's id, or `None` if it is not one."""
    tail = identifier.rpartition("-")[2]
    return int(tail) if identifier.startswith("ftevent-") and tail.isdecimal() else None


def _base32(value: int) -> str:
    return "".join(_ALPHABET[(value >> (5 * position)) & 31] for position in reversed(range(_LENGTH)))
