"""One run, from the start of the service to the verdict."""

import itertools
import json
import math
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from traceback import format_exception
from typing import Any

from tests.chaos import checker, clients, disorder, kinds
from tests.chaos.clients import Accepted, Client, Errand, History
from tests.chaos.evidence import Evidence
from tests.chaos.stacks import STACKS, Stack

WINDOW = 4
"""Jobs that are open at once."""
_JOB_SECONDS = 900.0
"""A job that has not ended by then is lost."""


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


@dataclass
class Site:
    """A service with a model and a dataset that are ready, and jobs that ran before the disorder."""

    stack: Stack
    client: Client
    model: str
    dataset: str
    references: dict[str, str] = field(default_factory=dict)
    """By kind, the id of a job that nobody disturbed."""


def open_site(stack: Stack, history: History, names: list[str]) -> Site:
    """Start the service, register source and data, and run one job of each kind."""
    making = kinds.make_inputs(stack.folder)
    stack.start()
    assert making.wait(120) == 0, making.stderr and making.stderr.read()
    client = Client(stack.urls, stack.api_key, history, random.Random(0))  # noqa: S311 (no secret)
    files = {
        "model": client.upload(stack.folder / "source.keras"),
        "training_file": client.upload(stack.folder / "digits.npz"),
    }
    site = Site(stack, client, model=files["model"], dataset=files["training_file"])
    for name in names:
        errand = Errand(number=-1, kind=name, wish="finish", after_seconds=0, rest_seconds=0)
        job = client.create(
            errand, key=f"undisturbed {name}".replace(" ", "-"), model=site.model, training_file=site.dataset
        )
        ended = client.wait(job, lambda _: False, seconds=_JOB_SECONDS)
        assert ended["status"] == "succeeded", (ended["error"], stack.logs()[-5000:])
        site.model, site.dataset = ended["model_id"], ended["dataset_id"]
        site.references[name] = job.id
    history.accepted.clear()
    return site


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
    stack = STACKS[options.stack](options.folder / "service")
    stack.folder.mkdir(parents=True)
    history = History(options.folder / "history.jsonl")
    try:
        site = open_site(stack, history, names)
        ready = time.monotonic()
        disturbance, failures = disturb(site, history, names, options)
        verdict = checker.check(stack.evidence(), history.accepted, site.references)
    finally:
        stack.stop()
    verdict.violations += failures
    summary = {
        **{name: value for name, value in asdict(options).items() if isinstance(value, int | float | str)},
        "accepted": len(history.accepted),
        "killed": disturbance.killed,
        "stopped": disturbance.stopped,
        "flushed": disturbance.flushed,
        **verdict.summary(),
        "seconds": {"ready": round(ready - started), "all": round(time.monotonic() - started)},
    }
    return Outcome(summary, stack.evidence(), history.accepted, site.references)


def disturb(site: Site, history: History, names: list[str], options: Options) -> tuple[disorder.Disorder, list[str]]:
    """Let clients work while everything is disturbed; what went wrong with the run itself, in words."""
    rng = random.Random(options.seed)  # noqa: S311 (it is to be repeatable)
    errands = clients.draw(rng, jobs=options.jobs, names=names)
    acts: Iterator[disorder.Act] = (
        iter(disorder.read_log(options.replay))
        if options.replay
        else disorder.draw(rng, site.stack.targets, pace_seconds=options.pace_seconds)
    )
    log = options.folder / "disorder.jsonl"
    disturbance = disorder.Disorder(site.stack, site.stack.evidence(), acts, options.kills, log)
    crowd = _Crowd(site, history, errands, disturbance)
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
    history: History
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
        client = Client(self.site.stack.urls, self.site.stack.api_key, self.history, rng)
        while (errand := self._take()) is not None:
            try:
                job = client.create(
                    errand, key=f"chaos-{errand.number}", model=self.site.model, training_file=self.site.dataset
                )
                client.see_through(job, seconds=_JOB_SECONDS)
            except Exception as error:  # noqa: BLE001 (the edge of the thread: the run reports it)
                self.errors.append(error)

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
        return WINDOW + math.floor(max(0, len(self.errands) - WINDOW) * self.disturbance.done)


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """As JSON."""
    path.write_text(json.dumps(summary, indent=2) + "\n")
