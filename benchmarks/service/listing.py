"""Listing jobs: pages of 20 from the ends and the middle of a short list and a long one, with and without filters."""

from collections.abc import Callable
from functools import partial
from urllib.parse import urlencode

from connection import Connection
from figures import Call, Line, in_turns, times
from histories import History, histories
from rows import RARE_MODEL, RARE_TEAM, job_id
from sites import Bench
from things import STATUSES, TEAMS

JOBS = "/v1/fine_tuning/jobs"
BAR = 1.5
MIXTURE = len(STATUSES)

Query = Callable[[History], dict[str, str]]


def measure(bench: Bench) -> list[Line]:
    """Each query on both; the first page of both against the bare route with its bytes, too."""
    short, long = histories(bench)
    connections = {"short": short.api.connect(), "long": long.api.connect(), "bare": bench.bare.connect()}
    servers = {"short": short.api, "long": long.api, "bare": bench.bare}
    lines = []
    for what, query in QUERIES.items():
        calls: dict[str, Call] = {}
        for name, history in (("short", short), ("long", long)):
            request = connections[name].request("GET", f"{JOBS}?{urlencode(query(history))}")
            calls[name] = partial(connections[name].ask, request)
        page = _same_page(connections, short, long, query)
        connections["bare"].put("/payloads/page", page)
        calls["bare"] = partial(connections["bare"].ask, connections["bare"].request("GET", "/payloads/page"))
        taken = in_turns(calls, turns=max(10, bench.sizes.turns // 5), workers=servers)
        few, many = (f"{each.copies.count:,} jobs" for each in (short, long))
        if not lines:
            for name, listed in (("short", few), ("long", many)):
                lines.append(times(f"{what}, {listed}", taken[name], against="bare route", other=taken["bare"]))
        lines.append(times(f"{what}, {many}", taken["long"], against=few, other=taken["short"], bar=BAR))
    for connection in connections.values():
        connection.close()
    return lines


def _same_page(connections: dict[str, Connection], short: History, long: History, query: Query) -> bytes:
    """The long one's page. It must be as long as the short one's, or the figures would not compare."""
    bodies = [
        connections[name].get(f"{JOBS}?{urlencode(query(history))}")
        for name, history in (("short", short), ("long", long))
    ]
    lengths = [len(each.json()["data"]) for each in bodies]
    if lengths != [20, 20]:
        message = f"Expected pages of 20 jobs for {query(long)}, received {lengths}."
        raise ValueError(message)
    return bodies[1].body


# === Queries ===


def _middle(history: History) -> int:
    """The job in the middle, at the same place of the mixture in both lists."""
    return history.copies.count // 2 // MIXTURE * MIXTURE


def _since_the_middle(history: History) -> dict[str, str]:
    return {"created_after": repr(history.copies.created_at(_middle(history))), "order": "asc"}


QUERIES: dict[str, Query] = {
    "first page": lambda _: {},
    "page in the middle": lambda history: {"after": job_id(_middle(history))},
    "status": lambda _: {"status": "failed"},
    "status, in the middle": lambda history: {"status": "failed", "after": job_id(_middle(history))},
    "model": lambda history: {"model": history.model, "after": job_id(_middle(history))},
    "rare model": lambda _: {"model": RARE_MODEL},
    "metadata": lambda history: {"metadata[team]": TEAMS[0], "after": job_id(_middle(history))},
    "rare metadata": lambda _: {"metadata[team]": RARE_TEAM},
    "created_after": _since_the_middle,
    "model and status": lambda history: {"model": history.model, "status": "failed"},
}
