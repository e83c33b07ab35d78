"""What people have: a source of 86 layers, a dataset of pictures, and jobs in all statuses, made by the services."""

import base64
import hashlib
import itertools
import os
from collections.abc import Sequence
from typing import Any

from app.domain.artifacts import Artifact
from app.domain.caching import CacheUse
from app.domain.dataset import DatasetInfo, DatasetOptions, PreviewExample, SplitInfo
from app.domain.errors import Failure
from app.domain.job import Job, JobRequest
from app.domain.model import LayerRow, ModelOptions, SourceInfo
from app.domain.progress import EpochFinished, FreezeProof, PhaseProgress, PhaseStarted, Progress, StageStarted
from app.domain.report import Evaluation, Interval, PhaseReport, Report, SourceReceipt
from app.services import claims, datasets, files, jobs, models, reports
from app.services.claims import JobClaim
from app.services.context import DEFAULT_PROJECT as PROJECT
from app.services.context import Services

WORKER = "worker-of-the-benchmark"
CLASSES = ("cardboard", "glass", "metal", "paper", "plastic", "trash")
PRESETS: Sequence[Any] = ("two_phase", "head_only", {"preset": "gradual", "blocks": 3}, "fine_tune")
TEAMS = ("shoes", "bags", "hats", "coats")
STATUSES = ("succeeded",) * 32 + ("failed",) * 4 + ("cancelled",) * 3 + ("paused",)
"""Of 40 jobs."""
BLOCKS = 28
PREVIEW_BYTES = 20_000
"""Of a picture of 128 pixels as PNG."""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def artifact(name: str) -> Artifact:
    return Artifact(name=name, sha256=digest(name), bytes=1_000_000)


# === What jobs need ===


def model(services: Services, name: str) -> str:
    """The id of a ready model."""
    file_id = _file(services, f"{name}.keras")
    made = models.register(services, PROJECT, file_id=file_id, name=None, options=ModelOptions())
    claim = claims.claim_model(services, made.id, worker=WORKER)
    assert claim is not None
    canonical = [artifact(each) for each in ("config.json", "weights.safetensors", "source.json")]
    reports.finish_model(services, claim, info=source_info(name), canonical=canonical)
    return made.id


def dataset(services: Services) -> str:
    """The id of a ready dataset."""
    file_id = _file(services, "trash.zip")
    made = datasets.create(services, PROJECT, file_id=file_id, name=None, options=DatasetOptions())
    claim = claims.claim_dataset(services, made.id, worker=WORKER)
    assert claim is not None
    canonical = [artifact("dataset.json"), artifact("train.bin")]
    reports.finish_dataset(services, claim, info=dataset_info(), preview=_preview(), canonical=canonical)
    return made.id


def _file(services: Services, name: str) -> str:
    with services.store.writer(max_bytes=100) as writer:
        writer.write(name.encode())
        blob = writer.commit()
    return files.create(services, PROJECT, filename=name, purpose="fine-tune", blob=blob).id


def source_info(name: str) -> SourceInfo:
    """A stack of convolutions, each with BatchNormalization and an activation, as in a MobileNet."""
    kinds = itertools.product(range(1, BLOCKS + 1), ("Conv2D", "BatchNormalization", "ReLU"))
    table = [("input", "InputLayer", 0)]
    table += [(f"block_{block}_{kind.lower()}", kind, 0 if kind == "ReLU" else 4_096) for block, kind in kinds]
    table.append(("predictions", "Dense", 6_150))
    rows = [
        LayerRow(
            index=index,
            path=path,
            class_name=kind,
            output_shape=[None, 6] if kind == "Dense" else [None, 5, 5, 64],
            parameters=parameters,
            has_weights=parameters > 0,
            legal_cut=kind != "InputLayer",
            trainable_parameters=parameters,
            batch_norm=kind == "BatchNormalization",
        )
        for index, (path, kind, parameters) in enumerate(table)
    ]
    return SourceInfo(
        format="keras",
        keras_version="3.15.1",
        class_name="Functional",
        name=name,
        input_shape=[None, 160, 160, 3],
        input_dtype="float32",
        output_shape=[None, 6],
        parameters=sum(row.parameters for row in rows),
        layers=rows,
        rescale="minus_one_to_one",
        labels=list(CLASSES),
        digest=digest(name),
    )


def dataset_info() -> DatasetInfo:
    split = SplitInfo(examples=400, class_counts=dict.fromkeys(CLASSES, 60))
    return DatasetInfo(
        kind="images",
        task="single_label",
        example_shape=[None, None, 3],
        dtype="uint8",
        value_range=(0.0, 255.0),
        classes=list(CLASSES),
        splits={"train": split, "validation": split, "test": split},
        digest=digest("trash"),
    )


