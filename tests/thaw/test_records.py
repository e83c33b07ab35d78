"""Answers become records, whatever a newer or older service adds or leaves out."""

import dataclasses

import pytest

from thaw import records
from thaw.errors import UnexpectedAnswerError
from thaw.records import Dataset, Job, Model, Record, read


def test_what_a_newer_service_adds_is_kept_in_raw_and_breaks_nothing() -> None:
    model = read(Model, {"id": "model-1", "status": "ready", "colour": {"of": "the sky"}})
    assert model.id == "model-1"
    assert model.raw["colour"] == {"of": "the sky"}


def test_what_an_older_service_leaves_out_or_sends_as_null_has_its_default() -> None:
    dataset = read(Dataset, {"id": "ds-1", "status": "ready", "warnings": None, "splits": None})
    assert dataset.warnings == ()
    assert dataset.splits is None
    assert dataset.corrupt_count == 0


def test_records_inside_of_records_lists_and_mappings_are_records() -> None:
    job = read(
        Job,
        {
            "id": "ftjob-1",
            "status": "failed",
            "error": {"class": "user", "code": "illegal_cut", "message": "No."},
            "artifacts": [{"name": "model.keras", "bytes": 3, "sha256": "a"}],
            "phase": {"index": 1, "name": "head", "epoch": 2, "epochs": 4},
        },
    )
    assert job.error is not None
    assert job.error.error_class == "user"
    assert job.artifacts[0].bytes == 3
    assert job.phase is not None
    assert job.phase.epoch == 2
    splits = read(Dataset, {"id": "d", "status": "ready", "splits": {"train": {"examples": 7}}}).splits
    assert splits is not None
    assert splits["train"].examples == 7


@pytest.mark.parametrize("answer", [None, [], "text", {}, {"id": "model-1"}, {"id": None, "status": "ready"}])
def test_what_is_no_such_record_is_refused(answer: object) -> None:
    with pytest.raises(UnexpectedAnswerError):
        read(Model, answer)


def test_a_record_cannot_be_changed() -> None:
    model = read(Model, {"id": "model-1", "status": "ready"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.status = "failed"  # type: ignore[misc]  # that is the claim


def test_every_record_class_is_exported() -> None:
    classes = {
        name
        for module in (records.assets, records.jobs, records.record, records.service)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Record)
    }
    assert classes <= set(records.__all__)
