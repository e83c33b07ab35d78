"""The files that a job gives back, beside `model.keras` and its exports.

labels.json                what the outputs mean, and of a table the inputs
metrics.csv                one row for each epoch, for spreadsheets
history.json               the same, for programs
events.out.tfevents.thaw   the same, for TensorBoard
report.json                what the job found out
MODEL_CARD.md              the same, for people, and how to load each file
manifest.json              sha256 and bytes of every file, what those that are models take, the lineage
                           source -> dataset -> spec -> result, and the ancestry: the jobs that the source came from
"""

import csv
import hashlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.domain.ancestry import digest_of
from app.domain.dataset import DatasetInfo
from app.domain.exports import FILES
from app.domain.progress import EpochFinished
from app.domain.report import Report
from worker.engine import durable, model_card, tensorboard

MODEL = FILES["keras"]
LABELS = "labels.json"
METRICS = "metrics.csv"
HISTORY = "history.json"
REPORT = "report.json"
MANIFEST = "manifest.json"

_MEANING = {
    "binary": "one number: the probability of the second label",
    "single_label": "one probability for each label, in this order",
    "multi_label": "for each label, in this order, the probability that it is there",
    "regression": "the targets themselves, in their own units",
}
_TYPES = {"number": "float32, NaN where it is missing", "category": "string, empty where it is missing"}


def write(
    folder: Path,
    *,
    data: DatasetInfo,
    history: Sequence[EpochFinished],
    report: Report,
    result_digest: str,
    names: Mapping[str, str] | None = None,
) -> None:
    """Write everything that belongs to `model.keras`, which must be in the folder; the manifest comes last.

    `names`: of a model that takes a table's rows, what the input for each column is called.
    """
    rows = [_row(number, epoch) for number, epoch in enumerate(history, start=1)]
    labels = {"task": data.task, "labels": data.classes, "targets": data.targets, "output": _MEANING[data.task]}
    _write_json(folder / LABELS, {**labels, "inputs": _inputs(data, names)} if names else labels)
    durable.write_text(folder / METRICS, _csv(rows))
    _write_json(folder / HISTORY, {"epochs": rows})
    durable.write_text(folder / REPORT, report.model_dump_json(indent=2) + "\n")
    tensorboard.write(folder / tensorboard.FILE, history, ended_at=time.time())
    models, lineage = _models(folder, report), _lineage(report, result_digest)
    card = model_card.card(report, data, lineage=lineage, files=models)
    durable.write_text(folder / model_card.FILE, card)
    others = (LABELS, METRICS, HISTORY, tensorboard.FILE, REPORT, model_card.FILE)
    files = [*models, *(_described(folder / name) for name in others)]
    ancestry = None if report.ancestry is None else report.ancestry.model_dump(mode="json")
    _write_json(folder / MANIFEST, {"files": files, "lineage": lineage, "ancestry": ancestry})


def _models(folder: Path, report: Report) -> list[dict[str, Any]]:
    """The files that are models; those that an earlier run left in this folder go."""
    taken = {MODEL: report.inputs, **{export.file: export.inputs for export in report.exports if export.file}}
    for stale in set(FILES.values()) - taken.keys():
        (folder / stale).unlink(missing_ok=True)
    return [
        {**_described(folder / name), "inputs": [each.model_dump(mode="json") for each in inputs]}
        for name, inputs in taken.items()
    ]


def _inputs(data: DatasetInfo, names: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What the inputs of a model on rows mean, by their names."""
    return {names[column.name]: {"column": column.name, "type": _TYPES[column.type]} for column in data.columns or ()}


def _row(number: int, epoch: EpochFinished) -> dict[str, Any]:
    place = epoch.phase
    return {"number": number, "phase": place.name, "epoch": place.epoch, "step": epoch.step, **epoch.metrics}


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "name": path.name,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            "bytes": path.stat().st_size,
        }


def _lineage(report: Report, result_digest: str) -> dict[str, str]:
    return {
        "source": report.source.model_digest_before,
        "dataset": report.dataset_digest,
        "spec": digest_of(report.spec),
        "result": result_digest,
    }


def _write_json(path: Path, value: Any) -> None:  # noqa: ANN401 (JSON)
    durable.write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