def _preview() -> list[PreviewExample]:
    return [
        PreviewExample(
            split="train",
            index=index,
            label=label,
            shape=[384, 512, 3],
            image_png=base64.b64encode(os.urandom(PREVIEW_BYTES)).decode(),
        )
        for index, label in enumerate(CLASSES * 3)
    ]


# === Jobs ===


def body(model_id: str, dataset_id: str, number: int = 0) -> dict[str, Any]:
    """What a client sends for the `number`-th job."""
    return {
        "model": model_id,
        "training_file": dataset_id,
        "cut": {"drop_last": 1},
        "head": {"layers": [{"type": "dropout", "rate": 0.2}]},
        "schedule": PRESETS[number % len(PRESETS)],
        "batch_size": 32,
        "metadata": {"team": TEAMS[number % len(TEAMS)], "run": f"sweep-{number % 10}"},
    }


def submit(services: Services, model_id: str, dataset_id: str, number: int = 0) -> Job:
    """A queued job."""
    return jobs.submit(services, PROJECT, JobRequest.model_validate(body(model_id, dataset_id, number)))


def claim(services: Services, job: Job) -> JobClaim:
    """The job, running."""
    found = claims.claim_job(services, job.id, worker=WORKER)
    assert found is not None
    return found


def one_of_each_kind(services: Services) -> list[str]:
    """Jobs in all statuses in which jobs stay, as people would have them; the ids of their models."""
    sources = [model(services, name) for name in ("mobilenet", "resnet")]
    data = dataset(services)
    for number, status in enumerate(STATUSES):
        job = submit(services, sources[number % 2], data, number)
        if status == "cancelled":
            jobs.request_cancel(services, PROJECT, job.id)
        elif status == "paused":
            jobs.request_pause(services, PROJECT, job.id)
        else:
            _end(services, claim(services, job), status)
    return sources


def _end(services: Services, held: JobClaim, status: str) -> None:
    reports.progress(services, held, list(_told(held.job)), checkpoints={})
    if status == "failed":
        why = Failure(error_class="user", code="diverged", message="The loss is not a number.", phase="head")
        reports.fail_job(services, held, why)
        return
    names = ("model.keras", "labels.json", "metrics.csv", "history.json", "report.json", "MODEL_CARD.md")
    reports.succeed_job(
        services,
        held,
        artifacts=[artifact(name) for name in names],
        canonical=[artifact("config.json"), artifact("weights.safetensors")],
        info=source_info("result"),
        report=_report(held.job),
    )


def _told(job: Job) -> Sequence[Progress]:
    first = job.spec.schedule[0]
    place = PhaseProgress(index=1, name=first.name or "", epoch=1, epochs=first.epochs)
    metrics = {"loss": 0.7, "accuracy": 0.8, "val_loss": 0.8, "val_accuracy": 0.75, "seconds": 2.5}
    return [
        StageStarted(stage="loading_source"),
        StageStarted(stage="training", number=2),
        PhaseStarted(phase=place, trainable_parameters=6_150, frozen_parameters=229_376),
        EpochFinished(phase=place, step=13, metrics=metrics),
        StageStarted(stage="evaluating", number=3),
        StageStarted(stage="exporting", number=4),
    ]


def _report(job: Job) -> Report:
    phases = [
        PhaseReport(
            name=phase.name or "",
            epochs_run=phase.epochs,
            stopped_early=False,
            trainable_parameters=6_150,
            frozen_parameters=229_376,
            seconds=20.0,
            proof=FreezeProof(
                phase=phase.name or "",
                frozen_variables=84,
                frozen_digest_before=digest("frozen"),
                frozen_digest_after=digest("frozen"),
                trained_variables=2,
                moved_variables=2,
                held=True,
            ),
            cache=CacheUse(used=True, boundary=["block_28_relu"], bytes=5_000_000, pass_seconds=1.0),
        )
        for phase in job.spec.schedule
    ]
    per_class = {name: {"precision": 0.9, "recall": 0.9, "f1": 0.9, "examples": 60.0} for name in CLASSES}
    return Report(
        task="single_label",
        labels=list(CLASSES),
        spec=job.spec,
        cut_layer="block_28_relu",
        dataset_digest=digest("trash"),
        source=SourceReceipt(model_digest_before=digest("s"), model_digest_after=digest("s"), unchanged=True),
        phases=phases,
        test=Evaluation(
            examples=400,
            loss=0.4,
            accuracy=Interval(value=0.9, low=0.87, high=0.93),
            confusion_matrix=[[10] * len(CLASSES) for _ in CLASSES],
            per_class=per_class,
        ),
        best_validation={"loss": 0.3, "val_loss": 0.4},
        seconds={"training": 40.0, "total": 55.0},
        versions={"thaw": "1", "keras": "3.15.1", "tensorflow": "2.21.0", "python": "3.11.9"},
        device="cpu",
        parameters=235_526,
    )
