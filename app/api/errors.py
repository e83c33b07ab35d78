"""From errors to answers: the one table from error class to HTTP status, and the handlers that use it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Match

from app.api.fields import field_problem
from app.api.problems import ProblemResponse, printable, problem_for
from app.domain import errors
from app.domain.errors import FieldProblem, ThawError

log = structlog.get_logger("thaw.api")

DATABASE_AWAY = (OperationalError, PoolTimeoutError)
RETRY_SECONDS = "5"
MAX_PROBLEMS = 100
"""A body may hold thousands of wrong fields; so many are listed."""


@dataclass(frozen=True)
class Answer:
    """What HTTP makes of a class of errors. `kind` is the `type` of OpenAI's shape."""

    status: int
    title: str
    kind: str = "invalid_request_error"
    headers: Mapping[str, str] | None = None


# OpenAI's clients retry every 409 by themselves; this header, which they obey, spares the useless ones.
_FINAL = {"X-Should-Retry": "false"}

TABLE: dict[type[ThawError], Answer] = {
    ThawError: Answer(500, "Something went wrong in Thaw", "server_error"),
    errors.InvalidRequestError: Answer(422, "The request is wrong"),
    errors.AuthenticationError: Answer(
        401, "No valid API key", "authentication_error", {"WWW-Authenticate": 'Bearer realm="thaw"'}
    ),
    errors.NotFoundError: Answer(404, "There is no such thing", "not_found_error"),
    errors.ConflictError: Answer(409, "Not possible in this state", "conflict_error", _FINAL),
    errors.IdempotencyInFlightError: Answer(409, "The first request is still being answered", "conflict_error"),
    errors.IdempotencyMismatchError: Answer(422, "This Idempotency-Key belongs to another request"),
    errors.TooLargeError: Answer(413, "More bytes than the limit"),
    errors.StorageFullError: Answer(507, "No room is left", "server_error", {"Retry-After": RETRY_SECONDS}),
    errors.ServiceUnavailableError: Answer(
        503, "A part of Thaw does not answer", "server_error", {"Retry-After": RETRY_SECONDS}
    ),
    errors.MisconfiguredError: Answer(
        503, "A part of Thaw is not set up", "server_error", {"Retry-After": RETRY_SECONDS}
    ),
    errors.UserError: Answer(422, "The request is wrong"),
}


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem. What nobody expected is caught by `app.api.observe`."""
    app.add_exception_handler(ThawError, _on_thaw_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    for away in DATABASE_AWAY:
        app.add_exception_handler(away, on_database_error)


def answer_for(error: ThawError) -> Answer:
    """The row of the table for the class of `error`, or for its nearest base."""
    return next(TABLE[base] for base in type(error).__mro__ if base in TABLE)


def response_for(request: Request, error: ThawError) -> ProblemResponse:
    """The problem that `error` is to the client."""
    answer = answer_for(error)
    problems = error.problems if isinstance(error, errors.InvalidRequestError) else []
    transition = error if isinstance(error, errors.InvalidStateTransitionError) else None
    problem = problem_for(
        request,
        status=answer.status,
        title=answer.title,
        code=error.work_code if isinstance(error, errors.WorkError) else error.code,
        kind=answer.kind,
        detail=printable(error.message),
        param=error.param or (problems[0].pointer if problems else None),
        errors=problems,
        current_status=transition.status if transition else None,
        allowed_actions=transition.allowed_actions if transition else None,
        needed_by=error.needed_by if isinstance(error, errors.InUseError) else None,
    )
    headers = dict(answer.headers or {})
    if isinstance(error, errors.IdempotencyInFlightError):
        headers["Retry-After"] = str(error.retry_after_seconds)
    return ProblemResponse(problem, headers=headers)


def internal_error(request: Request) -> ProblemResponse:
    """The answer when something happened that nobody expected: nothing of it is told, all of it is logged."""
    detail = (
        "Thaw made a mistake while it answered this request; it is in the service's log under this request_id. "
        "Trying again may help."
    )
    return ProblemResponse(
        problem_for(
            request, status=500, title=TABLE[ThawError].title, code=ThawError.code, kind="server_error", detail=detail
        )
    )


def too_large(request: Request, limit: int) -> ProblemResponse:
    """The answer to a body over the limit, found before it was read."""
    message = f"The body of this request is larger than {limit} bytes, which is the limit here. Send less."
    return response_for(request, errors.TooLargeError(message))


# === Handlers ===


def on_database_error(request: Request, error: Exception) -> ProblemResponse:
    """The answer when the database is away."""
    # The text of such an error holds the statement and its parameters: neither for the client nor for the log.
    log.error("The database did not answer.", request_id=request.state.request_id, error=type(error).__name__)
    message = "The database does not answer at the moment. Try again in a few seconds."
    return response_for(request, errors.ServiceUnavailableError(message))


def _on_thaw_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, ThawError)
    response = response_for(request, error)
    if response.status_code >= 500:
        log.error("Thaw could not do what was asked.", request_id=request.state.request_id, error=error.message)
    return response


def _on_validation_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    details = error.errors()
    if details and details[0]["type"] == "json_invalid":
        return _invalid_json(request, details[0])
    if isinstance(error.body, bytes) and error.body:
        message = (
            "Expected a JSON body with Content-Type: application/json, received "
            f"{request.headers.get('content-type') or 'a body without a Content-Type'}."
        )
        return response_for(request, errors.InvalidRequestError(message, param="Content-Type"))
    problems = [field_problem(detail, error.body) for detail in details[:MAX_PROBLEMS]]
    return response_for(request, errors.InvalidRequestError(_summary(problems, len(details)), problems=problems))


def _on_http_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    path = f"{request.method} {printable(request.url.path)}"
    code, detail = "http_error", str(error.detail)
    if error.status_code == 404:
        code, detail = "route_not_found", f"There is nothing at {path}. /openapi.json lists what there is."
    elif error.status_code == 405:
        headers["Allow"] = ", ".join(_methods_at(request))
        code, detail = "method_not_allowed", f"{path} does not exist. Allowed here: {headers['Allow']}."
    elif error.status_code == 413:
        code = "too_large"
    elif error.status_code == 400:
        code, detail = "invalid_body", "The body could not be read. Expected one JSON value in UTF-8."
    problem = problem_for(request, status=error.status_code, code=code, kind="invalid_request_error", detail=detail)
    return ProblemResponse(problem, headers=headers)


def _methods_at(request: Request) -> list[str]:
    """Every method that some route has at this path (Starlette itself names those of the first route only)."""
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    routes = request.app.router.routes
    return [
        method
        for method in methods
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


# === Wrong fields ===


def _invalid_json(request: Request, detail: Mapping[str, Any]) -> ProblemResponse:
    position = detail["loc"][-1]
    problem = problem_for(
        request,
        status=400,
        title="The body is not JSON",
        code="invalid_json",
        kind="invalid_request_error",
        detail=f"The body is not JSON: {detail['ctx']['error']} at character {position}.",
    )
    return ProblemResponse(problem)


def _summary(problems: list[FieldProblem], count: int) -> str:
    """All problems in one text, for clients that show nothing else."""
    listed = "; ".join(f"{problem.pointer or 'the body'}: {problem.message}" for problem in problems[:5])
    more = f"; and {count - 5} more" if count > 5 else ""
    fields = "1 field is" if count == 1 else f"{count} fields are"
    return f"{fields} wrong: {listed}{more}."
