"""What `thaw up` does: hold the data folder, run the service until a signal, say where it is."""

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from app.domain.errors import ThawError
from app.settings import Settings
from app.standalone import folder, programs
from app.standalone.logs import say_on
from app.standalone.service import Service

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_log = logging.getLogger("thaw.up")


def main(*, data_dir: Path | None = None, host: str | None = None, port: int | None = None, quiet: bool = False) -> int:
    """Run the service until a signal; the exit code. `None` leaves a setting as the environment has it.

    0 after Ctrl-C, SIGTERM or SIGHUP (unless `nohup` has that ignored); 1 if it cannot start, with the reason on
    standard error. `quiet` says nothing else anywhere but in the logs. Must be called in the main thread.
    """
    given: dict[str, Any] = {"data_dir": data_dir, "host": host, "port": port}
    try:
        settings = _absolute(Settings.read(**{name: value for name, value in given.items() if value is not None}))
        return _run(settings, quiet=quiet)
    except ThawError as error:
        sys.stderr.write(f"{error.message}\n")
    return 1


def _absolute(settings: Settings) -> Settings:
    return settings.model_copy(update={"data_dir": settings.data_dir.resolve()})


def _run(settings: Settings, *, quiet: bool) -> int:
    for path in (settings.data_dir, settings.run_dir(), settings.data_dir / "logs"):
        folder.make_private(path)
    with folder.held(settings.run_dir()) as unclean:
        end_logs = say_on(settings.data_dir / "logs" / "up.log", quiet=quiet)
        try:
            return _run_alone(settings, unclean=unclean, quiet=quiet)
        finally:
            end_logs()


def _run_alone(settings: Settings, *, unclean: bool, quiet: bool) -> int:
    folder.remove_note(settings.run_dir())
    if unclean:
        for left in folder.stop_leftovers(settings.data_dir):
            _log.warning("ended %s, which an earlier service had left", left)
    with programs.listen(settings.host, settings.port) as listener:
        service = Service(settings, listener, echo=not quiet)
        console = Console(quiet=quiet, soft_wrap=True, highlight=False)
        return asyncio.run(_serve(service, settings, console=console))


async def _serve(service: Service, settings: Settings, *, console: Console) -> int:
    stopping = asyncio.Event()
    _on_signals(service, stopping)
    starting = asyncio.create_task(service.start())
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([starting, waiting], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting  # raises why it could not
            _announce(service, settings, console)
            await waiting
    finally:
        await _cancelled(starting, waiting)
        folder.remove_note(settings.run_dir())
        await service.stop()
        folder.stop_leftovers(settings.data_dir, grace_seconds=0)
    return 0


def _on_signals(service: Service, stopping: asyncio.Event) -> None:
    """The first signal ends the service in order, the second in a hurry, the third at once."""

    def received() -> None:
        if stopping.is_set():
            service.hurry()
        stopping.set()

    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()  # by nohup
    for number in set(_SIGNALS) - ignored:
        asyncio.get_running_loop().add_signal_handler(number, received)


async def _cancelled(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _announce(service: Service, settings: Settings, console: Console) -> None:
    note = folder.ServiceNote(url=service.url, pid=os.getpid(), api_key_file=str(settings.api_key_file()))
    folder.write_note(settings.run_dir(), note)
    console.print(f"Thaw is ready at {service.url} (its documentation: {service.url}/docs)")
    console.print(f"API key file:    {settings.api_key_file()}")
    console.print(f"Data and logs:   {settings.data_dir}")
    if not _is_loopback(settings.host):
        console.print(f"It listens on {settings.host}: other machines reach it, and only the API key protects it.")
    console.print("Ctrl-C stops it.")


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
