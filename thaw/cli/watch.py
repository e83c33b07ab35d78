"""Watching a job: a live picture on a terminal, plain lines elsewhere, JSON lines for programs.

    thread         the job's events, over as many connections as it takes  ->  queue
    main thread    queue -> picture; asks for the job itself once a second, for what moves between two events

Ctrl-C reaches the main thread, which only stops watching.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from thaw.cli import jobviews
from thaw.cli.picture import Picture
from thaw.cli.session import Session
from thaw.errors import ConnectionFailedError, ServerError, ThawClientError

if TYPE_CHECKING:
    from rich.console import Console

    from thaw.records import Event, Job

_LOOK_SECONDS = 1.0
"""How often the job itself is asked for: its progress moves inside a long epoch."""


def watch(opened: Session, job_id: str) -> Job:
    """Show what happens until the job has ended; the job as it is then."""
    out = opened.out
    console = out.console()
    if not out.as_json and console.is_terminal:
        _watch_live(opened, job_id, console)
    else:
        for event in opened.client.jobs.events(job_id):
            if out.as_json:
                out.line(event.raw)
            else:
                out.say(jobviews.event_line(event))
    return opened.client.jobs.get(job_id)


def _watch_live(opened: Session, job_id: str, console: Console) -> None:
    from rich.live import Live

    picture = Picture(opened.client.jobs.get(job_id))
    looked_at = time.monotonic()
    with Live(picture, console=console, refresh_per_second=8) as live:
        for event in _heard(opened, job_id):
            if event is not None:
                picture.hear(event)
                if event.level != "info":
                    live.console.print(jobviews.event_line(event), markup=False, highlight=False)
            if event is None or time.monotonic() - looked_at > _LOOK_SECONDS:
                picture.see(_look(opened, job_id))
                looked_at = time.monotonic()
        picture.see(_look(opened, job_id))


def _look(opened: Session, job_id: str) -> Job | None:
    """The job, or `None` while the service is away: it may come back, and the thread knows when to give up."""
    try:
        return opened.client.jobs.get(job_id)
    except (ConnectionFailedError, ServerError):
        return None


def _heard(opened: Session, job_id: str) -> Iterator[Event | None]:
    """The job's events; `None` whenever there was none for a second."""
    heard: queue.SimpleQueue[Event | ThawClientError | None] = queue.SimpleQueue()

    def listen() -> None:
        try:
            for event in opened.client.jobs.events(job_id):
                heard.put(event)
            heard.put(None)
        except ThawClientError as error:
            heard.put(error)

    # A daemon: on Ctrl-C nobody waits for a stream that may be silent for long.
    threading.Thread(target=listen, name=f"events of {job_id}", daemon=True).start()
    while True:
        try:
            found = heard.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            yield None
            continue
        if found is None:
            return
        if isinstance(found, ThawClientError):
            raise found
        yield found
