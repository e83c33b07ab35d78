"""Lives of a job, told by chance on both databases (`life`): some in the checks, many by one command.

THAW_TEST_LIVES=100000 uv run pytest tests/app/services/test_life.py -s --hypothesis-seed=7 --basetemp=/dev/shm/lives

tells so many lives, a twentieth of them on PostgreSQL, and asks that every line of `MOVES` was taken in them. The seed
decides which lives; without one they are always the same.
"""

import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from app.domain.states import MOVES, Move
from tests.app.services.life import Life

LIVES = int(os.environ.get("THAW_TEST_LIVES", "0"))
ON_POSTGRESQL = 20
"""Of so many lives on SQLite there is one on PostgreSQL, where the same statements take longer."""
EXAMPLES = {"sqlite": 20, "postgresql": 6}
TAKEN = {"sqlite": 14, "postgresql": 12}
"""At least so many lines of `MOVES` are taken in them; it is two more now."""
STEPS = 25


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of this process, not the database's, by so many seconds."""
    real = time.time

    def set_clock(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    return set_clock


@pytest.mark.timeout(0 if LIVES else 300)
def test_a_life_told_by_chance_is_what_the_model_says(
    world: Any, set_clock: Callable[[float], None], request: pytest.FixtureRequest
) -> None:
    seeded = request.config.getoption("--hypothesis-seed") is not None
    moves = Counter[Move]()
    started = time.monotonic()
    run_state_machine_as_test(
        lambda: Life(world, set_clock, moves),
        settings=settings(
            max_examples=_lives(world.services.db.engine.dialect.name),
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=not seeded,
            phases=[Phase.generate],  # a life is short enough to be read as it is, and shrinking takes minutes
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(_told(moves, seconds=time.monotonic() - started))  # noqa: T201 (seen with -s)
    taken = sum(moves[move] > 0 for move in MOVES)
    assert taken >= (len(MOVES) if LIVES else TAKEN[world.services.db.engine.dialect.name])


def _lives(dialect: str) -> int:
    if not LIVES:
        return EXAMPLES[dialect]
    return LIVES if dialect == "sqlite" else max(1, LIVES // ON_POSTGRESQL)


def _told(moves: "Counter[Move]", *, seconds: float) -> str:
    """How often each line of the table was taken."""
    taken = sum(moves[move] > 0 for move in MOVES)
    lines = [f"{moves[move]:9,}  {move.old} -> {move.new}: {move.when}" for move in MOVES]
    return "\n".join([f"\n{taken} of {len(MOVES)} moves taken in {seconds:.0f} s", *lines])
