"""Models with several inputs: what each of them takes, and which array of a dataset it gets.

Every input is looked at by itself, as if it were the only one: a view of the source, of the dataset, and of the wishes
for preprocessing. `rescale` is for inputs of pictures, examples of two or three axes, and `image_size` for inputs that
take pictures; vectors are taken as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.domain.dataset import ArrayInput, DatasetInfo
from app.domain.errors import DataError, UserError
from app.domain.model import LayerRow, ModelInput, SourceInfo
from app.domain.spec import Preprocessing

_PICTURE_RANKS = (2, 3)
_TAKES_PICTURES = 4
"""Axes of an input of pictures, batch axis included."""


@dataclass(frozen=True)
class InputView:
    """One input with what it gets."""

    name: str
    wanted: Preprocessing
    source: SourceInfo
    data: DatasetInfo


def used_inputs(backbone: Sequence[LayerRow]) -> list[str]:
    """Names of the inputs that a backbone needs, by its rows, in the model's order."""
    return [row.path for row in backbone if row.class_name == "InputLayer"]


def views(wanted: Preprocessing, source: SourceInfo, data: DatasetInfo, *, used: Sequence[str]) -> list[InputView]:
    """A view of each input that is used. DataError where the dataset has no array for one of them."""
    inputs = [each for each in source.inputs if each.name in used]
    if not data.inputs:
        if len(inputs) > 1:
            raise _no_names(inputs, data)
        only = inputs[0] if inputs and len(source.inputs) > 1 else None
        return [InputView(only.name if only else "", wanted, _narrowed(source, only) if only else source, data)]
    arrays = {each.name: each for each in data.inputs}
    if not inputs or len(source.inputs) == 1 or any(each.name not in arrays for each in inputs):
        raise _other_names(inputs, data)
    if wanted.image_size and not any(_takes_pictures(each) for each in inputs):
        message = "image_size is for pictures; no input of the source takes any. Leave it out."
        raise UserError(message, param="preprocessing.image_size")
    return [_view(wanted, source, data, each, arrays[each.name]) for each in inputs]


def _view(
    wanted: Preprocessing, source: SourceInfo, data: DatasetInfo, model_input: ModelInput, array: ArrayInput
) -> InputView:
    pictures = len(array.example_shape) in _PICTURE_RANKS
    wishes = Preprocessing(
        rescale=wanted.rescale if pictures else "none",
        image_size=wanted.image_size if _takes_pictures(model_input) else None,
    )
    its = {"example_shape": array.example_shape, "dtype": array.dtype, "value_range": array.value_range, "inputs": []}
    return InputView(model_input.name, wishes, _narrowed(source, model_input), data.model_copy(update=its))


def _narrowed(source: SourceInfo, model_input: ModelInput) -> SourceInfo:
    its = {"input_shape": model_input.shape, "input_dtype": model_input.dtype, "inputs": [model_input]}
    return source.model_copy(update=its)


def _takes_pictures(model_input: ModelInput) -> bool:
    return len(model_input.shape) == _TAKES_PICTURES


def _no_names(inputs: Sequence[ModelInput], data: DatasetInfo) -> DataError:
    example = ", ".join(f"x__{each.name}" for each in inputs)
    message = (
        f"The source takes {len(inputs)} inputs, {_listed(inputs)}; the dataset has one array of examples, of the "
        f"shape {tuple(data.example_shape)}. Save one array for each input in an npz file: {example} and y."
    )
    return DataError(message)


def _other_names(inputs: Sequence[ModelInput], data: DatasetInfo) -> DataError:
    arrays = ", ".join(f"'{each.name}'" for each in data.inputs)
    if len(inputs) > 1:
        message = (
            f"The source takes the inputs {_listed(inputs)}; the dataset has arrays for {arrays}. Name them alike."
        )
    else:
        message = f"The source takes one input; the dataset has arrays for {arrays}. Save one array, named x."
    return DataError(message)


def _listed(inputs: Sequence[ModelInput]) -> str:
    return ", ".join(f"'{each.name}' {each.shape[1:]}".replace("None", "any") for each in inputs)
