"""A checkpoint of an earlier version of Thaw, whose specs had fewer fields, belongs to its job all the same."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from app.domain.adjusting import as_sent, smaller_batches
from app.domain.spec import ResolvedSpec, Spec, resolve
from tests.worker.engine.test_damage import made
from worker.engine import checkpoint
from worker.engine.checkpoint import Checkpoint, Checkpoints
from worker.engine.identity import identity_of

DIGESTS = {"source": "m", "dataset": "d"}
SENT = resolve(Spec.model_validate({"batch_size": 24, "label_smoothing": 0.1}), seed=3)
SMALLER = smaller_batches(SENT)
assert SMALLER is not None


def earlier(spec: dict[str, Any]) -> dict[str, Any]:
    """As a version wrote it that knew neither class weights nor decay from layer to layer."""
    schedule = [{name: value for name, value in phase.items() if name != "layer_decay"} for phase in spec["schedule"]]
    return {name: value for name, value in spec.items() if name != "class_weights"} | {"schedule": schedule}


def kept_by_an_earlier_version(workdir: Path, spec: ResolvedSpec) -> None:
    """One checkpoint, with the identity and the spec that such a version wrote."""
    told = earlier(as_sent(spec).model_dump(mode="json", exclude={"adjustments"}))
    digest = hashlib.sha256(json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
    identity = identity_of(spec, **DIGESTS)
    assert digest != identity.spec, "it is this that made it another job's"
    written = made(7)
    meta = written.meta.model_copy(
        update={
            "identity": identity.model_copy(update={"spec": digest}),
            "spec": earlier(spec.model_dump(mode="json")),
        }
    )
    Checkpoints(workdir, identity).write(Checkpoint(meta, written.arrays))


def newest(workdir: Path, spec: ResolvedSpec, **digests: str) -> tuple[int | None, list[str]]:
    """Steps of the one that is gone on from, and why others are not."""
    checkpoints = Checkpoints(workdir, identity_of(spec, **{**DIGESTS, **digests}))
    found = checkpoints.newest()
    return None if found is None else found.meta.steps, [refusal.reason for refusal in checkpoints.refused]


@pytest.mark.parametrize("kept", [SENT, SMALLER], ids=["sent", "made smaller"])
@pytest.mark.parametrize("now", [SENT, SMALLER], ids=["sent", "made smaller"])
def test_a_job_goes_on_from_what_an_earlier_version_kept(kept: ResolvedSpec, now: ResolvedSpec, tmp_path: Path) -> None:
    kept_by_an_earlier_version(tmp_path, kept)
    assert checkpoint.latest_spec(tmp_path) == kept
    assert newest(tmp_path, now) == (7, [])


@pytest.mark.parametrize(
    ("changed", "digests"),
    [({"class_weights": "balanced"}, {}), ({"seed": 4}, {}), ({}, {"source": "n"}), ({}, {"dataset": "e"})],
)
def test_what_an_earlier_version_kept_of_another_job_is_refused(
    changed: dict[str, Any], digests: dict[str, str], tmp_path: Path
) -> None:
    kept_by_an_earlier_version(tmp_path, SENT)
    found, (reason,) = newest(tmp_path, SENT.model_copy(update=changed), **digests)
    assert found is None
    assert "another job" in reason


def test_a_spec_that_this_version_cannot_read_is_no_job_of_its(tmp_path: Path) -> None:
    kept_by_an_earlier_version(tmp_path, SENT)
    (path,) = (tmp_path / "checkpoints").glob("*/meta.json")
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "spec": {**found["spec"], "of_a_later_version": 1}}))
    (path.parent / "manifest.json").unlink()
    meta = checkpoint.Meta.model_validate_json(path.read_bytes())
    (path.parent / "manifest.json").write_text(checkpoint._manifest(path.parent, meta))
    assert newest(tmp_path, SENT)[1] == ["it belongs to another job: spec, source or dataset differ"]
