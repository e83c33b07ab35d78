"""One run, from the start of the service to the verdict."""

import itertools
import json
import math
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from traceback import format_exception
from typing import Any

from tests.chaos import acts, checker, clients, disorder, kinds
from tests.chaos.clients import Accepted, Client, Errand, History
from tests.chaos.evidence import Evidence
from tests.chaos.production import Production
from tests.chaos.stacks import Embedded, Stack

STACKS = ("embedded", "production")
WINDOW = 4
"""Jobs that are open at once."""
_START_SECONDS = 600.0
"""A machine may be busy with other things."""
_JOB_SECONDS = 3600.0
"""A job that has not ended by then is lost; on a busy machine it waits long for a worker that lives long enough."""


@dataclass(frozen=True)
class Options:
    """What to do."""

    folder: Path
    stack: str = "embedded"
    jobs: int = 100
    kills: int = 200
    seed: int = 7
    kinds: int = len(kinds.KINDS)
    pace_seconds: float = 3.0
    """How long it takes on average from one act of disorder to the next."""
    replay: Path | None = None
    """A log of disorder, to be done again."""
    namespaces: bool = False
    """Of production: each worker in a network namespace of its own."""


def stack_of(
    name: str, folder: Path, *, namespaces: bool = False, environment: Mapping[str, str] | None = None
) -> Stack:
    """The service that is to be disturbed, not started yet."""
    if name == "production":
        return Production(folder, environment or {}, in_namespaces=namespaces)
    return Embedded(folder, environment or {})


@dataclass
class Site:
    """A service with a model and a dataset that are ready, and jobs that ran before the disorder."""

    stack: Stack
    history: History
    client: Client
    model: str
    """First the file's id, then the model's that it became."""
    dataset: str
    references: dict[str, str] = field(default_factory=dict)
    """By kind, the id of a job that nobody disturbed."""

    def create(self, errand: Errand, key: str, client: Client) -> Accepted:
        """A job on this model and dataset."""
        return client.create(errand, key=key, model=self.model, training_file=self.dataset)


@contextmanager
def open_site(stack: Stack, folder: Path, names: list[str]) -> Iterator[Site]:
    """Start the service, register source and data, run one job of each kind; afterwards kill everything."""
    stack.folder.mkdir(parents=True)
    history = History(folder / "history.jsonl")
    client = Client(stack.urls, stack.api_key, history, random.Random(0))  # noqa: S311 (no secret)
    try:
        making = kinds.make_inputs(stack.folder)
        stack.start()
        assert making.wait(_START_SECONDS) == 0, "the files of the jobs were not made; see above why"
        model, dataset = (client.upload(stack.folder / name) for name in ("source.keras", "digits.npz"))
        site = Site(stack, history, client, model, dataset)
        for name in names:
            _run_undisturbed(site, name)
        history.accepted.clear()
        yield site
    finally:
        client.close()
        stack.stop()


def _run_undisturbed(site: Site, name: str) -> None:
    errand = Errand(number=-1, kind=name, wish="finish", after_seconds=0, rest_seconds=0)
    job = site.create(errand, f"undisturbed-{len(site.references)}", site.client)
    ended = site.client.wait(job, lambda _: False, seconds=_JOB_SECONDS)
    assert ended["status"] == "succeeded", (ended["error"], site.stack.logs()[-5000:])
    site.model, site.dataset = ended["model_id"], ended["dataset_id"]
    site.references[name] = job.id


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    summary: dict[str, Any]
    """For people; a run with `violations` has failed."""
    evidence: Evidence
    accepted: list[Accepted]
    references: dict[str, str]


def chaos(options: Options) -> Outcome:
    """All of it."""
    started = time.monotonic()
    names = list(kinds.KINDS)[: options.kinds]
    stack = stack_of(options.stack, options.folder / "service", namespaces=options.namespaces)
    with open_site(stack, options.folder, names) as site:
        ready = time.monotonic()
        disturbance, failures = disturb(site, names, options)
        verdict = checker.check(stack.evidence(), site.history.accepted, site.references)
    verdict.violations += failures
    (verdict.remarks if options.replay else verdict.violations).extend(
        fewer_kills(disturbance.done["kill"].total(), options)
    )
    summary = {
        **{name: value for name, value in asdict(options).items() if isinstance(value, int | float | str)},
        "accepted": len(site.history.accepted),
        "done": disturbance.summary(),
        **verdict.summary(),
        "seconds": {"ready": round(ready - started), "all": round(time.monotonic() - started)},
    }
    return Outcome(summary, stack.evidence(), site.history.accepted, site.references)


def fewer_kills(killed: int, options: Options) -> list[str]:
    """What the run does not show, as its acts found fewer victims than it was to kill; a log has only so many acts."""
    acted = acts.read_log(options.replay) if options.replay else None
    wanted = options.kills if acted is None else min(options.kills, sum(act.action == "kill" for act in acted))
    return [f"only {killed} of {wanted} kills found somebody"] if killed < wanted else []


def disturb(site: Site, names: list[str], options: Options) -> tuple[disorder.Disorder, list[str]]:
    """Let clients work while everything is disturbed; what went wrong with the run itself, in words."""
    rng = random.Random(options.seed)  # noqa: S311 (it is to be repeatable)
    errands = clients.draw(rng, jobs=options.jobs, names=names)
    drawn = (
        iter(acts.read_log(options.replay))
        if options.replay
        else acts.draw(rng, site.stack.exposed(), pace_seconds=options.pace_seconds)
    )
    log = options.folder / "disorder.jsonl"
    disturbance = disorder.Disorder(site.stack, site.stack.evidence(), drawn, options.kills, log)
    crowd = _Crowd(site, errands, disturbance)
    disturbance.start()
    crowd.run()
    disturbance.join()
    site.stack.wait_until_ready()
    errors = [*crowd.errors, disturbance.error]
    failures = ["the run itself failed: " + "".join(format_exception(error)) for error in errors if error]
    return disturbance, failures


@dataclass
class _Crowd:
    """Clients in threads: each takes an errand, sees it through and takes the next."""

    site: Site
    errands: list[Errand]
    disturbance: disorder.Disorder
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._next = itertools.count()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Until all errands are done."""
        threads = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(WINDOW)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, number: int) -> None:
        rng = random.Random(number)  # noqa: S311 (which address it asks)
        with closing(Client(self.site.stack.urls, self.site.stack.api_key, self.site.history, rng)) as client:
            while (errand := self._take()) is not None:
                try:
                    self._do(errand, client)
                except Exception as error:  # noqa: BLE001 (the edge of the thread: the run reports it)
                    self.errors.append(error)

    def _do(self, errand: Errand, client: Client) -> None:
        job = self.site.create(errand, f"chaos-{errand.number}", client)
        client.see_through(job, seconds=_JOB_SECONDS)

    def _take(self) -> Errand | None:
        """The next errand, once as large a part of the killing is done as of the errands."""
        with self._lock:
            index = next(self._next)
        if index >= len(self.errands):
            return None
        while not self.disturbance.over.is_set() and index > self._released():
            time.sleep(0.1)
        return self.errands[index]

    def _released(self) -> int:
        return WINDOW + math.floor(max(0, len(self.errands) - WINDOW) * self.disturbance.part)


def end_in_order() -> None:
    """From now on, SIGTERM first unmounts disks and deletes namespaces; another one does not keep it from that."""
    signal.signal(signal.SIGTERM, _leave)


def _leave(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """As JSON."""
    path.write_text(json.dumps(summary, indent=2) + "\n")
