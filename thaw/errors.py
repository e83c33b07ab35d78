"""The one tree of errors that the client raises on purpose.

    ThawClientError
    ├── ServiceNotFoundError     no URL was given and none was found on this machine
    ├── ConnectionFailedError    nobody answers there, or the connection broke too often
    ├── ApiError                 the service said no: status, code, message, problems, request_id
    │   ├── InvalidRequestError  400, 422: `problems` names every wrong field
    │   ├── AuthenticationError  401, 403: no key, or not a valid one
    │   ├── NotFoundError        404
    │   ├── ConflictError        409: not in this state; `allowed_actions` says what is possible
    │   ├── TooLargeError        413
    │   ├── RateLimitedError     429, after all retries
    │   └── ServerError          5xx, after all retries
    ├── UnexpectedAnswerError    something answers there, but not as Thaw does
    ├── DownloadError            the bytes that came are not the ones that were promised
    ├── WaitTimeoutError         waiting took longer than was asked for
    └── WorkFailedError          a model or dataset was refused, or a job has no result

`str(error)` is meant for people: what is wrong, and every wrong field with what is allowed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class ThawClientError(Exception):
    """Base of all errors that the client raises on purpose."""


class ServiceNotFoundError(ThawClientError):
    """No URL was given, and no service was found on this machine."""


class ConnectionFailedError(ThawClientError):
    """Nobody answers at the service's URL, or the connection broke more often than is tried again.

    `reached` tells whether a connection had been made: if not, the request cannot have had any effect.
    """

    def __init__(self, message: str, *, reached: bool) -> None:
        super().__init__(message)
        self.reached = reached


@dataclass(frozen=True)
class FieldProblem:
    """One wrong field of a request."""

    pointer: str
    """JSON pointer (RFC 6901), such as `/schedule/0/epochs`; empty for the whole body."""
    code: str
    message: str
    allowed: Sequence[str] | None = None
    """What would be accepted, where that is a list."""

    def __str__(self) -> str:
        told = all(value in self.message for value in self.allowed or ())
        allowed = "" if told else f" (allowed: {', '.join(self.allowed or ())})"
        return f"{self.pointer or '(body)'}: {self.message}{allowed}"


class ApiError(ThawClientError):
    """The service answered with an error (problem+json, RFC 9457)."""

    def __init__(  # noqa: D417 (the attributes are described together)
        self,
        message: str,
        *,
        status: int,
        code: str = "unknown",
        param: str | None = None,
        problems: Sequence[FieldProblem] = (),
        request_id: str | None = None,
        allowed_actions: Sequence[str] = (),
        retry_after: float | None = None,
    ) -> None:
        """Keep what the answer said.

        Args:
            message: What is wrong, for people, without the fields.
            status: HTTP status.
            code: Stable, for programs, such as `invalid_state_transition`.
            request_id: What to look for in the service's log.
            retry_after: Seconds that the service asked to wait for.
        """
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.problems = tuple(problems)
        self.request_id = request_id
        self.allowed_actions = tuple(allowed_actions)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return "\n".join([self._headline(), *(f"  {problem}" for problem in self.problems)])

    def _headline(self) -> str:
        """The message, unless it says no more than the lines below it."""
        if not self.problems or not all(problem.message in self.message for problem in self.problems):
            return self.message
        count = len(self.problems)
        return "1 field is wrong:" if count == 1 else f"{count} fields are wrong:"


class InvalidRequestError(ApiError):
    """The request is wrong; `problems` points at every wrong field at once."""


class AuthenticationError(ApiError):
    """No API key was sent, or not a valid one."""


class NotFoundError(ApiError):
    """There is no such thing (or it belongs to somebody else)."""


class ConflictError(ApiError):
    """The thing exists, but not in a state that allows this."""


class TooLargeError(ApiError):
    """More bytes than the service accepts."""


class RateLimitedError(ApiError):
    """Too many requests, even after waiting and trying again."""


class ServerError(ApiError):
    """The service failed, even after trying again."""


class UnexpectedAnswerError(ThawClientError):
    """Something answered, but not as Thaw does: another service, a proxy's page, a much older version."""


class DownloadError(ThawClientError):
    """The bytes that came are not the ones that were promised; nothing was left at the destination."""


class WaitTimeoutError(ThawClientError):
    """Waiting took longer than was asked for. What was waited for goes on."""


class WorkFailedError(ThawClientError):
    """A model or dataset was refused, or a job has no result; `code` and `error_class` say why and whose fault."""

    def __init__(
        self, message: str, *, identifier: str, code: str | None = None, error_class: str | None = None
    ) -> None:
        super().__init__(message)
        self.identifier = identifier
        self.code = code
        self.error_class = error_class


_BY_STATUS: Mapping[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    422: InvalidRequestError,
    429: RateLimitedError,
}


def from_problem(status: int, problem: Mapping[str, object], *, retry_after: float | None = None) -> ApiError:
    """The error that a problem+json body describes; members that are missing or of another type are passed over."""
    nested = problem.get("error")
    openai: Mapping[str, object] = nested if isinstance(nested, Mapping) else {}
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else ApiError)
    return kind(
        _text(problem, "detail") or _text(openai, "message") or _text(problem, "title") or f"HTTP status {status}",
        status=status,
        code=_text(problem, "code") or _text(openai, "code") or "unknown",
        param=_text(openai, "param"),
        problems=[_problem(entry) for entry in _entries(problem, "errors") if isinstance(entry, Mapping)],
        request_id=_text(problem, "request_id"),
        allowed_actions=[str(action) for action in _entries(problem, "allowed_actions")],
        retry_after=retry_after,
    )


def _problem(entry: Mapping[str, object]) -> FieldProblem:
    allowed = [str(value) for value in _entries(entry, "allowed")]
    return FieldProblem(
        pointer=_text(entry, "pointer") or "",
        code=_text(entry, "code") or "invalid",
        message=_text(entry, "message") or "is not valid",
        allowed=allowed or None,
    )


def _text(source: Mapping[str, object], key: str) -> str | None:
    value = source.get(key)
    return value if isinstance(value, str) and value else None


def _entries(source: Mapping[str, object], key: str) -> Sequence[object]:
    value = source.get(key)
    return value if isinstance(value, list) else []
