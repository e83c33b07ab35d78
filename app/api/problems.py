"""Problems: the one shape of every error answer, `application/problem+json` (RFC 9457).

Beside the members of the RFC stands `error`, the shape that OpenAI's clients read.
"""

from http import HTTPStatus

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from app.domain.errors import FieldProblem

MEDIA_TYPE = "application/problem+json"


class ErrorMember(BaseModel):
    """What OpenAI's clients read of an error."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    message: str
    """For people: what is wrong, what was expected, what was received, what to do."""
    type: str = Field(examples=["invalid_request_error"])
    """Coarse kind: `invalid_request_error`, `authentication_error`, `not_found_error`, `conflict_error`, …"""
    param: str | None
    """The first field at fault, if one is."""
    code: str
    """Stable, for programs."""


class Problem(BaseModel):
    """Every answer that is not a success has this shape."""

    model_config = ConfigDict(use_attribute_docstrings=True, title="Problem")

    type: str = Field(examples=["urn:thaw:problem:invalid_request"])
    """Names the kind of problem; the same for the same `code`."""
    title: str
    """The kind of problem in words; does not change from one occurrence to the next."""
    status: int = Field(examples=[422])
    """The HTTP status."""
    detail: str
    """What is wrong, what was expected, what was received, what to do."""
    instance: str | None = None
    """The path that was asked for."""
    code: str = Field(examples=["invalid_request"])
    """Stable, for programs."""
    request_id: str
    """Stands in the log beside everything that this request did."""
    errors: list[FieldProblem] = Field(default_factory=list)
    """Every wrong field at once."""
    current_status: str | None = None
    """For `invalid_state_transition`: the status that the thing has."""
    allowed_actions: list[str] | None = None
    """For `invalid_state_transition`: what may be asked of it instead."""
    needed_by: list[str] | None = None
    """For `in_use`: the ids of what needs it, jobs first, at most 20."""
    error: ErrorMember
    """The same for OpenAI's clients."""


class ProblemResponse(Response):
    """A problem as an answer; members that do not apply are left out."""

    media_type = MEDIA_TYPE

    def __init__(self, problem: Problem, headers: dict[str, str] | None = None) -> None:
        optional = ("instance", "current_status", "allowed_actions", "needed_by")
        unset = {name for name in optional if getattr(problem, name) is None}
        body = problem.model_dump_json(exclude=unset).encode()
        super().__init__(body, status_code=problem.status, headers=headers)


def problem_for(
    request: Request,
    *,
    status: int,
    code: str,
    kind: str,
    detail: str,
    title: str | None = None,
    param: str | None = None,
    errors: list[FieldProblem] | None = None,
    current_status: str | None = None,
    allowed_actions: list[str] | None = None,
    needed_by: list[str] | None = None,
) -> Problem:
    """A problem with what the request itself knows: its id and its path. `kind` is the `type` of OpenAI's shape."""
    return Problem(
        type=f"urn:thaw:problem:{code}",
        title=title or HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=printable(request.url.path),
        code=code,
        request_id=request.state.request_id,
        errors=errors or [],
        current_status=current_status,
        allowed_actions=allowed_actions,
        needed_by=needed_by,
        error=ErrorMember(message=detail, type=kind, param=param, code=code),
    )


def printable(text: str) -> str:
    """Text that can be encoded as UTF-8: clients may send lone surrogates, which JSON allows and UTF-8 does not."""
    return text.encode("utf-8", "replace").decode("utf-8")
