"""The service itself: what it can do, whether it lives, whether it is ready."""

from dataclasses import asdict
from importlib.metadata import version
from typing import get_args

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from app.api import exposition
from app.api.deps import ServicesDep, thaw_router
from app.api.schemas.service import Capabilities, Health, Limits, PartObject, Readiness, WorkerObject
from app.api.vocabulary import HEAD_LAYERS, OPTIMIZERS
from app.domain.dataset import DatasetKind
from app.domain.head import MAX_HEAD_LAYERS
from app.domain.phases import MAX_EPOCHS
from app.domain.spec import MAX_PHASES, Task
from app.services import tallies, workers
from app.services.health import Checkup
from app.settings import Settings

router = thaw_router("/v1", tag="service")
open_router = APIRouter(tags=["service"])
"""Needs no key: load balancers and supervisors ask here."""

metrics_router = thaw_router("", tag="service")

MAX_PAGE_SIZE = 100


@router.get("/capabilities")
def retrieve_capabilities(services: ServicesDep) -> Capabilities:
    """Say what this installation can do, and who would do the work."""
    return Capabilities(
        version=version("thaw"),
        kinds=list(get_args(DatasetKind)),
        tasks=list(get_args(Task)),
        optimizers=OPTIMIZERS,
        head_layers=HEAD_LAYERS,
        limits=_limits(services.settings),
        workers=[WorkerObject(**info.model_dump()) for info in workers.live(services)],
    )


def _limits(settings: Settings) -> Limits:
    own = {"max_upload_bytes", "max_part_bytes", "max_body_bytes", "max_model_parameters", "max_unpacked_bytes"}
    return Limits(
        **{name: getattr(settings, name) for name in own},
        max_phases=MAX_PHASES,
        max_head_layers=MAX_HEAD_LAYERS,
        max_epochs=MAX_EPOCHS,
        max_page_size=MAX_PAGE_SIZE,
    )


@open_router.get("/healthz")
async def check_process() -> Health:  # without a thread: all of them may wait for the store
    """Say that this process answers."""
    return Health()


@open_router.get("/readyz", responses={503: {"model": Readiness, "description": "Not ready."}})
def check_readiness(request: Request, response: Response) -> Readiness:
    """Say whether the parts that requests need answer, and of every part how it is."""
    checkup: Checkup = request.app.state.checkup
    parts = [PartObject(**asdict(part)) for part in checkup.parts()]
    ready = all(part.ok for part in parts if part.needed)
    if not ready:
        response.status_code = 503
    return Readiness(status="ready" if ready else "unavailable", parts=parts)


@metrics_router.get("/metrics", response_class=PlainTextResponse)
def scrape_metrics(services: ServicesDep, request: Request) -> Response:
    """Give Prometheus the state of the service in numbers, over all projects, and this process' answers."""
    page = exposition.exposed(tallies.take(services), request.app.state.request_times)
    return Response(page, media_type=CONTENT_TYPE_PLAIN_0_0_4)
