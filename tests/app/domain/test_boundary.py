"""Where frozen meets trained, on tables whose boundary can be seen by eye."""

from collections.abc import Sequence

import pytest

from app.domain import boundary
from app.domain.boundary import Boundary
from app.domain.model import LayerRow


def row(index: int, class_name: str = "Dense", *, inputs: Sequence[int] | None = None, **values: object) -> LayerRow:
    weighted = class_name in {"Dense", "BatchNormalization"}
    common: dict[str, object] = {
        "index": index,
        "path": f"layer_{index}",
        "class_name": class_name,
        "output_shape": [None, 4],
        "parameters": 16 if weighted else 0,
        "has_weights": weighted,
        "legal_cut": True,
        "inputs": None if inputs is None else list(inputs),
    }
    return LayerRow.model_validate({**common, **values})


def stack(*classes: str) -> list[LayerRow]:
    return [row(0, "InputLayer"), *(row(index, name) for index, name in enumerate(classes, start=1))]


def found(rows: Sequence[LayerRow], moving: set[int], *, end: int = -1) -> Boundary:
    """With a head of one layer on the row at `end`."""
    head = row(len(rows), inputs=[rows[end].index])
    return boundary.find(rows, [head], moving=moving)


def named(rows: Sequence[LayerRow], moving: set[int], *, end: int = -1) -> list[int]:
    return [each.index for each in found(rows, moving, end=end).rows]


def test_a_backbone_of_which_nothing_trains_is_still_up_to_its_end() -> None:
    rows = stack("Dense", "Dropout", "BatchNormalization", "Dense")
    assert named(rows, set()) == [4]
    assert found(rows, set()).still == {0, 1, 2, 3, 4}


def test_the_row_below_the_lowest_one_that_trains_is_the_boundary() -> None:
    rows = stack("Dense", "Dense", "Dense", "Dense")
    assert named(rows, {3, 4}) == [2]
    assert found(rows, {3}).still == {0, 1, 2}


def test_dropout_is_never_still_once_anything_trains() -> None:
    rows = stack("Dense", "Dropout", "Dense", "Dense")
    assert named(rows, {4}) == [1]


@pytest.mark.parametrize("name", ["SpatialDropout2D", "GaussianNoise", "RandomFlip", "RandomRotation", "AlphaDropout"])
def test_what_draws_at_random_is_told_by_its_class(name: str) -> None:
    assert named(stack("Dense", name, "Dense"), {3}) == [1]


def test_a_table_that_says_whether_a_row_is_stochastic_is_believed() -> None:
    rows = stack("Dense", "Dense", "Dense")
    rows[2] = row(2, "LSTM", stochastic=True)
    assert named(rows, {3}) == [1]
    rows[2] = row(2, "Dropout", stochastic=False)
    assert named(rows, {3}) == [2]


def test_frozen_batch_norm_is_still() -> None:
    assert named(stack("Dense", "BatchNormalization", "Dense"), {3}) == [2]


def test_held_batch_norm_above_a_layer_that_trains_is_not_still() -> None:
    assert named(stack("Dense", "Dense", "BatchNormalization", "Dense"), {2}) == [1]


def test_branches_that_cross_give_several_rows() -> None:
    rows = [
        row(0, "InputLayer"),
        row(1, inputs=[0]),
        row(2, inputs=[1]),
        row(3, inputs=[1]),
        row(4, "Add", inputs=[2, 3]),
        row(5, inputs=[4]),
    ]
    assert named(rows, {3, 5}) == [1, 2]
    assert named(rows, {5}) == [4]
    assert named(rows, {2, 3}) == [1]


def test_a_skip_from_the_input_is_part_of_the_boundary() -> None:
    rows = [row(0, "InputLayer"), row(1, inputs=[0]), row(2, inputs=[1]), row(3, "Add", inputs=[0, 2])]
    assert named(rows, {2}) == [0, 1]
    assert found(rows, {2}).has_weights


def test_where_only_the_input_is_still_there_is_nothing_to_cache() -> None:
    rows = stack("Dense", "Dense")
    assert named(rows, {1, 2}) == [0]
    assert not found(rows, {1, 2}).has_weights
    assert not found(stack("Rescaling", "Dense"), {2}).has_weights, "scaling is not worth a cache"


def test_a_layer_that_is_used_again_above_what_trains_is_not_still() -> None:
    shared = row(1, inputs=[0, 2])
    rows = [row(0, "InputLayer"), shared, row(2, inputs=[1]), row(3, "Add", inputs=[1])]
    assert named(rows, {2}) == [0]


def test_the_end_need_not_be_the_last_row_of_the_table() -> None:
    rows = [row(0, "InputLayer"), row(1, inputs=[0, 2]), row(2, inputs=[0])]
    assert named(rows, set(), end=1) == [1]


def test_the_bottom_of_the_head_is_still_until_something_in_it_trains_or_draws() -> None:
    backbone = stack("Dense")
    head = [row(2, "GlobalAveragePooling2D", inputs=[1]), row(3, "Dropout"), row(4)]
    assert [each.index for each in boundary.find(backbone, head, moving=set()).rows] == [2]
    head[1] = row(3, "Dropout", stochastic=False)
    assert [each.index for each in boundary.find(backbone, head, moving=set()).rows] == [3]
    assert [each.index for each in boundary.find(backbone, head, moving={1}).rows] == [0]


def test_gradients_pass_what_trains_and_everything_above() -> None:
    rows = [row(0, "InputLayer"), row(1, inputs=[0]), row(2, inputs=[0]), row(3, "Add", inputs=[1, 2])]
    assert boundary.reached(rows, moving={2}) == {2, 3}
    assert boundary.reached(rows, moving=set()) == frozenset()


def test_statistics_of_normalizations_do_not_train() -> None:
    assert boundary.trainable_parameters(row(1, "BatchNormalization")) == 8
    assert boundary.trainable_parameters(row(1, "BatchNormalization", trainable_parameters=4)) == 4
    assert boundary.trainable_parameters(row(1, "Normalization", parameters=9)) == 0
    assert boundary.trainable_parameters(row(1)) == 16
