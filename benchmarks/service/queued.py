"""A long line of queued jobs, of several API keys and priorities, against one of 10."""

import dataclasses
from collections.abc import Callable
from functools import partial

import rows
import things
from figures import Call, Line, in_turns, times
from servers import Server
from sites import Bench, Site

from app.services import claims
from app.services.claims import JobClaim
from app.services.sweep import sweep

JOBS = "/v1/fine_tuning/jobs"
SHORT = 10
ORIGINALS = 4
NUMBERS = (1, 5_000, 100_000)
"""Jobs of the long line that are asked for: counting the place of one far behind costs most."""


@dataclasses.dataclass(frozen=True)
class _Queue:
    """A service on which so many jobs wait."""

    site: Site
    api: Server
    copies: int
    body: dict[str, object]


Doing = tuple[Call, Callable[[object], object]]
"""What is timed, and what undoes it."""


def measure(bench: Bench) -> list[Line]:
    """What people, workers and sweepers do with it."""
    short, long = _queue(bench, "few_queued", SHORT), _queue(bench, "many_queued", bench.sizes.queued)
    turns, against = bench.sizes.turns // 5, f"{SHORT} queued"

    def compared(what: str, doing: Callable[[_Queue], Doing], *, against: str = against, turns: int = turns) -> Line:
        done = {"short": doing(short), "long": doing(long)}
        calls, undo = ({name: each[place] for name, each in done.items()} for place in (0, 1))
        taken = in_turns(calls, turns=turns, undo=undo)
        return times(what, taken["long"], against=against, other=taken["short"])

    lines = _retrieved(short, long, turns=turns, against=against)
    lines += [
        compared("claim a job", _claiming),
        compared("a sweeper's round, nothing due", partial(_sweeping, ring_again_seconds=86_400.0)),
        # What a round has rung is due again at once.
        compared("a sweeper's round, 100 due", partial(_sweeping, ring_again_seconds=1e-6), against="10 due", turns=20),
        compared("create a job", _creating),
    ]
    memory = [{"": each.api.peak_bytes / 2**20} for each in (long, short)]
    return [*lines, Line("memory of the API", "MiB", memory[0], against, memory[1])]


def _queue(bench: Bench, name: str, count: int) -> _Queue:
    site = bench.site(name)
    model, data = things.model(site.services, "mobilenet"), things.dataset(site.services)
    for number in range(ORIGINALS):
        things.submit(site.services, model, data, number)
    rows.fill(site, count - ORIGINALS, vary=rows.line)
    return _Queue(site, bench.serve(site), count - ORIGINALS, things.body(model, data))


def _retrieved(short: _Queue, long: _Queue, *, turns: int, against: str) -> list[Line]:
    """Queued jobs with their place in the line."""
    lines = []
    with short.api.connect() as few, long.api.connect() as many:
        last_of_few = partial(few.get, f"{JOBS}/{rows.job_id(short.copies)}")
        for number in NUMBERS:
            one_of_many = partial(many.get, f"{JOBS}/{rows.job_id(min(number, long.copies))}")
            place = one_of_many().json()["progress"]["queue_position"]
            servers = {"short": short.api, "long": long.api}
            taken = in_turns({"short": last_of_few, "long": one_of_many}, turns=turns, workers=servers)
            name = f"retrieve a job, its place {place or 'not told'}"
            lines.append(times(name, taken["long"], against=against, other=taken["short"]))
    return lines


def _claiming(queue: _Queue) -> Doing:
    def release(claim: object) -> None:
        assert isinstance(claim, JobClaim)
        claims.release(queue.site.services, claim, charge_attempt=False)

    return partial(claims.claim_next, queue.site.services, rows.job_id(1), worker=things.WORKER), release


def _sweeping(queue: _Queue, *, ring_again_seconds: float) -> Doing:
    services = queue.site.services
    settings = services.settings.model_copy(update={"ring_again_seconds": ring_again_seconds})
    return partial(sweep, dataclasses.replace(services, settings=settings)), lambda _: None


def _creating(queue: _Queue) -> Doing:
    connection = queue.api.connect()
    request = connection.request("POST", JOBS, body=queue.body)
    return partial(connection.ask, request, status=201), lambda _: None
