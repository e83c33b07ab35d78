"""What the freeze proof catches. The variables are arrays here: a fingerprint needs no more."""

import hashlib

import numpy as np
import pytest

from app.domain.errors import ProofError, UserError
from worker.engine.proof import digest, fingerprint, prove


def test_fingerprint_covers_bytes_dtype_and_shape() -> None:
    values = np.zeros((2, 3), "float32")
    prints = fingerprint({"a": values, "b": values.reshape(3, 2), "c": values.astype("int32"), "d": values.copy()})
    assert prints["a"] == prints["d"]
    assert len({prints["a"], prints["b"], prints["c"]}) == 3


def test_fingerprint_sees_the_smallest_change_of_one_number_and_the_sign_of_zero() -> None:
    values = np.ones(1000, "float32")
    changed = values.copy()
    changed[500] = np.nextafter(np.float32(1), np.float32(2))
    negative = np.zeros(2, "float32") * -1
    prints = fingerprint({"same": values, "changed": changed, "zero": np.zeros(2, "float32"), "negative": negative})
    assert prints["same"] != prints["changed"]
    assert prints["zero"] != prints["negative"]


def test_digest_is_a_sha256_that_does_not_depend_on_the_order_of_insertion() -> None:
    expected = hashlib.sha256(b"a 1\nb 2\n").hexdigest()
    assert digest({"b": "2", "a": "1"}) == digest({"a": "1", "b": "2"}) == expected


def test_proof_counts_what_moved() -> None:
    found = prove("head", frozen=({"f": "1"}, {"f": "1"}), trained=({"a": "1", "b": "1"}, {"a": "2", "b": "1"}))
    assert (found.frozen_variables, found.trained_variables, found.moved_variables) == (1, 2, 1)
    assert found.held
    assert found.frozen_digest_before == found.frozen_digest_after == digest({"f": "1"})


def test_a_frozen_variable_that_moved_fails_the_phase_and_is_named() -> None:
    with pytest.raises(ProofError, match=r"1 frozen variables moved in phase 'head': 'conv/0\.kernel'") as caught:
        prove(
            "head",
            frozen=({"conv/0.kernel": "1", "conv/1.bias": "1"}, {"conv/0.kernel": "2", "conv/1.bias": "1"}),
            trained=({"a": "1"}, {"a": "2"}),
        )
    assert caught.value.failure().code == "freeze_proof_failed"
    assert caught.value.failure().phase == "head"


@pytest.mark.parametrize("after", [{}, {"f": "1", "new": "1"}], ids=["gone", "added"])
def test_a_frozen_variable_that_vanished_or_appeared_counts_as_moved(after: dict[str, str]) -> None:
    with pytest.raises(ProofError):
        prove("head", frozen=({"f": "1"}, after), trained=({"a": "1"}, {"a": "2"}))


def test_a_phase_in_which_nothing_moved_is_refused() -> None:
    with pytest.raises(UserError, match="not one of its 1 trainable variables changed") as caught:
        prove("head", frozen=({}, {}), trained=({"a": "1"}, {"a": "1"}))
    assert caught.value.failure().code == "nothing_moved"
