"""Where the service is and which key opens it. Found out in this order.

    URL   argument -> THAW_URL -> <data folder>/run/service.json, written by `thaw up` on this machine
    key   argument -> THAW_API_KEY -> the file THAW_API_KEY_FILE -> the file that service.json names

The data folder is THAW_DATA_DIR, or this user's (`~/.local/share/thaw` on Linux). The key of this machine's service
goes to that service only: with a URL of another one, its key must be given too.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from thaw.errors import ServiceNotFoundError, ThawClientError


@dataclass(frozen=True)
class Location:
    """A service's URL and key, and where they were found."""

    url: str
    """Without a path: `http://127.0.0.1:8420`."""
    api_key: str | None = field(repr=False)
    found_in: str
    """For error messages: `--url`, `THAW_URL`, the path of a file."""


@dataclass(frozen=True)
class _Note:
    """What `thaw up` wrote down about itself."""

    url: str
    api_key_file: Path | None


def find(base_url: str | None = None, api_key: str | None = None, api_key_file: Path | None = None) -> Location:
    """Find the service; `ServiceNotFoundError` if there is no trace of one."""
    given = base_url or os.environ.get("THAW_URL")
    note = _read_note()
    if given is None and note is None:
        message = (
            f"No Thaw service found: THAW_URL is not set and {note_path()} does not exist. "
            "Start one with `thaw up`, or name one with --url or THAW_URL."
        )
        raise ServiceNotFoundError(message)
    url = _normal(given or (note.url if note else ""))
    key = api_key or _key_from_environment(api_key_file) or _key_from_note(note, url)
    return Location(url, key, _origin(base_url, given))


def data_dir() -> Path:
    """The folder in which a service on this machine keeps everything."""
    configured = os.environ.get("THAW_DATA_DIR")
    if configured:
        return _at_home(Path(configured))
    from platformdirs import user_data_path

    return user_data_path("thaw")


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        message = f"THAW_DATA_DIR begins with ~ and the name of nobody who has a home here: {path}."
        raise ThawClientError(message) from error


def note_path() -> Path:
    """Where a running `thaw up` says how to reach it."""
    return data_dir() / "run" / "service.json"


def _origin(base_url: str | None, given: str | None) -> str:
    if base_url:
        return "the URL that was given"
    return "THAW_URL" if given else str(note_path())


def _read_note() -> _Note | None:
    path = note_path()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        key_file = content.get("api_key_file")
        return _Note(url=str(content["url"]), api_key_file=Path(key_file) if key_file else None)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError) as error:
        message = f"{path} should say where the service runs, but cannot be read: {error}. Start it again: `thaw up`."
        raise ServiceNotFoundError(message) from error


def _key_from_environment(api_key_file: Path | None) -> str | None:
    if api_key_file is not None:
        return _read_key(api_key_file)
    if os.environ.get("THAW_API_KEY"):
        return os.environ["THAW_API_KEY"]
    named = os.environ.get("THAW_API_KEY_FILE")
    return _read_key(Path(named)) if named else None


def _key_from_note(note: _Note | None, url: str) -> str | None:
    """The local service's key, for the local service only: a key must not travel to another host."""
    if note is None or note.api_key_file is None or _normal(note.url) != url:
        return None
    return _read_key(note.api_key_file)


def _read_key(path: Path) -> str:
    try:
        key = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"The API key cannot be read from {path}: {error}."
        raise ThawClientError(message) from error
    if not key:
        message = f"The API key file {path} is empty."
        raise ThawClientError(message)
    return key


def _normal(url: str) -> str:
    """Without a slash at the end and without `/v1`, which people add because OpenAI's clients want it."""
    normal = url.strip().rstrip("/").removesuffix("/v1").rstrip("/")
    if not normal.startswith(("http://", "https://")):
        message = f"The service's URL must begin with http:// or https://; received {url!r}."
        raise ThawClientError(message)
    return normal
