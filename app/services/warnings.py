"""Warnings of a plan: what is allowed and probably not meant. Nothing is fixed silently."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from app.domain.boundary import BATCH_NORM
from app.domain.dataset import DatasetInfo
from app.domain.fitting import choose_rescale
from app.domain.model import SourceInfo
from app.domain.phases import Phase
from app.domain.plan import NOTHING_STILL, PhasePlan
from app.domain.spec import ResolvedSpec

MANY_WEIGHTS_PER_EXAMPLE = 1000
"""Of the backbone, unfrozen. The textbook's 0.27 million weights on 200 images are at this border."""
FEW_EXAMPLES_PER_CLASS = 20
FEW_TEST_EXAMPLES = 100
"""Here the 95 % interval of an accuracy of 0.9 is about 12 points wide (Wilson)."""
FEW_VALIDATION_EXAMPLES = 50
"""Below this the validation loss moves by chance more than by an epoch of training."""
SMALL_BATCH = 16
"""Below this the mean and variance of a batch are mostly chance (Wu and He, 2018)."""
FEW_STEPS = 10
"""A phase of fewer optimizer steps ends before its optimizer has found its pace."""


def told(spec: ResolvedSpec, phases: Sequence[PhasePlan], source: SourceInfo, data: DatasetInfo) -> list[str]:
    """All warnings, in sentences."""
    return [
        *_rates(spec.schedule, phases),
        *_backbone(spec, phases),
        *_batch_norm(spec, phases),
        *_cache(spec, phases),
        *_epochs(spec, phases, data),
        *_examples(spec, phases, data),
        *_preprocessing(spec, source, data),
    ]


def _rates(schedule: Sequence[Phase], phases: Sequence[PhasePlan]) -> Iterator[str]:
    for (phase_before, before), (phase, after) in pairwise(zip(schedule, phases, strict=True)):
        more = len(set(after.unfrozen_layers) - set(before.unfrozen_layers))
        comparable = phase_before.optimizer.type == phase.optimizer.type
        if more and comparable and after.learning_rate >= before.learning_rate:
            yield (
                f"Phase '{after.name}' unfreezes {more} more layers, but its learning rate {after.learning_rate:g} is "
                f"not below the {before.learning_rate:g} of '{before.name}': what the source has learned may be "
                "lost. A tenth or a hundredth is usual."
            )


def _backbone(spec: ResolvedSpec, phases: Sequence[PhasePlan]) -> Iterator[str]:
    for phase in phases:
        if spec.backbone_weights == "random" and phase.frozen_layers:
            yield (
                f"backbone_weights is 'random', and phase '{phase.name}' keeps {phase.frozen_layers} layers frozen: "
                "the layers above would learn from random features. Unfreeze all layers in every phase."
            )


def _batch_norm(spec: ResolvedSpec, phases: Sequence[PhasePlan]) -> Iterator[str]:
    if spec.batch_size >= SMALL_BATCH:
        return
    for phase in phases:
        norms = [layer for layer in phase.layers if layer.class_name == BATCH_NORM and layer.state == "trains"]
        if norms:
            yield (
                f"Phase '{phase.name}' trains {len(norms)} BatchNormalization {_plural('layer', len(norms))} on "
                f"batches of {spec.batch_size}: so few examples say little about mean and variance. Use batches of "
                f"{SMALL_BATCH} or more, or layer_normalization in the head."
            )


def _cache(spec: ResolvedSpec, phases: Sequence[PhasePlan]) -> Iterator[str]:
    for phase in phases:
        if spec.cache == "require" and not phase.cache.applies and phase.cache.because != NOTHING_STILL:
            yield (
                f"The job requires cached features and would fail in phase '{phase.name}', which cannot have them: "
                f"{phase.cache.because}. Set cache to 'auto'."
            )


def _epochs(spec: ResolvedSpec, phases: Sequence[PhasePlan], data: DatasetInfo) -> Iterator[str]:
    """Phases too short to do anything, and early stopping that cannot do its work."""
    short = [phase for phase in phases if phase.steps < FEW_STEPS]
    if short:
        named = ", ".join(f"'{phase.name}' ({phase.steps})" for phase in short[:5])
        more = f" and {len(short) - 5} more" if len(short) > 5 else ""
        yield (
            f"{_plural('Phase', len(short))} {named}{more}: so few optimizer steps change little. "
            f"Give each phase more epochs, use smaller batches, or fewer phases."
        )
    for phase in spec.schedule:
        stopping = phase.early_stopping
        if stopping and stopping.patience >= phase.epochs:
            yield (
                f"Early stopping in phase '{phase.name}' never stops it: it waits for {stopping.patience} epochs "
                f"without improvement, and the phase has {phase.epochs}. Lower its patience, or allow more epochs."
            )
    validation = data.splits["validation"].examples
    if validation < FEW_VALIDATION_EXAMPLES and any(phase.early_stopping for phase in spec.schedule):
        yield (
            f"Early stopping watches the loss on {validation} validation examples: so few that it will stop by chance. "
            "Hold back more when the dataset is made (validation_fraction), or leave it out."
        )


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _examples(spec: ResolvedSpec, phases: Sequence[PhasePlan], data: DatasetInfo) -> Iterator[str]:
    train = data.splits["train"]
    if spec.batch_size > train.examples:
        yield (
            f"batch_size {spec.batch_size} is larger than the training split of {train.examples}: "
            "each epoch is one step."
        )
    for phase in phases:
        weights = phase.trainable_backbone_parameters
        if weights > MANY_WEIGHTS_PER_EXAMPLE * train.examples:
            yield (
                f"Phase '{phase.name}' trains {weights:,} weights of the backbone on {train.examples:,} examples: it "
                "will soon know them by heart. Unfreeze fewer layers, or stop early."
            )
    for name, count in (train.class_counts or {}).items():
        if count < FEW_EXAMPLES_PER_CLASS:
            yield f"Class '{name}' has only {count} training examples; {FEW_EXAMPLES_PER_CLASS} or more are advisable."
    if data.splits["test"].examples < FEW_TEST_EXAMPLES:
        yield (
            f"The test split has {data.splits['test'].examples} examples: the accuracy that the job reports will be "
            "very uncertain, as its interval will show."
        )
    if data.duplicates_across_splits:
        yield (
            f"{data.duplicates_across_splits} examples stand in more than one split: "
            "what the job reports will be too good."
        )


def _preprocessing(spec: ResolvedSpec, source: SourceInfo, data: DatasetInfo) -> Iterator[str]:
    if data.inputs:
        return  # each input has values and a scale of its own
    wanted = spec.preprocessing.rescale
    if wanted and source.rescale and wanted != source.rescale:
        yield (
            f"preprocessing.rescale is '{wanted}', but the source was trained with '{source.rescale}': it would see "
            "values that it does not know. Leave it out to use the source's own."
        )
    rescale = choose_rescale(spec.preprocessing, source, data)
    low, high = data.value_range or (0.0, 0.0)
    if rescale != "none" and low >= -1 and high <= 1:
        yield (
            f"The examples lie in [{low:g}, {high:g}] already, and '{rescale}' divides them by 255 or so. "
            "Set preprocessing.rescale to 'none'."
        )
    if rescale == "zero_to_one" and wanted is None and source.rescale is None:
        yield (
            "Nobody has said how the source wants its inputs, so 8-bit values are scaled to [0, 1]. If it was "
            "trained otherwise, say so in preprocessing.rescale."
        )
