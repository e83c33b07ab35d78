"""The API process: `create_app(settings)` for servers and tests, `python -m app.main` for everybody else.

    THAW_HOST, THAW_PORT    where it listens; port 0 picks a free one
    --fd N                  takes over a socket that already listens

Once it answers, the one line `Thaw API on http://127.0.0.1:8420` goes to standard output. What it logs goes to
standard error.
"""

import argparse
import asyncio
import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import version
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI
from prometheus_client import Histogram
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware

from app.api import docs, errors, exposition, openapi
from app.api.conditional import ConditionalGet
from app.api.forms import OVERHEAD_BYTES
from app.api.guard import RequireKey, RequireLoopbackName, is_loopback
from app.api.observe import Observe
from app.api.routes import datasets, files, history, jobs, models, service, uploads
from app.api.streams import Streams
from app.domain.errors import MisconfiguredError
from app.logs import configure_logging
from app.services import context, keys
from app.services.context import Services
from app.services.health import Checkup
from app.services.sweeping import sweeping
from app.settings import Settings
from app.storage.database import ensure_schema

log = structlog.get_logger("thaw.api")

SHUTDOWN_SECONDS = 3
"""How long requests may take to end; open streams are told to, and would otherwise hold the process for ever."""
END_SECONDS = 6.0
"""After this the process exits whatever hangs: nothing ends a thread that waits for a database."""
HURRY_SECONDS = 1.0
"""The same after a second signal."""
AGAIN_SECONDS = 1.0
"""A signal this soon after the first is the same stop: systemd signals the API itself, and then `thaw up` does."""
BACKLOG = 2048
LISTEN_HELP = "Set THAW_PORT to another port (0 picks a free one), THAW_HOST to an address of this machine."


class Api(FastAPI):
    """FastAPI with our own OpenAPI document."""

    def openapi(self) -> dict[str, object]:
        """The document at `/openapi.json`."""
        return openapi.document(self)


def create_app(settings: Settings) -> FastAPI:
    """The application. Database, store and queue are built when it starts, and closed when it ends."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = await run_in_threadpool(_start, settings)
        app.state.services = services
        app.state.checkup = Checkup(services)
        app.state.streams = streams = Streams(services)
        try:
            with sweeping(services):
                async with streams.running():
                    yield
        finally:
            await run_in_threadpool(services.db.close)

    times = exposition.request_times()
    app = Api(
        title="Thaw",
        version=version("thaw"),
        description=openapi.DESCRIPTION,
        openapi_tags=openapi.TAGS,
        generate_unique_id_function=openapi.operation_id,
        separate_input_output_schemas=False,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=_middleware(settings, times),
    )
    app.state.request_times = times
    errors.install(app)
    docs.install(app)
    _include_routes(app, settings)
    return app


def _middleware(settings: Settings, times: Histogram) -> list[Middleware]:
    """The outermost first."""
    guards = [Middleware(RequireLoopbackName)] if is_loopback(settings.host) else []
    key = Middleware(RequireKey, metrics_public=settings.metrics_public)
    return [Middleware(Observe, times=times), *guards, key, Middleware(ConditionalGet)]


def _include_routes(app: FastAPI, settings: Settings) -> None:
    app.include_router(service.open_router, max_body_size=0)
    app.include_router(service.metrics_router, max_body_size=0)
    app.include_router(models.catalogue_router, max_body_size=0)
    app.include_router(files.form_router, max_body_size=settings.max_upload_bytes + OVERHEAD_BYTES)
    app.include_router(uploads.part_router, max_body_size=settings.max_part_bytes + OVERHEAD_BYTES)
    for module in (files, uploads, models, datasets, jobs, history, service):
        app.include_router(module.router, max_body_size=settings.max_body_bytes)


def _start(settings: Settings) -> Services:
    services = context.build(settings)
    ensure_schema(services.db)
    keys.ensure_admin_key(services)
    return services


# === The program ===


class Server(uvicorn.Server):
    """Uvicorn that says when it answers, and ends event streams before it waits for them."""

    def __init__(self, config: uvicorn.Config, *, app: FastAPI, url: str) -> None:
        super().__init__(config)
        self._app = app
        self._url = url
        self._asked_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say where."""
        await super().startup(sockets)
        sys.stdout.write(f"Thaw API on {self._url}\n")
        sys.stdout.flush()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, on SIGTERM or SIGINT; wait for nothing any more on a second one, unless it comes at once."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
        elif time.monotonic() - self._asked_at < AGAIN_SECONDS:
            return
        else:
            self.force_exit = True
        streams: Streams | None = getattr(self._app.state, "streams", None)
        if streams is not None:
            streams.stop()
        super().handle_exit(sig, frame)
        # By way of the loop: a thread that is started here might meet one that is just being started.
        seconds = HURRY_SECONDS if self.force_exit else END_SECONDS
        asyncio.get_running_loop().call_soon_threadsafe(_exit_in_time, seconds)


def _exit_in_time(seconds: float) -> None:
    """Leave without ceremony if leaving in order takes too long."""

    def leave() -> None:
        log.error("The API did not stop in time, leaving as it is.", seconds=seconds)
        os._exit(1)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m app.main", description="Serve Thaw's HTTP API.")
    parser.add_argument("--fd", type=int, help="file descriptor of a socket that already listens")
    options = parser.parse_args(arguments)
    configure_logging()
    try:
        settings = Settings.read()
    except MisconfiguredError as error:
        parser.exit(1, f"{error.message}\n")
    try:
        listener = _inherited(options.fd) if options.fd is not None else listen(settings.host, settings.port)
    except OSError as error:
        parser.exit(1, f"Cannot listen on {settings.host}, port {settings.port}: {error.strerror}. {LISTEN_HELP}\n")
    with listener:
        serve(settings, listener)


def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve on a socket that listens already."""
    server_for(create_app(settings), listener).run(sockets=[listener])


def server_for(app: FastAPI, listener: socket.socket) -> Server:
    """Uvicorn for `app`: no access log, as the application keeps its own, and no trust in proxies' headers."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return Server(config, app=app, url=_url(listener))


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0: on any free one."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with contextlib.ExitStack() as on_failure:
        listener = on_failure.enter_context(socket.socket(family, kind, protocol))
        # Connections of a service that just ended do not keep the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        on_failure.pop_all()
        return listener


def _inherited(descriptor: int) -> socket.socket:
    return socket.socket(fileno=descriptor)


def _url(listener: socket.socket) -> str:
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


if __name__ == "__main__":
    main()
