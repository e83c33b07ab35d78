"""What labels count in training: class weights and label smoothing, and which tasks have them."""

from collections.abc import Mapping

from app.domain.cuts import nearest_names
from app.domain.dataset import DatasetInfo
from app.domain.errors import UserError
from app.domain.spec import Spec


def class_weights(spec: Spec, data: DatasetInfo) -> dict[str, float] | None:
    """The weight of each class, in the order of the labels; `None` where all count the same.

    `balanced` is examples / (classes x examples of the class), over the training split, as in scikit-learn. Raises
    `UserError` for weights that this dataset cannot have.
    """
    if spec.class_weights is None:
        return None
    classes, counts = data.classes, data.splits["train"].class_counts
    if classes is None or counts is None or data.task == "multi_label":
        message = (
            f"class_weights weigh examples by their one class, and the task is '{data.task}': an example has "
            f"{'several' if classes else 'none'}. Leave class_weights out."
        )
        raise UserError(message, code="not_for_this_task", param="class_weights")
    if spec.class_weights == "balanced":
        examples = sum(counts.values())
        return {name: examples / (len(classes) * counts[name]) for name in classes}
    return _given(spec.class_weights, classes)


def check_smoothing(spec: Spec, data: DatasetInfo) -> None:
    """Raise `UserError` where there are no classes to spread a label over."""
    if spec.label_smoothing and data.task == "regression":
        message = "label_smoothing spreads labels over classes, and the task is 'regression'. Leave it out."
        raise UserError(message, code="not_for_this_task", param="label_smoothing")


def _given(weights: Mapping[str, float], classes: list[str]) -> dict[str, float]:
    for name in weights:
        if name not in classes:
            nearest = ", ".join(f"'{known}'" for known in nearest_names(name, classes) or classes[:10])
            message = f"class_weights names '{name}', which is no class of this dataset. Nearest: {nearest}."
            raise UserError(message, code="unknown_class", param="class_weights")
    found = {name: weights.get(name, 1.0) for name in classes}
    if not any(found.values()):
        message = "All class_weights are 0, so nothing would be learned. Give at least one class a weight above 0."
        raise UserError(message, code="no_weight", param="class_weights")
    return found
