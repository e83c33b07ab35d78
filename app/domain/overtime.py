"""The failures of jobs that take longer than they may: class `budget`, by their own `max_seconds` or `deadline_at`."""

from app.domain.errors import Failure
from app.domain.job import Checkpoint

OF_ATTEMPTS = Failure(
    error_class="budget",
    code="time_budget_exceeded",
    message="The job has run for longer than `max_seconds` allows, all attempts together, and was ended.",
    param="max_seconds",
)
OF_DEADLINE = Failure(
    error_class="budget",
    code="deadline_exceeded",
    message="The job had not ended by its `deadline_at`, and was ended.",
    param="deadline_at",
)


def named(failure: Failure, newest: Checkpoint | None) -> Failure:
    """The same failure, which names the newest weights that the job has; `None`: there are none."""
    if newest is None:
        advice = "No phase of it had ended, and no weights are kept: retry it with more time."
    else:
        where = "the end of" if newest.within is None else f"step {newest.step}, in"
        advice = (
            f"Its weights from {where} phase '{newest.phase.name}' are kept as '{newest.id}': fork the job from there, "
            "with more time for what is left, or retry it."
        )
    return failure.model_copy(update={"message": f"{failure.message} {advice}"})
