"""What may be asked to happen to training pictures, and where it is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.domain.augmentation import Color, Crop, Flip, Mixup, Rotation, Translation, Zoom
from app.domain.dataset import DatasetInfo
from app.domain.errors import UserError
from app.domain.fitting import check_augmentation
from app.domain.spec import Spec, resolve


def wishes(*wanted: dict[str, Any]) -> list[Any]:
    return Spec.model_validate({"augmentation": list(wanted)}).augmentation


def data(*shape: int | None, dtype: str = "uint8") -> DatasetInfo:
    return DatasetInfo(
        kind="arrays",
        task="binary",
        example_shape=list(shape),
        dtype=dtype,
        value_range=(0, 255),
        classes=["a", "b"],
        splits={},
        digest="-",
    )


def test_nothing_is_changed_unless_somebody_asks_for_it() -> None:
    assert Spec().augmentation == []


def test_every_kind_has_a_default_strength_but_colour_which_must_say_what_it_means() -> None:
    kinds = ("flip", "crop", "zoom", "translation", "rotation", "mixup")
    chosen = wishes(*({"type": kind} for kind in kinds))
    assert [type(wish) for wish in chosen] == [Flip, Crop, Zoom, Translation, Rotation, Mixup]
    assert wishes({"type": "color", "hue": 0.05}) == [Color(type="color", hue=0.05)]
    with pytest.raises(ValidationError, match="at least one of brightness"):
        wishes({"type": "color"})


@pytest.mark.parametrize(
    "wish",
    [
        {"type": "blur"},
        {"type": "flip", "mode": "diagonal"},
        {"type": "rotation", "degrees": 0},
        {"type": "rotation", "degrees": 181},
        {"type": "crop", "scale": 1},
        {"type": "mixup", "alpha": 0.05},
        {"type": "zoom", "factor": 1},
        {"type": "color", "brightness": float("nan")},
        {"degrees": 10},
    ],
)
def test_what_is_unknown_or_out_of_range_is_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        wishes(wish)


def test_mixup_comes_last_and_once() -> None:
    mixup, flip = {"type": "mixup"}, {"type": "flip"}
    assert len(wishes(flip, mixup)) == 2
    for order in ([mixup, flip], [mixup, mixup]):
        with pytest.raises(ValidationError, match="mixup must be the last of the list"):
            wishes(*order)


def test_a_resolved_spec_keeps_it_through_json() -> None:
    spec = resolve(Spec.model_validate({"augmentation": [{"type": "rotation", "degrees": 10}]}), seed=1)
    assert type(spec).model_validate_json(spec.model_dump_json()) == spec
    assert spec.augmentation == [Rotation(type="rotation", degrees=10)]


@pytest.mark.parametrize("shape", [(6,), (30, 6), (4, 8, 8, 3)])
def test_examples_that_are_no_pictures_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="is for pictures") as caught:
        check_augmentation(wishes({"type": "flip"}), shape, data(*shape))
    assert (caught.value.work_code, caught.value.param) == ("no_pictures", "augmentation")
    check_augmentation([], shape, data(*shape))


def test_saturation_and_hue_need_three_channels() -> None:
    colors = wishes({"type": "flip"}, {"type": "color", "hue": 0.1})
    with pytest.raises(UserError, match="3 channels; the dataset's examples have 1") as caught:
        check_augmentation(colors, (28, 28, 1), data(28, 28))
    assert (caught.value.work_code, caught.value.param) == ("no_colors", "augmentation.1")
    check_augmentation(colors, (28, 28, 3), data(28, 28))
    check_augmentation(wishes({"type": "color", "contrast": 0.1}), (28, 28, 1), data(28, 28))
