"""The API with nothing but what the extra `api` installs, as in its image."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

START = """
import sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named '{name}': the extra 'api' does not install it", name=name)

REFUSED = set(sys.argv[2].split(","))
sys.meta_path.insert(0, Refuse())
from pathlib import Path
from fastapi.testclient import TestClient
from app.main import create_app
from app.settings import Settings
with TestClient(create_app(Settings(data_dir=Path(sys.argv[1]))), base_url="http://127.0.0.1") as client:
    print(client.get("/healthz").status_code)
"""


def installed_by(extra: str) -> set[str]:
    """Distributions that `thaw[extra]` brings, with all that they need here."""
    found: set[tuple[str, str]] = set()
    waiting = [("thaw", extra), ("thaw", "")]
    while waiting:
        name, its_extra = waiting.pop()
        if (name, its_extra) in found:
            continue
        found.add((name, its_extra))
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": its_extra}):
                key = str(canonicalize_name(needed.name))
                waiting += [(key, each) for each in ("", *needed.extras)]
    return {name for name, _ in found}


def test_it_starts_without_what_only_others_install(tmp_path: Path) -> None:
    there = installed_by("api")
    refused = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not any(str(canonicalize_name(owner)) in there for owner in owners)
    }
    assert {"tensorflow", "keras", "numpy"} <= refused
    assert not {"fastapi", "celery", "kombu", "redis"} & refused
    done = subprocess.run(
        [sys.executable, "-c", START, str(tmp_path / "data"), ",".join(sorted(refused))],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "200"
