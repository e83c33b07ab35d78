"""Jobs whose training process dies each time, among others that must not notice.

Their processes are killed as soon as they are there, by the signals of a lack of memory (SIGKILL), of a fault in a
library (SIGSEGV) and of a failed assertion (SIGABRT), before anything was kept.
"""

import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from app.domain.states import MAX_ATTEMPTS
from app.services.failing import LOST
from tests.chaos.clients import Accepted
from tests.chaos.drills import steps
from tests.chaos.drills.drill import Drill, Exercise, Findings, exactly
from tests.chaos.evidence import parsed
from tests.chaos.run import Site

KIND = "cache off"
SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)
_LOOK_SECONDS = 0.05


def play(exercise: Exercise) -> Findings:
    """So many other jobs, and one poisonous one for each signal among the first of them."""
    poisons: dict[str, Accepted] = {}
    others: list[Accepted] = []
    with exercise.site("tiny") as site:
        with _Poisoner(site) as poisoner:
            for number in range(exercise.times):
                if number < len(SIGNALS):
                    poison = steps.submit(site, KIND, f"poison-{number}")
                    poisoner.victims[poison.id] = SIGNALS[number]
                    poisons[poison.id] = poison
                others.append(steps.submit(site, "tiny", f"other-{number}"))
            steps.see_ended(site, [*poisons.values(), *others])
        rows = {row["id"]: row for row in site.stack.evidence().rows("SELECT * FROM jobs")}
        verdict = steps.verdict(site, others)
    untouched = [row for row in (rows[job.id] for job in others) if (row["status"], row["attempt"]) == ("succeeded", 1)]
    given_up = [row for row in (rows[identifier] for identifier in poisons) if _was_given_up(row)]
    figures = {
        f"poisonous jobs that failed after {MAX_ATTEMPTS} attempts": exactly(len(given_up), len(poisons)),
        "others that succeeded in their first attempt": exactly(len(untouched), len(others)),
    }
    facts = {
        "killed": {SIGNALS[number].name: poisoner.killed[identifier] for number, identifier in enumerate(poisons)},
        "codes": [parsed(row["error"])["code"] for row in given_up],
        "checked": verdict.summary(),
    }
    return Findings(figures, facts, verdict.violations)


def _was_given_up(row: Mapping[str, Any]) -> bool:
    return bool(row["status"] == "failed" and row["attempt"] == MAX_ATTEMPTS and parsed(row["error"])["code"] in LOST)


@dataclass
class _Poisoner:
    """Kills the processes of some jobs whenever there are any, until the block ends."""

    site: Site
    victims: dict[str, signal.Signals] = field(default_factory=dict)
    killed: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._seen: set[int] = set()
        self._thread = threading.Thread(target=self._watch, name="poisoner", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            for job_id, number in list(self.victims.items()):
                fresh = [child for child in steps.children_of(self.site.stack, job_id) if child.pid not in self._seen]
                steps.send(fresh, number)
                self._seen |= {child.pid for child in fresh}
                self.killed[job_id] = self.killed.get(job_id, 0) + len(fresh)


DRILL = Drill(
    promise="a job whose process dies each time fails after three attempts, and others do not notice",
    play=play,
    times=20,
    stacks=("embedded", "production"),
)
