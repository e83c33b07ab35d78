"""Proof that what was frozen stayed bit-identical, and that what was unfrozen moved.

    before = fingerprint(weights)      sha256 of every variable, at the start of the phase
    …the phase trains…
    prove(before, fingerprint(weights), …)

Which weights had to stay still is decided from the selection alone (`schedule.divide`), not from Keras'
`trainable` flags: those are what the proof checks. The states of random seed generators belong to neither side.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from app.domain.errors import ProofError, UserError
from app.domain.progress import FreezeProof

Variable = Any
"""A `keras.Variable`."""
Fingerprint = dict[str, str]
"""sha256 of each variable's shape, dtype and bytes, by its name."""

MAX_NAMED = 5


def fingerprint(variables: Mapping[str, Variable]) -> Fingerprint:
    """The digest of each variable's present value."""
    return {name: _digest(np.asarray(variable)) for name, variable in variables.items()}


def digest(prints: Fingerprint) -> str:
    """One sha256 over names and digests, in the order of the names."""
    lines = "".join(f"{name} {prints[name]}\n" for name in sorted(prints))
    return hashlib.sha256(lines.encode()).hexdigest()


def prove(
    phase: str,
    *,
    frozen: tuple[Fingerprint, Fingerprint],
    trained: tuple[Fingerprint, Fingerprint],
) -> FreezeProof:
    """Compare the fingerprints before and after a phase.

    Raises `ProofError` that names the frozen variables that moved, and `UserError` with code `nothing_moved` if
    not one of the trained ones did: a learning rate below what float32 can add does that.
    """
    strayed = _moved(*frozen)
    if strayed:
        raise ProofError(_strayed_message(phase, strayed), phase=phase)
    moved = _moved(*trained)
    if not moved:
        message = (
            f"Phase '{phase}' ran, and not one of its {len(trained[0])} trainable variables changed; expected at least "
            "one to move. The learning rate is too small for float32, or all gradients are zero: try a larger one."
        )
        raise UserError(message, code="nothing_moved", phase=phase)
    return FreezeProof(
        phase=phase,
        frozen_variables=len(frozen[0]),
        frozen_digest_before=digest(frozen[0]),
        frozen_digest_after=digest(frozen[1]),
        trained_variables=len(trained[0]),
        moved_variables=len(moved),
        held=True,
    )


def _digest(value: np.ndarray[Any, Any]) -> str:
    total = hashlib.sha256(f"{value.dtype.name} {list(value.shape)}\n".encode())
    total.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _moved(before: Fingerprint, after: Fingerprint) -> list[str]:
    """Names whose digest differs; a variable that is on one side only has moved too."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _strayed_message(phase: str, strayed: list[str]) -> str:
    named = ", ".join(f"'{name}'" for name in strayed[:MAX_NAMED])
    more = f" and {len(strayed) - MAX_NAMED} more" if len(strayed) > MAX_NAMED else ""
    return (
        f"{len(strayed)} frozen variables moved in phase '{phase}': {named}{more}; expected every frozen variable to "
        "stay bit-identical. The result is not published. Please report this with the job's specification."
    )
