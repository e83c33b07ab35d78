"""The files that a job gives back, beside `model.keras`.

labels.json     what the outputs mean
metrics.csv     one row for each epoch, for spreadsheets
history.json    the same, for programs
report.json     what the job found out
manifest.json   sha256 and bytes of every file, and the lineage source -> dataset -> spec -> result
"""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.domain.dataset import DatasetInfo
from app.domain.exports import FILES
from app.domain.progress import EpochFinished
from app.domain.report import Report
from worker.engine import durable

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


def write(
    folder: Path, *, data: DatasetInfo, history: Sequence[EpochFinished], report: Report, result_digest: str
) -> None:
    """Write everything that belongs to `model.keras`, which must be in the folder; the manifest comes last."""
    rows = [_row(number, epoch) for number, epoch in enumerate(history, start=1)]
    labels = {"task": data.task, "labels": data.classes, "targets": data.targets, "output": _MEANING[data.task]}
    _write_json(folder / LABELS, labels)
    durable.write_text(folder / METRICS, _csv(rows))
    _write_json(folder / HISTORY, {"epochs": rows})
    durable.write_text(folder / REPORT, report.model_dump_json(indent=2) + "\n")
    exported = [export.file for export in report.exports if export.file]
    for stale in set(FILES.values()) - {MODEL, *exported}:
        (folder / stale).unlink(missing_ok=True)  # of an earlier run in this folder
    files = [_described(folder / name) for name in (MODEL, *exported, LABELS, METRICS, HISTORY, REPORT)]
    _write_json(folder / MANIFEST, {"files": files, "lineage": _lineage(report, result_digest)})


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
    spec = report.spec.model_dump_json().encode()
    return {
        "source": report.source.model_digest_before,
        "dataset": report.dataset_digest,
        "spec": hashlib.sha256(spec).hexdigest(),
        "result": result_digest,
    }


def _write_json(path: Path, value: Any) -> None:  # noqa: ANN401 (JSON)
    durable.write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
