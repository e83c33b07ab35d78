"""`python -m tests.chaos.drills`: try one promise on a real service; exit status 1 if a target is missed."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.chaos.drills import (
    broker,
    cancels,
    damage,
    keys,
    poison,
    restarts,
    rolling,
    soak,
    streams,
    takeover,
    zombies,
)
from tests.chaos.drills.drill import Drill, Exercise
from tests.chaos.run import STACKS, end_in_order, write_summary

DRILLS: Mapping[str, Drill] = {
    "broker": broker.DRILL,
    "restarts": restarts.DRILL,
    "takeover": takeover.DRILL,
    "poison": poison.DRILL,
    "cancels": cancels.DRILL,
    "rolling": rolling.DRILL,
    "keys": keys.DRILL,
    "damage": damage.DRILL,
    "streams": streams.DRILL,
    "zombies": zombies.DRILL,
    "soak": soak.DRILL,
}


def main(arguments: list[str] | None = None) -> int:
    """Carry it out, print what it found."""
    parser = _parser()
    options = parser.parse_args(arguments)
    drill = DRILLS[options.drill]
    stack = options.stack or drill.stacks[0]
    if stack not in drill.stacks:
        parser.error(f"{options.drill} makes sense on {', '.join(drill.stacks)}; received --stack {stack}")
    exercise = Exercise(
        folder=options.folder or Path(tempfile.mkdtemp(prefix=f"thaw-{options.drill}-")),
        stack=stack,
        seed=options.seed,
        times=options.times or drill.times,
        slow=options.slow,
    )
    started = time.monotonic()
    findings = drill.play(exercise)
    summary = {
        "drill": options.drill,
        "promise": drill.promise,
        "stack": exercise.stack,
        "seed": exercise.seed,
        "times": exercise.times,
        "slow": exercise.slow,
        "seconds": round(time.monotonic() - started),
        **findings.as_json(),
    }
    sys.stdout.write(json.dumps(summary, indent=2) + "\n")
    sys.stdout.write(f"Logs: {exercise.folder}\n")
    if options.output:
        write_summary(summary, options.output)
    return 0 if findings.met else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.drills", description="Try one promise on a real service, and measure."
    )
    parser.add_argument("drill", choices=DRILLS, help="which promise")
    parser.add_argument("--times", type=int, help="how often the thing is done that it is about")
    parser.add_argument("--seed", type=int, default=7, help="decides moments and choices")
    parser.add_argument("--stack", choices=STACKS, help="which service; each drill has its usual one")
    parser.add_argument("--slow", action="store_true", help="with the leases and intervals of real life")
    parser.add_argument("--folder", type=Path, help="keep everything here")
    parser.add_argument("--output", type=Path, help="write the summary here too")
    return parser


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
