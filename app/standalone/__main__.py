"""`python -m app.standalone` is `thaw up` for those who have no `thaw` on their PATH."""

import argparse
import sys
from pathlib import Path

from app.standalone.up import main


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m app.standalone", description="Run Thaw on this machine.")
    parser.add_argument("--data-dir", type=Path, help="where everything is kept")
    parser.add_argument("--host", help="address to listen on (default: loopback)")
    parser.add_argument("--port", type=int, help="port to listen on; 0 picks a free one")
    parser.add_argument("--quiet", action="store_true", help="say nothing but why it cannot start")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(**vars(_arguments())))
