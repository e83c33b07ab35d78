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


def named(failure: Failure, newest: Checkpoint | None, *, needs_schedule: bool = False) -> Failure:
    """The same failure, which names the newest weights that the job has, and what can be done; `None`: there are none.

    `needs_schedule`: a fork from there has to say what to train, as nothing was left or it cannot be taken over.
    """
    if newest is None:
        advice = "No phase of it had ended, and no weights are kept: retry it with more time."
    else:
        where = "the end of" if newest.within is None else f"step {newest.step}, in"
        how = "with a `schedule` of what to train" if needs_schedule else "with more time for what is left"
        advice = (
            f"Its weights from {where} phase '{newest.phase.name}' are kept as '{newest.id}': retry the job with more "
            f"time, or fork it from there, {how}."
        )
    return failure.model_copy(update={"message": f"{failure.message} {advice}"})
