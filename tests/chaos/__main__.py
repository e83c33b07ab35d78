"""`python -m tests.chaos`: disturb a real service, check what became of its jobs; exit status 1 if a promise broke."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.chaos import kinds, scenarios
from tests.chaos.run import STACKS, Options, chaos, end_in_order, write_summary
from tests.chaos.scenarios import SCENARIOS


def main() -> int:
    """Run it, print the summary."""
    end_in_order()
    options = _parser().parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="thaw-chaos-"))
    summary = (
        scenarios.play(options.scenario, folder, stack=options.stack, namespaces=options.namespaces)
        if options.scenario
        else chaos(_options(options, folder)).summary
    )
    sys.stdout.write(json.dumps(summary, indent=2) + "\n")
    sys.stdout.write(f"Logs: {folder} (what was done: disorder.jsonl; what clients were told: history.jsonl)\n")
    if options.output:
        write_summary(summary, options.output)
    return 1 if summary["violations"] else 0


def _options(options: argparse.Namespace, folder: Path) -> Options:
    return Options(
        folder=folder,
        stack=options.stack,
        jobs=options.jobs,
        kills=options.kills,
        seed=options.seed,
        kinds=options.kinds,
        pace_seconds=options.pace,
        replay=options.replay,
        namespaces=options.namespaces,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="Disturb a service at random; check its jobs."
    )
    parser.add_argument("--jobs", type=int, default=100, help="how many jobs clients create")
    parser.add_argument("--kills", type=int, default=200, help="how many processes are killed meanwhile")
    parser.add_argument("--seed", type=int, default=7, help="decides what is done, to what, when")
    parser.add_argument("--stack", choices=STACKS, default="embedded", help="which service")
    parser.add_argument(
        "--namespaces", action="store_true", help="production: each worker in a network namespace of its own; as root"
    )
    parser.add_argument("--kinds", type=int, default=len(kinds.KINDS), help="how many kinds of jobs")
    parser.add_argument("--pace", type=float, default=3.0, help="seconds from one disturbance to the next, on average")
    parser.add_argument("--replay", type=Path, help="a disorder.jsonl: do this again, instead of drawing from the seed")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), help="a single story instead, on the --stack")
    parser.add_argument("--folder", type=Path, help="keep everything here")
    parser.add_argument("--output", type=Path, help="write the summary here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
