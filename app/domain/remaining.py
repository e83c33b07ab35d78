"""What a job had left to train behind a checkpoint, in phases for the checkpoint's own model.

    the job    backbone │ hidden layers of the head  output layer
    its fork   backbone    the same, counted now   │ output layer

The same layers train in the same way, or the fork is refused. The output layer alone is always the fork's head; what
the phases say of the backbone concerns the hidden layers, too: whether they train, at which rate, whether
BatchNormalization is held and dropout is on.
"""

from collections.abc import Sequence

from app.domain import kept
from app.domain.boundary import is_batch_norm, is_stochastic
from app.domain.cuts import select_unfrozen
from app.domain.errors import UserError
from app.domain.head import Head, HeadBatchNormalization, HeadDense, HeadDropout, HeadLayerNormalization
from app.domain.job import Checkpoint
from app.domain.model import LayerRow
from app.domain.phases import Phase, UnfreezeLast, shortened
from app.domain.spec import ResolvedSpec


def phases(spec: ResolvedSpec, checkpoint: Checkpoint, source: Sequence[LayerRow] | None) -> list[Phase]:
    """The epochs that the checkpoint's phase still had, and the phases after it.

    `source`: the layers of the model that the job started from; `None`: it was deleted. Raises `UserError` if nothing
    is left, or if it cannot be said in phases.
    """
    left = [*_rest(spec, checkpoint), *spec.schedule[checkpoint.phase.index :]]
    if not left:
        message = f"'{checkpoint.phase.name}' was the last phase of this job. Say in `schedule` what to train after it."
        raise UserError(message, code="nothing_left", param="schedule")
    _check_first(left[0])
    if not isinstance(spec.head, Head) or not (_hidden(spec.head) or _drops(spec.head)):
        return left
    if source is None:
        because = "which layers are unfrozen is not known, as the model that the job started from was deleted"
        raise _unsayable(left[0], because)
    backbone = kept.backbone(source, spec)
    return [_on_checkpoint(phase, spec.head, backbone) for phase in left]


def _rest(spec: ResolvedSpec, checkpoint: Checkpoint) -> list[Phase]:
    """The epochs that the phase of a checkpoint from within it still had; one that was interrupted begins anew.

    Whatever weights the phase was to start from, those of the checkpoint come from them.
    """
    if checkpoint.within is None:
        return []
    phase, done = spec.schedule[checkpoint.phase.index - 1], checkpoint.phase.epoch - (0 if checkpoint.metrics else 1)
    if done >= phase.epochs:
        return []
    return [shortened(phase, phase.epochs - done).model_copy(update={"start_from": "last"})]


def _check_first(phase: Phase) -> None:
    wishes = (("optimizer_state", "carry"), ("start_from", "best"))
    needs = [name for name, value in wishes if getattr(phase, name) == value]
    if needs:
        message = (
            f"Phase '{phase.name}' takes over more than weights ({', '.join(needs)}), and the checkpoint holds "
            "nothing else. Give the phases in `schedule`."
        )
        raise UserError(message, code="no_phase_before", param="schedule")


# === What was the head ===


def _hidden(head: Head) -> int:
    """How many layers with weights it has below the output layer."""
    return sum(isinstance(layer, HeadDense | HeadBatchNormalization | HeadLayerNormalization) for layer in head.layers)


def _drops(head: Head) -> bool:
    return any(isinstance(layer, HeadDropout) and layer.rate > 0 for layer in head.layers)


def _normalizes(head: Head) -> bool:
    return any(isinstance(layer, HeadBatchNormalization) for layer in head.layers)


def _on_checkpoint(phase: Phase, head: Head, backbone: Sequence[LayerRow]) -> Phase:
    """The phase with the same layers training, of a backbone that has the head's hidden layers on top."""
    unfrozen = select_unfrozen(backbone, phase.unfreeze)
    because = _among_unfrozen(phase, head, backbone, unfrozen) if unfrozen else _on_frozen(head, backbone)
    if because is not None:
        raise _unsayable(phase, because)
    if not _hidden(head):
        return phase
    changes: dict[str, object] = {}
    if phase.unfreeze != "all":
        changes["unfreeze"] = UnfreezeLast(last=len(unfrozen) + _hidden(head))
    if not unfrozen:
        changes["layer_decay"] = None  # it was for the backbone's layers, of which none trained
    if _normalizes(head):
        changes["batch_norm"] = "train"  # as the head's always does
    return phase.model_copy(update=changes)


def _on_frozen(head: Head, backbone: Sequence[LayerRow]) -> str | None:
    """Why the head cannot go on training on a frozen backbone, which rests; one of which some trains does not."""
    noisy = next((row.path for row in backbone if is_stochastic(row)), None)
    if not _hidden(head):
        return "nothing of that backbone would train, and then the head's dropout would be off, which was on"
    if noisy is not None:
        return f"'{noisy}' of the source was to be off while only the head trains, and would be on"
    return None


def _among_unfrozen(phase: Phase, head: Head, backbone: Sequence[LayerRow], unfrozen: Sequence[LayerRow]) -> str | None:
    """Why the head's hidden layers cannot go on training beside these layers of the backbone."""
    if not _hidden(head):
        return None
    if phase.layer_decay not in (None, 1.0):
        return f"layer_decay {phase.layer_decay:g} would slow these layers down, and those below them once more"
    norm = next((row.path for row in unfrozen if is_batch_norm(row)), None)
    if norm is not None and phase.batch_norm == "frozen" and _normalizes(head):
        return f"BatchNormalization of the head was to train and '{norm}' of the source to be held still"
    weighted = [row for row in backbone if row.has_weights]
    if list(unfrozen) != weighted[-len(unfrozen) :]:
        return "the unfrozen layers of the source are not its topmost ones"
    return None


def _unsayable(phase: Phase, because: str) -> UserError:
    message = (
        "What was left of this job cannot be taken over as it was: in the checkpoint's model, the head's layers but "
        f"the output layer belong to the backbone. In phase '{phase.name}', {because}. Give the phases in `schedule`."
    )
    return UserError(message, code="head_in_backbone", param="schedule")
