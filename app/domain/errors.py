"""The one tree of errors that Thaw raises on purpose.

    ThawError
    ├── InvalidRequestError        the request is wrong; carries every wrong field at once
    ├── AuthenticationError        no key, or not one of ours
    ├── NotFoundError              no such thing in this project
    ├── ConflictError              the thing exists, but not in a state that allows this
    │   ├── InvalidStateTransitionError
    │   ├── IdempotencyInFlightError
    │   └── InUseError             something that is still needed was to be deleted
    ├── IdempotencyMismatchError   same key, other body
    ├── TooLargeError              more bytes than the limit
    ├── StorageFullError           the disk (or quota) has no room
    ├── ServiceUnavailableError    a part that Thaw needs does not answer
    │   └── MisconfiguredError     it answers, and refuses us
    ├── LeaseLostError             an attempt that is no longer the owner tried to write
    └── WorkError                  the reason why a job, model or dataset failed
        ├── UserError              the file, the data or the specification is at fault
        │   ├── SourceError        a model file that Thaw cannot or must not open
        │   ├── CutError           an illegal cut
        │   └── DataError          a dataset that cannot be used
        ├── PlatformError          Thaw or its machine is at fault
        │   └── ProofError         a frozen variable moved
        └── CapacityError          the machine was too small

Domain errors know no HTTP; `app.api.errors` holds the one table from class to status.
A message says what is wrong, what was expected, what was received and what to do.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

ErrorClass = Literal["user", "platform", "capacity", "budget"]


class FieldProblem(BaseModel):
    """One wrong field of a request."""

    model_config = ConfigDict(frozen=True)

    pointer: str = Field(description="JSON pointer (RFC 6901) to the field.", examples=["/schedule/0/epochs"])
    code: str = Field(description="Stable, for programs.", examples=["greater_than_equal"])
    message: str = Field(description="For people.", examples=["Input should be greater than or equal to 1"])
    allowed: list[str] | None = Field(default=None, description="What would be accepted, where that is a list.")


class Failure(BaseModel):
    """Why a job, model or dataset failed, and whose fault it was."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    error_class: ErrorClass = Field(
        alias="class",
        serialization_alias="class",
        description="`user`: the request or the data; `platform`: Thaw; `capacity`: the machine; `budget`: a limit.",
    )
    code: str = Field(description="Stable, for programs.", examples=["out_of_memory"])
    message: str = Field(description="What is wrong, what was expected, what was received, what to do.")
    param: str | None = Field(default=None, description="The field of the request at fault, if one is.")
    phase: str | None = Field(default=None, description="The phase of the schedule in which it happened.")
    retryable: bool = Field(default=False, description="Whether the same request may succeed later.")


class ThawError(Exception):
    """Base of all errors that Thaw raises on purpose."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequestError(ThawError):
    """The request is wrong. `problems` points at every wrong field at once."""

    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None, problems: Sequence[FieldProblem] = ()) -> None:
        super().__init__(message, param=param)
        self.problems = list(problems)


class AuthenticationError(ThawError):
    """No API key was sent, or not a valid one."""

    code = "invalid_api_key"


class NotFoundError(ThawError):
    """There is no such thing in this project (another project's things do not exist)."""

    code = "not_found"


class ConflictError(ThawError):
    """The thing exists, but not in a state that allows this."""

    code = "conflict"


class InvalidStateTransitionError(ConflictError):
    """A move that the state machine does not have, such as cancelling a finished job."""

    code = "invalid_state_transition"

    def __init__(self, message: str, *, status: str, allowed_actions: Sequence[str]) -> None:
        super().__init__(message)
        self.status = status
        self.allowed_actions = list(allowed_actions)


class IdempotencyInFlightError(ConflictError):
    """The first request with this Idempotency-Key is still being answered. `retry_after_seconds`: when to ask again."""

    code = "idempotency_in_flight"

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class InUseError(ConflictError):
    """Something that is still needed was to be deleted. `needed_by`: the ids of what needs it, jobs first."""

    code = "in_use"

    def __init__(self, message: str, *, needed_by: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.needed_by = list(needed_by)


class IdempotencyMismatchError(ThawError):
    """This Idempotency-Key was used with another body."""

    code = "idempotency_mismatch"


class TooLargeError(ThawError):
    """More bytes than the limit."""

    code = "too_large"


class StorageFullError(ThawError):
    """There is no room left where Thaw keeps its files."""

    code = "storage_full"


class ServiceUnavailableError(ThawError):
    """A part that Thaw needs does not answer; trying again later may help."""

    code = "service_unavailable"


class MisconfiguredError(ServiceUnavailableError):
    """A part that Thaw needs answers, and refuses: a wrong key, a missing bucket. Only who runs Thaw can help."""

    code = "misconfigured"


class LeaseLostError(ThawError):
    """An attempt that no longer holds its lease tried to write. It must stop at once."""

    code = "lease_lost"


class WorkError(ThawError):
    """The reason why a job, model or dataset failed; becomes its stored `Failure`."""

    code = "failed"
    error_class: ClassVar[ErrorClass] = "platform"
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, code: str | None = None, param: str | None = None, phase: str | None = None
    ) -> None:
        super().__init__(message, param=param)
        self.work_code = code or type(self).code
        self.phase = phase

    def failure(self) -> Failure:
        """The value that is stored with the job, model or dataset."""
        return Failure(
            error_class=self.error_class,
            code=self.work_code,
            message=self.message,
            param=self.param,
            phase=self.phase,
            retryable=self.retryable,
        )


class UserError(WorkError):
    """The file, the data or the specification is at fault. Never tried again by itself."""

    code = "user_error"
    error_class = "user"


class SourceError(UserError):
    """A model file that Thaw cannot open, or must not."""

    code = "unusable_source"


class CutError(UserError):
    """An illegal cut. The message names the nearest legal ones."""

    code = "illegal_cut"


class DataError(UserError):
    """A dataset that cannot be used."""

    code = "unusable_dataset"


class PlatformError(WorkError):
    """Thaw or its machine is at fault."""

    code = "platform_error"
    error_class = "platform"
    retryable = True


class ProofError(PlatformError):
    """A variable that was frozen has moved, or the source has changed. The result is not published."""

    code = "freeze_proof_failed"
    retryable = False


class CapacityError(WorkError):
    """The machine was too small: memory ran out."""

    code = "out_of_memory"
    error_class = "capacity"
