"""Where validation errors point in the JSON that the client sent."""

import pytest
from pydantic import TypeAdapter, ValidationError

from app.domain.job import JobRequest
from app.domain.pointers import as_pointer, pointer_into

BASE = {"model": "model-1", "training_file": "ds-1"}


def pointers(document: dict[str, object]) -> set[str]:
    """Of all errors that validating `document` as a job gives."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(JobRequest).validate_python(BASE | document)
    return {
        pointer_into(BASE | document, error["loc"], missing=error["type"] == "missing")
        for error in caught.value.errors()
    }


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"batch_size": 0}, {"/batch_size"}),
        ({"cut": {"drop_last": 1, "foo": 2}}, {"/cut/foo"}),
        ({"cut": {"layer": ""}}, {"/cut/layer"}),
        ({"cut": {"fraction": 2, "more": 1}}, {"/cut/fraction", "/cut/more"}),
        ({"cut": {"drop_last": 1, "layer": "a"}}, {"/cut"}),
        ({"head": {"layers": [{"type": "dense"}]}}, {"/head/layers/0/units"}),
        ({"head": {"layers": [{"type": "dense", "units": 0}]}}, {"/head/layers/0/units"}),
        ({"head": {"layers": [{"type": "dropout", "rate": 0.1, "seed": 1}]}}, {"/head/layers/0/seed"}),
        ({"head": {"layers": [{"type": "lstm"}]}}, {"/head/layers/0"}),
        ({"schedule": [{"epochs": 1, "unfreeze": "some"}]}, {"/schedule/0/unfreeze"}),
        ({"schedule": [{"epochs": 1, "unfreeze": {"last": 0}}]}, {"/schedule/0/unfreeze/last"}),
        ({"schedule": [{"epochs": 1, "optimizer": {"type": "sgd", "learning_rate": -1}}]},
         {"/schedule/0/optimizer/learning_rate"}),
        ({"schedule": [{"epochs": 1, "optimizer": {"type": "sgd"}}]}, {"/schedule/0/optimizer/learning_rate"}),
        ({"schedule": [{"unfreeze": "none"}]}, {"/schedule/0/epochs"}),
        ({"metadata": {"k" * 65: "v"}}, {f"/metadata/{'k' * 65}"}),
        ({"metadata": {"k": 1}}, {"/metadata/k"}),
        ({"preprocessing": {"image_size": [8, "x"]}}, {"/preprocessing/image_size/1"}),
        ({"nonsense": 1}, {"/nonsense"}),
    ],
)  # fmt: skip
def test_a_pointer_leads_to_the_wrong_field_without_the_names_of_union_members(
    document: dict[str, object], expected: set[str]
) -> None:
    assert pointers(document) == expected


def test_a_missing_field_is_pointed_at_where_it_should_be() -> None:
    assert pointer_into({"training_file": "ds-1"}, ("model",), missing=True) == "/model"


def test_a_location_that_fits_nowhere_points_at_the_whole_document() -> None:
    assert pointer_into("not an object", ("model",)) == ""


def test_slashes_and_tildes_in_names_are_escaped_as_rfc_6901_says() -> None:
    assert as_pointer(["a/b", "c~d", 0]) == "/a~1b/c~0d/0"
