"""The optimizer of a phase, whose rates follow it."""

import keras

from app.domain import learning_rates
from worker.engine.optimizers import build_optimizer
from worker.engine.run import Run


def optimizer_of(run: Run, index: int) -> keras.optimizers.Optimizer:
    """A new one for the phase with this index, from 1; not built yet."""
    phase, selection = run.spec.schedule[index - 1], run.selections[index - 1]
    segments = learning_rates.segments(
        phase.learning_rate_schedule,
        learning_rate=phase.optimizer.learning_rate,
        epochs=phase.epochs,
        steps_per_epoch=run.steps_per_epoch(run.batch_size * phase.gradient_accumulation),
    )
    return build_optimizer(
        phase.optimizer, rates=segments, factors=selection.rate_factors(), scale_losses=run.scale_losses
    )
