"""Checkpoints of real jobs with a flipped byte, or cut off, at a random place in each kind of file.

Many times what the engine reads is damaged: a copy of the last two checkpoints of a job that is paused. Once for each
kind of file the store is: the job is resumed, tells that it takes the checkpoint before, and ends in the weights of an
undisturbed run.
"""

import random
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.chaos.clients import Accepted
from tests.chaos.drills import steps
from tests.chaos.drills.drill import Drill, Exercise, Findings, exactly
from tests.chaos.evidence import Evidence, Folder, parsed
from tests.chaos.run import Site
from worker.engine.checkpoint import FOLDER, META, PARTS, Checkpoints, Meta

KIND = "every part"
FILES = (*(f"{part}.safetensors" for part in PARTS), "meta.json", "manifest.json")
"""What a checkpoint is made of at most; this kind of job has all of it."""
How = Literal["flip", "truncate"]
HOWS: tuple[How, ...] = ("flip", "truncate")


@dataclass(frozen=True)
class Case:
    """One damage: to which file, what, and whether it was noticed."""

    file: str
    how: How
    detected: bool
    fell_back: bool


def play(exercise: Exercise) -> Findings:
    """So many damaged copies, and one job for each kind of file."""
    rng = exercise.rng()
    with exercise.site(KIND) as site:
        job = _paused(site, "copied")
        cases = _damage_copies(
            _checkpoints(site.stack.evidence(), job), exercise.folder / "copies", rng, exercise.times
        )
        site.client.do(job, "resume")
        stories = [_damage_store(site, name, rng) for name in FILES]
        jobs = [job, *(story.job for story in stories)]
        steps.see_ended(site, jobs)
        verdict = steps.verdict(site, jobs)
        refused = [_refused(site.stack.evidence(), story) for story in stories]
    figures = {
        "damages that were detected": exactly(sum(case.detected for case in cases), len(cases)),
        "damages after which the checkpoint before was used": exactly(
            sum(case.fell_back for case in cases), len(cases)
        ),
        "jobs that told of it and went on from the one before": exactly(sum(refused), len(stories)),
        "jobs with the weights of an undisturbed run": exactly(
            verdict.compared - sum("weights" in each for each in verdict.violations), len(jobs)
        ),
    }
    facts = {
        "cases": {
            f"{how} {name}": number for (how, name), number in Counter((case.how, case.file) for case in cases).items()
        },
        "checked": verdict.summary(),
    }
    return Findings(figures, facts, verdict.violations)


def _paused(site: Site, name: str) -> Accepted:
    """A job that has two checkpoints, and waits."""
    job = steps.submit(site, KIND, name)
    evidence = site.stack.evidence()
    steps.until(lambda: len(_checkpoints(evidence, job)) >= 2)
    site.client.do(job, "pause")
    found = site.client.wait(job, lambda found: found["status"] == "paused", seconds=steps.PATIENCE_SECONDS)
    assert found["status"] == "paused", found["status"]
    return job


def _checkpoints(evidence: Evidence, job: Accepted) -> list[dict[str, Any]]:
    """What there is to go on from, the oldest first: for each its step, and where its files are by name."""
    store = evidence.store
    assert isinstance(store, Folder), f"files are damaged in a folder; this store is a {type(store).__name__}"
    query = "SELECT step, files FROM checkpoints WHERE job_id = ? AND kind = 'resume' ORDER BY attempt, number"
    return [
        {
            "step": row["step"],
            "files": {each["name"]: store.path_of(each["sha256"]) for each in parsed(row["files"])},
        }
        for row in evidence.rows(query, job.id)
    ]


def _damaged(content: bytes, how: How, rng: random.Random) -> bytes:
    position = rng.randrange(len(content))
    if how == "truncate":
        return content[:position]
    return content[:position] + bytes([content[position] ^ (1 << rng.randrange(8))]) + content[position + 1 :]


# === What the engine reads ===


def _damage_copies(
    checkpoints: Sequence[Mapping[str, Any]], folder: Path, rng: random.Random, count: int
) -> list[Case]:
    whole = folder / "whole"
    for number, checkpoint in enumerate(checkpoints[-2:], 1):
        there = whole / FOLDER / f"resume-{number:06d}"
        there.mkdir(parents=True)
        for name, path in checkpoint["files"].items():
            shutil.copy(path, there / name)
    meta = Meta.model_validate_json((whole / FOLDER / "resume-000002" / META).read_bytes())
    assert _steps(whole, meta) == (checkpoints[-1]["step"], []), "an undamaged copy is not used"
    return [_damage_copy(whole, meta, FILES[number % len(FILES)], rng) for number in range(count)]


def _damage_copy(whole: Path, meta: Meta, name: str, rng: random.Random) -> Case:
    copy = whole.with_name("damaged")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    path = copy / FOLDER / "resume-000002" / name
    how = rng.choice(HOWS)
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(_damaged(content, how, rng))
    step, refused = _steps(copy, meta)
    before = Meta.model_validate_json((whole / FOLDER / "resume-000001" / META).read_bytes())
    return Case(name, how, detected=refused == ["resume-000002"], fell_back=step == before.steps)


def _steps(folder: Path, meta: Meta) -> tuple[int, list[str]]:
    """Steps of the checkpoint that is used, and the names of those that are refused."""
    checkpoints = Checkpoints(folder, meta.identity)
    found = checkpoints.newest()
    return 0 if found is None else found.meta.steps, [each.name for each in checkpoints.refused]


# === What the store keeps ===


@dataclass(frozen=True)
class Story:
    """A job whose newest checkpoint is damaged in the store."""

    job: Accepted
    file: str
    step_before: int
    """Of the checkpoint before."""
    events_before: int
    """That the job had when it was resumed."""


def _damage_store(site: Site, name: str, rng: random.Random) -> Story:
    job = _paused(site, f"damaged-{name.replace('.', '-')}")
    before, newest = _checkpoints(site.stack.evidence(), job)[-2:]
    path: Path = newest["files"][name]
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(_damaged(content, rng.choice(HOWS), rng))
    rows = site.stack.evidence().rows("SELECT event_count FROM jobs WHERE id = ?", job.id)
    site.client.do(job, "resume")
    return Story(job, name, before["step"], rows[0]["event_count"])


def _refused(evidence: Evidence, story: Story) -> bool:
    query = (
        "SELECT type, data FROM events WHERE job_id = ? AND number > ? AND type IN ('checkpoint_refused', 'resumed') "
        "ORDER BY number"
    )
    told = [(row["type"], parsed(row["data"])) for row in evidence.rows(query, story.job.id, story.events_before)]
    return went_on_from(told) == story.step_before


def went_on_from(told: Sequence[tuple[str, Mapping[str, Any]]]) -> int | None:
    """The step from which a job first went on after it had refused a checkpoint; `None`: it refused none before.

    `told`: types and data of its events `checkpoint_refused` and `resumed`. On a busy machine an attempt may be lost
    after either, so that more of them follow.
    """
    if not told or told[0][0] != "checkpoint_refused":
        return None
    return next((int(data["step"]) for kind, data in told if kind == "resumed"), None)


DRILL = Drill(
    promise="a damaged checkpoint is noticed, and the one before is used",
    play=play,
    times=200,
    stacks=("embedded",),
)
