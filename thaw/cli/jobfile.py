"""Job files: the fields of `POST /v1/fine_tuning/jobs` as YAML or JSON, changed by options, with local files pushed.

Which value is a local file, for `model` and `training_file`:
    it names a file that exists, seen from the job file's folder (from the working folder if it came from an option
    or from standard input; `~` is the home folder)         -> it is pushed, and its new id stands in the request
    it looks like a path (has a slash, or ends like a model or data file), but there is no such file   -> an error
    anything else                                           -> it is sent as it stands: an id, or a name of a model
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from thaw.cli.output import Output
from thaw.cli.session import BadInputError, Session
from thaw.cli.text import plain
from thaw.cli.transfers import bar, waiting
from thaw.requests import NAMED, JobRequest

LOCAL_FIELDS = ("model", "training_file")
_ENDINGS = (".keras", ".h5", ".hdf5", ".zip", ".tar.gz", ".tgz", ".npz", ".csv", ".tsv", ".parquet")
_MAX_BYTES = 4 * 1024**2


def read(
    file: Path | None, *, model: str | None = None, data: str | None = None, changes: Sequence[str] = ()
) -> dict[str, object]:
    """The request that a job file and options make together; `-` is standard input. Local files are absolute paths.

    Raises:
        BadInputError: The file or an option cannot be understood.
    """
    request = _load(file) if file is not None else {}
    folder = Path() if file is None or str(file) == "-" else file.parent
    for field in LOCAL_FIELDS:
        _point_at_file(request, field, folder)
    given = {"model": model, "training_file": data}
    request |= {field: value for field, value in given.items() if value is not None}
    for change in changes:
        _apply(request, change)
    for field in LOCAL_FIELDS:
        _point_at_file(request, field, Path())
    return request


def read_changes(file: Path | None, changes: Sequence[str]) -> dict[str, object]:
    """The fields of a file and of options together, as they stand. Raises `BadInputError`."""
    request = _load(file) if file is not None else {}
    for change in changes:
        _apply(request, change)
    return request


def push_local(session: Session, request: dict[str, object]) -> JobRequest:
    """Push the local files of a request that `read` made, and put their ids into it."""
    model, data = (_path(request.get(field)) for field in LOCAL_FIELDS)
    if model is not None:
        request["model"] = push_model(session, model)
    if data is not None:
        request["training_file"] = push_dataset(session, data)
    return cast("JobRequest", request)  # the service checks it and names every wrong field


def push_model(session: Session, path: Path) -> str:
    """Push a model with bars; its id."""
    with bar(session.out, path.name) as progress:
        model = session.client.models.push(path, wait=False, on_progress=progress)
    with waiting(session.out, f"checking {path.name}"):
        session.client.models.wait(model.id)
    _tell(session.out, path, model.id, "model")
    return model.id


def push_dataset(session: Session, path: Path) -> str:
    """Push a dataset with bars; its id."""
    with bar(session.out, path.name) as progress:
        dataset = session.client.datasets.push(path, wait=False, on_progress=progress)
    with waiting(session.out, f"validating {path.name}"):
        session.client.datasets.wait(dataset.id)
    _tell(session.out, path, dataset.id, "training_file")
    return dataset.id


def _tell(out: Output, path: Path, identifier: str, field: str) -> None:
    out.note(f"Pushed {plain(path.name)} as {identifier} (to reuse it: `{field}: {identifier}`).")


# === Reading ===


def _load(file: Path) -> dict[str, object]:
    import yaml

    try:
        text = sys.stdin.read(_MAX_BYTES) if str(file) == "-" else _text(file)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        message = f"{file} is not YAML: {' '.join(str(error).split())}."
        raise BadInputError(message) from error
    except UnicodeDecodeError as error:
        message = f"{file} is not a text file."
        raise BadInputError(message) from error
    return _json_mapping(content, f"{file} should have fields such as `model:` and `schedule:`")


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > _MAX_BYTES:
            message = f"{file} is too large for a job file: {file.stat().st_size} bytes, at most {_MAX_BYTES}."
            raise BadInputError(message)
        return file.read_text(encoding="utf-8")
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror or error}."
        raise BadInputError(message) from error


def _json_mapping(content: object, expected: str) -> dict[str, object]:
    """YAML knows more than JSON: dates, sets, keys that are no text. What JSON cannot say is refused here."""
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        message = f"{expected}; it has {type(content).__name__ if content is not None else 'nothing'}."
        raise BadInputError(message)
    try:
        json.dumps(content)
    except (TypeError, ValueError) as error:
        message = f"{expected}, and values that JSON can say: {error}. Quote dates."
        raise BadInputError(message) from error
    return content


# === Options ===


def _apply(request: dict[str, object], change: str) -> None:
    """`schedule.0.epochs=2`: a dotted path into the request, and a value as YAML reads it."""
    path, separator, text = change.partition("=")
    if not separator or not all(path.split(".")):
        message = f"--set takes key=value, such as `seed=7` or `schedule.0.epochs=2`; received {change!r}."
        raise BadInputError(message)
    *parents, last = path.split(".")
    target: object = request
    for key in parents:
        target = _descend(target, key, change)
    value = _value(text, change)
    if isinstance(target, dict):
        target[last] = value
    elif isinstance(target, list) and last.isdecimal() and int(last) < len(target):
        target[int(last)] = value
    else:
        raise _no_place(change, last)


def _descend(target: object, key: str, change: str) -> object:
    if isinstance(target, dict):
        return target.setdefault(key, {})
    if isinstance(target, list) and key.isdecimal() and int(key) < len(target):
        return target[int(key)]
    raise _no_place(change, key)


def _no_place(change: str, key: str) -> BadInputError:
    message = (
        f"--set {change}: there is no {key!r} to set. Lists are counted from 0, and only what is there can change."
    )
    return BadInputError(message)


def _value(text: str, change: str) -> object:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        message = f"--set {change}: the value is not YAML."
        raise BadInputError(message) from error


# === Local files ===


def _point_at_file(request: dict[str, object], field: str, folder: Path) -> None:
    """Make the name of a local file absolute; refuse what looks like one and is none."""
    value = request.get(field)
    if not isinstance(value, str) or not value:
        return
    if field == "model" and value.startswith(NAMED):
        return
    path = folder / Path(value).expanduser()
    if path.is_file():
        request[field] = str(path.absolute())
    elif "/" in value or "\\" in value or value.lower().endswith(_ENDINGS):
        message = f"{field}: there is no file {value!r} in {folder.absolute()}. Give a path that exists, or an id."
        raise BadInputError(message)


def _path(value: object) -> Path | None:
    return Path(value) if isinstance(value, str) and Path(value).is_absolute() else None
