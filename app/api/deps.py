"""What routes ask for: services, the caller's project, a page, an id. One readable list.

They wait for nothing and are `async` all the same: FastAPI sends plain functions to a thread each, and these
take less time than the way there.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Path, Query, Security
from fastapi.dependencies.models import Dependant
from pydantic import AfterValidator
from starlette.requests import Request

from app.api.creation import Creation, IdempotencyKey
from app.api.guard import bearer
from app.api.streams import Streams
from app.domain.errors import FieldProblem, InvalidRequestError, NotFoundError
from app.domain.job import MAX_METADATA
from app.domain.pointers import as_pointer
from app.services.context import Services
from app.services.keys import Principal
from app.storage.paging import PageQuery

METADATA_FILTER: Final = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)
ESCAPED_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
NUL_REFUSED: Final = "The request holds a NUL character, which no text here may have. Send it without."
SANE_ID: Final = re.compile(r"[A-Za-z0-9._\-]{1,100}")


async def current_services(request: Request) -> Services:
    """The services that the lifespan built."""
    services: Services = request.app.state.services
    return services


async def current_project(request: Request) -> str:
    """The project of the key that the request came with; `app.api.guard` checked it."""
    principal: Principal = request.state.principal
    return principal.project


async def current_streams(request: Request) -> Streams:
    """The event streams of this process."""
    streams: Streams = request.app.state.streams
    return streams


async def current_creation(request: Request, idempotency_key: IdempotencyKey = None) -> Creation:
    """A request that creates something."""
    return Creation(request, idempotency_key)


ServicesDep = Annotated[Services, Depends(current_services)]
ProjectDep = Annotated[str, Depends(current_project)]
StreamsDep = Annotated[Streams, Depends(current_streams)]
CreationDep = Annotated[Creation, Depends(current_creation)]


# === Ids ===


def _known_kind(noun: str) -> Callable[[str], str]:
    def check(identifier: str) -> str:
        # Ids are letters, digits and hyphens; whatever else somebody sends names nothing, and
        # PostgreSQL would refuse some of it (NUL) with an error of its own.
        if not SANE_ID.fullmatch(identifier):
            message = f"There is no {noun} with this id. Ids are letters, digits and hyphens, up to 100."
            raise NotFoundError(message)
        return identifier

    return check


FileId = Annotated[
    str, Path(description="The file's id.", examples=["file-01jd…"]), AfterValidator(_known_kind("file"))
]
UploadId = Annotated[
    str, Path(description="The upload's id.", examples=["upload-01jd…"]), AfterValidator(_known_kind("upload"))
]
PartId = Annotated[
    str, Path(description="The part's id.", examples=["part-01jd…"]), AfterValidator(_known_kind("part"))
]
ModelId = Annotated[
    str, Path(description="The model's id.", examples=["model-01jd…"]), AfterValidator(_known_kind("model"))
]
DatasetId = Annotated[
    str, Path(description="The dataset's id.", examples=["ds-01jd…"]), AfterValidator(_known_kind("dataset"))
]
JobId = Annotated[str, Path(description="The job's id.", examples=["ftjob-01jd…"]), AfterValidator(_known_kind("job"))]
ArtifactName = Annotated[
    str, Path(description="The artifact's name.", examples=["model.keras"]), AfterValidator(_known_kind("artifact"))
]


# === Lists ===


async def page_query(
    after: Annotated[
        str | None,
        Query(
            pattern=r"^[A-Za-z0-9._\-]{1,100}$",
            description="Go on behind this item: its id, or `last_id` of the page before.",
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="At most so many items.")] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="By time of creation; `desc`: newest first.")] = "desc",
) -> PageQuery:
    """Where in a list to go on, and how far."""
    return PageQuery(after=after, limit=limit, order=order)


PageDep = Annotated[PageQuery, Depends(page_query)]


async def metadata_filter(request: Request) -> dict[str, str]:
    """`?metadata[team]=shoes` as `{"team": "shoes"}`. More of them than a job can have would find none, slowly."""
    found = {METADATA_FILTER.fullmatch(name): value for name, value in request.query_params.items()}
    wanted = {match[1]: value for match, value in found.items() if match}
    if len(wanted) > MAX_METADATA:
        message = f"A job has at most {MAX_METADATA} pairs of metadata; received filters by {len(wanted)}. Send fewer."
        problem = FieldProblem(pointer="/metadata", code="too_many", message=message)
        raise InvalidRequestError(message, problems=[problem])
    return wanted


MetadataFilter = Annotated[dict[str, str], Depends(metadata_filter)]


# === Checks of every request ===


async def only_known_parameters(request: Request) -> None:
    """Refuse query parameters that the route does not have: a mistyped filter would silently match everything."""
    dependant = request.scope["route"].dependant
    known = set(_query_names(dependant))
    takes_metadata = _asks_for(dependant, metadata_filter)
    unknown = [
        name
        for name in request.query_params
        if name not in known and not (takes_metadata and METADATA_FILTER.fullmatch(name))
    ]
    if unknown:
        raise _unknown_parameters(unknown, sorted(known | ({"metadata[key]"} if takes_metadata else set())))


def _unknown_parameters(names: Sequence[str], allowed: list[str]) -> InvalidRequestError:
    problems = [
        FieldProblem(
            pointer=as_pointer([name[:100]]), code="unknown_parameter", message="Not known here", allowed=allowed
        )
        for name in names[:20]
    ]
    return InvalidRequestError(
        f"Unknown query parameter {names[0][:100]!r}. Allowed here: {', '.join(allowed) or 'none'}.", problems=problems
    )


async def query_without_nul(request: Request) -> None:
    """Refuse NUL characters in the query: PostgreSQL takes none, and nobody means them."""
    with_nul = [name for name, value in request.query_params.items() if "\x00" in name + value]
    if with_nul:
        problem = FieldProblem(pointer=as_pointer([with_nul[0][:100]]), code="nul", message=NUL_REFUSED)
        raise InvalidRequestError(NUL_REFUSED, problems=[problem])


async def body_without_nul(request: Request) -> None:
    """Refuse NUL characters in JSON, for the same reason."""
    if ESCAPED_NUL.search(await request.body()):
        raise InvalidRequestError(NUL_REFUSED)


def thaw_router(prefix: str, *, tag: str, json: bool = True) -> APIRouter:
    """A router under `/v1` with the checks of every request; `json`: its bodies, if it takes any, are JSON."""
    checks = [query_without_nul, only_known_parameters, *([body_without_nul] if json else [])]
    return APIRouter(prefix=prefix, tags=[tag], dependencies=[*map(Depends, checks), Security(bearer)])


def _query_names(dependant: Dependant) -> Iterable[str]:
    yield from (field.alias for field in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _query_names(inner)


def _asks_for(dependant: Dependant, call: Callable[..., object]) -> bool:
    return dependant.call is call or any(_asks_for(inner, call) for inner in dependant.dependencies)
