"""The failures of jobs that take longer than they may: class `budget`, by their own `max_seconds` or `deadline_at`."""

from app.domain.errors import Failure

_STAYS = "What it had at the ends of its phases stays: fork it from there, or retry it with more time."

OF_ATTEMPTS = Failure(
    error_class="budget",
    code="time_budget_exceeded",
    message=f"The job has run for longer than `max_seconds` allows, all attempts together, and was ended. {_STAYS}",
    param="max_seconds",
)
OF_DEADLINE = Failure(
    error_class="budget",
    code="deadline_exceeded",
    message=f"The job had not ended by its `deadline_at`, and was ended. {_STAYS}",
    param="deadline_at",
)
