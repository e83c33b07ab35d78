from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.cuts import find_layer, kept_rows, one_tensor_wide, resolve_cut, select_unfrozen
from app.domain.errors import CutError, UserError
from app.domain.model import LayerRow
from app.domain.phases import Unfreeze, UnfreezeFraction, UnfreezeFrom, UnfreezeLast, UnfreezeMatch
from app.domain.spec import Cut, CutFraction, CutLayer, DropLast, KeepFirst


def row(index: int, path: str, inputs: Sequence[int] | None, *, parameters: int = 10, legal: bool = True) -> LayerRow:
    return LayerRow(
        index=index,
        path=path,
        class_name="InputLayer" if path == "input" else "Dense",
        output_shape=[None, 4],
        parameters=parameters,
        has_weights=parameters > 0,
        legal_cut=legal,
        illegal_because=None if legal else "it is the input, so nothing would be reused",
        inputs=None if inputs is None else list(inputs),
    )


INPUT = row(0, "input", [], parameters=0, legal=False)
STACK = [INPUT, *(row(index, f"dense_{index}", None) for index in range(1, 6))]
"""A stack of five layers, as rows without `inputs`."""

#   input -> conv1 -> conv2 -> conv3 -> add -> pool -> top
#                 \____________________/
RESIDUAL = [
    INPUT,
    row(1, "conv1", [0]),
    row(2, "conv2", [1]),
    row(3, "conv3", [2]),
    row(4, "add", [1, 3], parameters=0),
    row(5, "pool", [4], parameters=0),
    row(6, "top", [5]),
]

#   a nested model: its layers are opened
NESTED = [
    INPUT,
    row(1, "mobilenet/block_1", [0]),
    row(2, "mobilenet/block_12_add", [1]),
    row(3, "mobilenet/out_relu", [2], parameters=0),
    row(4, "predictions", [3]),
]


# === Cuts ===


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (DropLast(drop_last=0), "dense_5"),
        (DropLast(drop_last=1), "dense_4"),
        (DropLast(drop_last=4), "dense_1"),
        (KeepFirst(keep_first=2), "dense_1"),
        (KeepFirst(keep_first=6), "dense_5"),
        (CutLayer(layer="dense_3"), "dense_3"),
        (CutFraction(fraction=1), "dense_5"),
        (CutFraction(fraction=0.5), "dense_2"),
        (CutFraction(fraction=0.01), "dense_1"),
    ],
)
def test_a_stack_is_cut_at_any_layer_but_its_input(cut: Cut, expected: str) -> None:
    assert resolve_cut(STACK, cut).path == expected


def test_keeping_the_input_alone_is_refused_and_the_nearest_named() -> None:
    with pytest.raises(CutError, match=r"nothing would be reused.*Nearest: keep_first 2 \(up to 'dense_1'\)"):
        resolve_cut(STACK, KeepFirst(keep_first=1))


@pytest.mark.parametrize("cut", [DropLast(drop_last=6), DropLast(drop_last=7), KeepFirst(keep_first=7)])
def test_counting_past_the_end_is_refused_with_the_number_of_layers(cut: Cut) -> None:
    with pytest.raises(CutError, match=r"the source has 6 layers|nothing would be reused"):
        resolve_cut(STACK, cut)


def test_counting_into_a_branch_is_refused_and_both_neighbours_named() -> None:
    with pytest.raises(CutError) as caught:
        resolve_cut(RESIDUAL, DropLast(drop_last=4))
    assert "'conv2', inside a branch" in caught.value.message
    assert "Nearest: drop_last 5 (up to 'conv1'), drop_last 2 (up to 'add')." in caught.value.message
    assert caught.value.param == "cut.drop_last"


def test_naming_a_layer_in_a_branch_keeps_only_what_it_needs() -> None:
    last = resolve_cut(RESIDUAL, CutLayer(layer="conv2"))
    assert [kept.path for kept in kept_rows(RESIDUAL, last)] == ["input", "conv1", "conv2"]


def test_a_fraction_lands_on_the_nearest_place_that_is_one_tensor_wide() -> None:
    assert resolve_cut(RESIDUAL, CutFraction(fraction=3.4 / 7)).path == "conv1"
    assert resolve_cut(RESIDUAL, CutFraction(fraction=3.6 / 7)).path == "add"


def test_a_fraction_between_two_places_keeps_more() -> None:
    assert resolve_cut(RESIDUAL, CutFraction(fraction=3.5 / 7)).path == "add"


def test_an_unknown_layer_is_answered_with_the_nearest_name() -> None:
    layers = [INPUT, row(1, "block4_pool", None), row(2, "block5_pool", None), row(3, "fc1", None)]
    with pytest.raises(CutError) as caught:
        resolve_cut(layers, CutLayer(layer="block5_pol"), model="resnet50")
    assert caught.value.message.startswith("Unknown cut layer 'block5_pol' in 'resnet50'. Nearest: 'block5_pool'")


def test_the_bare_name_of_an_inner_layer_is_answered_with_its_path() -> None:
    with pytest.raises(CutError, match="Nearest: 'mobilenet/block_12_add'"):
        resolve_cut(NESTED, CutLayer(layer="block_12_add"))


def test_the_name_of_a_nested_model_means_its_last_layer() -> None:
    assert resolve_cut(NESTED, CutLayer(layer="mobilenet")).path == "mobilenet/out_relu"
    found = find_layer(NESTED, "mobilenet")
    assert found is not None
    assert found.index == 3


