"""Smaller batches, the same steps."""

from typing import Any

import pytest

from app.domain.adjusting import as_sent, smaller_batches, trains_batch_norm
from app.domain.spec import ResolvedSpec, Spec, resolve


def spec(**fields: Any) -> ResolvedSpec:
    return resolve(Spec.model_validate({"schedule": [{"epochs": 1}], **fields}), seed=1)


@pytest.mark.parametrize(("before", "after", "accumulated"), [(32, 16, 2), (2, 1, 2), (33, 11, 3), (7, 1, 7)])
def test_a_step_sees_as_many_examples_as_before(before: int, after: int, accumulated: int) -> None:
    found = smaller_batches(spec(batch_size=before))
    assert found is not None
    assert (found.batch_size, found.schedule[0].gradient_accumulation) == (after, accumulated)
    assert after * accumulated == before


def test_each_phase_keeps_what_it_accumulated() -> None:
    found = smaller_batches(spec(schedule=[{"epochs": 1}, {"epochs": 1, "gradient_accumulation": 5}]))
    assert found is not None
    assert [phase.gradient_accumulation for phase in found.schedule] == [2, 10]


def test_it_is_done_once_and_only_where_it_can_be() -> None:
    once = smaller_batches(spec())
    assert once is not None
    assert smaller_batches(once) is None
    assert smaller_batches(spec(batch_size=1)) is None
    assert smaller_batches(spec(schedule=[{"epochs": 1, "gradient_accumulation": 1000}])) is None


@pytest.mark.parametrize("batch_size", [32, 33, 7])
def test_it_can_be_undone(batch_size: int) -> None:
    sent = spec(batch_size=batch_size, schedule=[{"epochs": 1}, {"epochs": 1, "gradient_accumulation": 5}])
    found = smaller_batches(sent)
    assert found is not None
    assert as_sent(found) == sent == as_sent(sent)


def test_the_stored_form_is_read_back() -> None:
    found = smaller_batches(spec())
    assert found is not None
    assert ResolvedSpec.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("fields", "trains"),
    [
        ({}, False),
        ({"head": {"layers": [{"type": "batch_normalization"}]}}, True),
        ({"schedule": [{"epochs": 1, "unfreeze": "all", "batch_norm": "train"}]}, True),
        ({"backbone_weights": "random"}, True),
        ({"head": "keep", "cut": {"drop_last": 0}}, False),
    ],
)
def test_whether_examples_of_a_batch_matter_to_each_other(fields: dict[str, Any], trains: bool) -> None:
    assert trains_batch_norm(spec(**fields)) is trains
