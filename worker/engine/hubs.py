"""Models out of repositories of the Hugging Face Hub: found, pinned to a commit, downloaded, then checked like uploads.

    name ──▶ commit and file list ──▶ one file, its size and sha256 known before ──▶ `sources.register`

Nothing of a repository is run or unpickled: the one file goes through the same door as an upload. Only public
repositories: a token would have to be where foreign files are read. Needs the extra `hub`.
"""

import hashlib
import importlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.domain.errors import PlatformError, SourceError, UserError
from app.domain.hubs import ENDINGS, HubName, parse
from app.domain.model import ModelOptions, SourceInfo
from worker.engine import extras, sources
from worker.engine.intake.uploads import reason

HUB = "https://huggingface.co"
SILENCE_SECONDS = 60.0
_USUAL = "model.keras"
_SURROUNDINGS = {
    # Read when the library is imported: plain https, nobody's token, no telemetry.
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


@dataclass(frozen=True)
class _Found:
    """The file that a name means now."""

    commit: str
    file: str
    size: int
    sha256: str | None
    """Known for large files, which the hub keeps beside the repository."""


def register(
    reference: str, destination: Path, *, options: ModelOptions, max_parameters: int, max_bytes: int
) -> SourceInfo:
    """Download a model of the hub, check it, and write it as a canonical folder, all of it or nothing.

    Call it in a process of its own: the file is somebody else's. Raises `UserError` for what there is not,
    `SourceError` as `sources.register` does, `PlatformError` with code `download_failed` or `extra_missing`.
    """
    name = parse(reference)
    hub = _library()
    endpoint = _endpoint()
    with tempfile.TemporaryDirectory() as scratch:
        with _told(name):
            found = _find(hub.HfApi(endpoint=endpoint, token=False), name)
            _check_size(found, name, max_bytes)
            path = Path(
                hub.hf_hub_download(
                    name.repository,
                    found.file,
                    revision=found.commit,
                    endpoint=endpoint,
                    token=False,
                    local_dir=scratch,
                    etag_timeout=SILENCE_SECONDS,
                )
            )
        _check_bytes(path, found, name)
        pinned = name.model_copy(update={"revision": found.commit, "file": found.file})
        return sources.register(path, destination, options=options, max_parameters=max_parameters, origin=str(pinned))


def _library() -> Any:  # noqa: ANN401 (see `extras.load`)
    os.environ.update(_SURROUNDINGS)
    return extras.load(
        "huggingface_hub",
        extra="hub",
        to="fetch models from the Hugging Face Hub",
        instead="download the file yourself and upload it",
    )


def _endpoint() -> str:
    """The hub, or the mirror that `HF_ENDPOINT` names; plain http only if that says so."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def _find(api: Any, name: HubName) -> _Found:  # noqa: ANN401 (see `_library`)
    info = api.model_info(
        name.repository, revision=name.revision, files_metadata=True, timeout=SILENCE_SECONDS, token=False
    )
    files = {file.rfilename: file for file in info.siblings or []}
    chosen = files[_chosen(name, list(files))]
    size = chosen.size if isinstance(chosen.size, int) else 0
    return _Found(info.sha, chosen.rfilename, size, chosen.lfs.sha256 if chosen.lfs else None)


def _chosen(name: HubName, files: list[str]) -> str:
    """The file that was named, else `model.keras`, else the only model file that there is."""
    models = [file for file in files if file.lower().endswith(ENDINGS)]
    if name.file is not None:
        if name.file in files:
            return name.file
        there = f"It has {', '.join(models[:10])}." if models else "It has no model files."
        message = f"There is no '{name.file}' in '{name.repository}' at '{name.revision}'. {there}"
        raise UserError(message, code="not_found", param="model")
    if _USUAL in files:
        return _USUAL
    if len(models) == 1:
        return models[0]
    if models:
        message = (
            f"'{name}' has several model files: name one of {', '.join(f'{name}/{file}' for file in models[:10])}."
        )
        raise UserError(message, code="several_files", param="model")
    message = (
        f"'{name.repository}' has no file that ends in {', '.join(ENDINGS)}. SavedModels, presets of KerasHub and "
        "models of other frameworks are not opened: load the model in Keras, save it with model.save('model.keras') "
        "and upload that."
    )
    raise SourceError(message, code="unsupported_format")


def _check_size(found: _Found, name: HubName, max_bytes: int) -> None:
    if found.size > max_bytes:
        message = f"'{found.file}' of '{name.repository}' has {found.size:,} bytes; this service takes {max_bytes:,}."
        raise SourceError(message, code="model_too_large")


def _check_bytes(path: Path, found: _Found, name: HubName) -> None:
    """What came is what the hub said before."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if path.stat().st_size != found.size or found.sha256 not in (None, sha256):
        message = f"'{found.file}' of '{name.repository}' was changed on the way. Register the model again."
        raise PlatformError(message, code="download_failed")


@contextmanager
def _told(name: HubName) -> Iterator[None]:
    """Say in Thaw's errors what the hub answered."""
    errors = importlib.import_module("huggingface_hub.errors")
    connection = importlib.import_module("httpx2").HTTPError  # what the hub's client speaks through
    try:
        yield
    except errors.RevisionNotFoundError as error:
        message = f"'{name.repository}' has no revision '{name.revision}'. Name a branch, a tag or a commit."
        raise UserError(message, code="not_found", param="model") from error
    except errors.RepositoryNotFoundError as error:
        message = (
            f"There is no public repository '{name.repository}' on the hub. Of a private or gated one, download the "
            "file yourself and upload it."
        )
        raise UserError(message, code="not_found", param="model") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, connection, OSError) as error:
        message = (
            f"'{name}' could not be downloaded: {reason(error)} Let the worker that registers models reach "
            f"{_endpoint()}, or download the file yourself and upload it."
        )
        raise PlatformError(message, code="download_failed") from error