def test_an_illegal_layer_is_refused_with_its_reason() -> None:
    with pytest.raises(CutError, match=r"Layer 'input' is no legal cut: it is the input.*Nearest: 'dense_1'"):
        resolve_cut(STACK, CutLayer(layer="input"))


def test_a_source_without_legal_cuts_refuses_them_all() -> None:
    for cut in (DropLast(drop_last=0), KeepFirst(keep_first=1), CutFraction(fraction=0.5), CutLayer(layer="input")):
        with pytest.raises(CutError):
            resolve_cut([INPUT], cut)


# === One tensor wide ===


def test_a_residual_block_is_one_tensor_wide_only_at_its_ends() -> None:
    assert one_tensor_wide(RESIDUAL) == [True, True, False, False, True, True, True]


def test_a_layer_used_again_keeps_all_between_its_uses_from_being_cut() -> None:
    # dense_1 is fed by the input, and once more by dense_2.
    layers = [INPUT, row(1, "dense_1", [0, 2]), row(2, "dense_2", [1]), row(3, "dense_3", [1])]
    assert one_tensor_wide(layers) == [True, False, False, True]


@st.composite
def graphs(draw: st.DrawFn) -> list[LayerRow]:
    """Random graphs in which every layer is used by a later one."""
    size = draw(st.integers(2, 9))
    inputs = [set[int]()] + [set(draw(st.sets(st.integers(0, i - 1), min_size=1, max_size=3))) for i in range(1, size)]
    for index in range(size - 1):
        if not any(index in later for later in inputs[index + 1 :]):
            inputs[draw(st.integers(index + 1, size - 1))].add(index)
    return [row(i, "input" if i == 0 else f"l{i}", sorted(inputs[i]), legal=i > 0) for i in range(size)]


@given(graphs())
def test_one_tensor_wide_means_that_only_the_last_kept_row_is_used_above(layers: list[LayerRow]) -> None:
    for end, wide in zip(layers, one_tensor_wide(layers), strict=True):
        crossing = {i for above in layers[end.index + 1 :] for i in above.inputs or [] if i <= end.index}
        assert wide == (crossing <= {end.index})


@given(graphs(), st.integers(0, 9))
def test_a_counting_cut_keeps_exactly_the_rows_it_counts(layers: list[LayerRow], dropped: int) -> None:
    try:
        last = resolve_cut(layers, DropLast(drop_last=dropped))
    except CutError as error:
        assert "Nearest" in error.message  # noqa: PT017 (both outcomes are right, each with its claim)
        return
    assert kept_rows(layers, last) == layers[: len(layers) - dropped]


# === Unfreeze ===


@pytest.mark.parametrize(
    ("unfreeze", "expected"),
    [
        ("none", []),
        ("all", ["conv1", "conv2", "conv3", "top"]),
        (UnfreezeLast(last=1), ["top"]),
        (UnfreezeLast(last=99), ["conv1", "conv2", "conv3", "top"]),
        (UnfreezeFrom(from_layer="conv3"), ["conv3", "top"]),
        (UnfreezeFrom(from_layer="add"), ["top"]),
        (UnfreezeMatch(match="^conv[23]$"), ["conv2", "conv3"]),
        (UnfreezeFraction(fraction=0.25), ["top"]),
        (UnfreezeFraction(fraction=0.26), ["conv3", "top"]),
        (UnfreezeFraction(fraction=1), ["conv1", "conv2", "conv3", "top"]),
    ],
)
def test_selections_count_only_layers_with_weights(unfreeze: Unfreeze, expected: list[str]) -> None:
    assert [selected.path for selected in select_unfrozen(RESIDUAL, unfreeze)] == expected


def test_a_fraction_of_ten_layers_is_not_rounded_up_by_binary_dust() -> None:
    layers = [row(index, f"l{index}", None) for index in range(10)]
    assert len(select_unfrozen(layers, UnfreezeFraction(fraction=0.7))) == 7


def test_from_layer_takes_a_nested_model_from_its_first_layer() -> None:
    selected = select_unfrozen(NESTED, UnfreezeFrom(from_layer="mobilenet"))
    assert [chosen.path for chosen in selected] == ["mobilenet/block_1", "mobilenet/block_12_add", "predictions"]


def test_an_unknown_layer_to_unfreeze_from_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"Unknown layer 'conv9'.*Nearest: 'conv") as caught:
        select_unfrozen(RESIDUAL, UnfreezeFrom(from_layer="conv9"))
    assert caught.value.work_code == "unknown_layer"


@pytest.mark.parametrize("unfreeze", [UnfreezeMatch(match="dense"), "all", UnfreezeLast(last=3)])
def test_a_selection_of_nothing_is_refused(unfreeze: Unfreeze) -> None:
    weightless = [INPUT, row(1, "rescaling", None, parameters=0)]
    with pytest.raises(UserError, match="selects no layer") as caught:
        select_unfrozen(weightless, unfreeze)
    assert caught.value.work_code == "nothing_to_unfreeze"


def test_selecting_none_of_a_backbone_without_weights_is_fine() -> None:
    assert select_unfrozen([INPUT], "none") == []


def test_a_pattern_that_could_run_for_ages_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        select_unfrozen([row(0, "a" * 40, None)], UnfreezeMatch(match="(a+)+b"))
    assert caught.value.work_code == "invalid_pattern"
