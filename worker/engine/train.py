"""A run, from a source and a dataset to a result.

load source, check its digest
backbone, head = clone + copy weights, cut, attach      # the source itself is never trained
select what each phase unfreezes                        # a phase that selects nothing fails here
go on from the newest checkpoint, if there is one       # exactly: nobody can tell that it was interrupted
for phase in schedule:
    freeze, new optimizer, trace one step, fingerprint every weight
    for epoch in phase: train, validate, report, checkpoint     # stop: between two steps
    prove: frozen weights bit-identical, unfrozen ones moved
evaluate once on the test split, with intervals
export, read back, compare; source digest again
the other formats, in a process of their own          # one that fails does not fail the job
"""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from app.domain import kept, weighing
from app.domain.ancestry import Ancestry
from app.domain.cuts import resolve_cut
from app.domain.errors import ProofError, SourceError, UserError, WorkError
from app.domain.exports import Export, ExportedInput
from app.domain.inputs import used_inputs
from app.domain.model import SourceInfo
from app.domain.progress import CheckpointRefused
from app.domain.report import Evaluation, Report, SourceReceipt
from app.domain.spec import ResolvedSpec
from worker.engine import (
    assembly,
    augmentation,
    canonical,
    evaluate,
    execution,
    failures,
    phases,
    precision,
    results,
    runtime,
    schedule,
    snapshot,
    sources,
)
from worker.engine.checkpoint import Checkpoint, Checkpoints
from worker.engine.data import StoredDataset, open_dataset, resolve_preprocess
from worker.engine.export import keras_file
from worker.engine.export.inputs import inputs_of
from worker.engine.export.process import make_exports
from worker.engine.foldercache import FolderCache
from worker.engine.identity import identity_of
from worker.engine.reporter import Reporter
from worker.engine.run import Run
from worker.engine.sources import Source
from worker.engine.stages import Stages
from worker.engine.totals import NotFiniteError

RESULTS = "results"
CANONICAL = "canonical"
FEATURES = "features"
FEATURES_BYTES = 20 * 1024**3
"""Of one job's cached features, where nobody sets a limit."""


@dataclass(frozen=True)
class TrainedModel:
    """What a run leaves behind."""

    results: Path
    """Folder with the files that people download."""
    canonical: Path
    """Folder with the result in canonical form: it can be the source of the next job."""
    info: SourceInfo
    """What is known about the result as a model."""
    report: Report


def train(
    spec: ResolvedSpec,
    source: Path,
    data: Path,
    workdir: Path,
    reporter: Reporter,
    *,
    features: FolderCache | None = None,
    ancestry: Ancestry | None = None,
) -> TrainedModel:
    """Train `source` (canonical model folder) on `data` (canonical dataset folder); files go to `workdir`.

    Called again with the same `workdir` after it was interrupted, it goes on from the newest checkpoint there.
    `features`: where cached features are kept for other jobs too; `None`: in `workdir`, for this job alone.
    `ancestry`: what the report says about where the job comes from; nothing that is trained depends on it.

    Raises `WorkError`, which says whose fault it was, and whatever `reporter.check` raises.
    """
    with failures.translated():
        runtime.prepare(spec.seed)
        stages = Stages(reporter)
        with stages.stage("loading_source"):
            job = _load(spec, source, data, workdir, stages=stages, features=features)
            interrupted = _go_on(job.run)
        with stages.stage("training"):
            _train_phases(job.run, interrupted)
        with stages.stage("evaluating"):
            job.run.use(assembly.finished(job.run.network, spec))
            test, outputs = _evaluate(job)
        with stages.stage("exporting"):
            receipt = _source_receipt(job.origin, source)
            exported = _export(job, outputs, data)
            info = _write_canonical(job, exported.model)
        report = _report(job, test=test, receipt=receipt, exported=exported, ancestry=ancestry)
        _write_results(job, report, info, exported.names)
        job.run.checkpoints.clear()
        return TrainedModel(workdir / RESULTS, workdir / CANONICAL, info, report)


# === Load ===


@dataclass(frozen=True)
class _Job:
    spec: ResolvedSpec
    origin: Source
    dataset: StoredDataset
    run: Run
    cut_layer: str


def _load(
    spec: ResolvedSpec,
    source: Path,
    data: Path,
    workdir: Path,
    *,
    stages: Stages,
    features: FolderCache | None,
) -> _Job:
    origin = sources.load(source)
    dataset = open_dataset(data)
    used = used_inputs(kept.backbone(origin.info.layers, spec))
    preprocess = resolve_preprocess(spec.preprocessing, origin.info, dataset.info, used=used)
    network = assembly.network(spec, origin, dataset.info)
    objective = assembly.objective(spec, dataset.info)
    hold = spec.backbone_weights == "source"
    identity = identity_of(spec, source=origin.info.digest, dataset=dataset.info.digest)
    return _Job(
        spec=spec,
        origin=origin,
        dataset=dataset,
        run=Run(
            spec=spec,
            network=network,
            objective=objective,
            train=dataset.split("train"),
            validation=dataset.split("validation"),
            preprocess=preprocess,
            workdir=workdir,
            reporter=stages.reporter,
            stages=stages,
            dataset_digest=dataset.info.digest,
            features=features or FolderCache(workdir / FEATURES, max_bytes=FEATURES_BYTES),
            selections=[schedule.select(network, phase, hold_batch_norm=hold) for phase in spec.schedule],
            checkpoints=Checkpoints(workdir, identity),
            scale_losses=precision.scales_losses(spec),
            augmenter=augmentation.augmenter(spec.augmentation, preprocess, dataset.info, objective),
        ),
        cut_layer=resolve_cut(origin.info.layers, spec.cut).path,
    )


def _go_on(run: Run) -> Checkpoint | None:
    """Put the run back to its newest checkpoint, if it has one; the checkpoint, if it is from within a phase."""
    found = run.checkpoints.newest()
    for refusal in run.checkpoints.refused:
        run.reporter.report(CheckpointRefused(name=refusal.name, reason=refusal.reason))
    if found is None:
        return None
    snapshot.restore(run, found)
    run.reporter.report(snapshot.resumed(found, run.spec))
    return None if found.meta.phase_finished else found


# === Train, evaluate ===


def _train_phases(run: Run, interrupted: Checkpoint | None) -> None:
    """All that are left; `interrupted`: a checkpoint from within the first of them."""
    for index in range(len(run.phases) + 1, len(run.spec.schedule) + 1):
        try:
            with failures.translated():
                phases.run_phase(run, index=index, interrupted=interrupted)
        except WorkError as error:
            error.phase = run.spec.schedule[index - 1].name
            raise
        interrupted = None


def _evaluate(job: _Job) -> tuple[Evaluation, evaluate.Array]:
    """The one look at the test split, and the model's outputs for it `(n, outputs)`."""
    split = job.dataset.split("test")
    batches: list[evaluate.Array] = []
    try:
        loss = execution.evaluate_batches(job.run, split, batches)["loss"]
    except NotFiniteError as error:
        message = (
            f"{error.what[0].upper()}{error.what[1:]} on the test split, in batch {error.step}; expected a finite "
            "number. Look for NaN and extreme values in the data. The weights at the end of each phase are kept as "
            "checkpoints of the job."
        )
        raise UserError(message, code="diverged") from error
    outputs = np.concatenate(batches)
    return _judged(job, split.labels, outputs, loss=loss), outputs


def _judged(job: _Job, labels: evaluate.Array, outputs: evaluate.Array, *, loss: float) -> Evaluation:
    task, names = job.run.objective.task, job.dataset.info.classes or []
    if task == "regression":
        return evaluate.regression(labels, outputs, loss=loss, seed=job.spec.seed)
    predicted = np.asarray(job.run.objective.classes(outputs))
    if task == "multi_label":
        return evaluate.multi_label(labels, predicted, names=names, loss=loss, seed=job.spec.seed)
    return evaluate.classification(labels, predicted, names=names, loss=loss)


# === Export, report ===


def _source_receipt(origin: Source, folder: Path) -> SourceReceipt:
    """The source in memory and in its folder is what was registered; `ProofError` if not."""
    after = sources.digest(origin.model)
    try:
        stored = canonical.read(folder)[2].digest
    except SourceError as error:
        stored = str(error)
    if not origin.info.digest == after == stored:
        message = (
            f"The source '{origin.info.name}' is not what it was before the job: its digest was {origin.info.digest}, "
            f"now it is {after} in memory and {stored} in its folder. The result is not published."
        )
        raise ProofError(message, code="source_changed")
    return SourceReceipt(model_digest_before=origin.info.digest, model_digest_after=after, unchanged=True)


@dataclass(frozen=True)
class _Exported:
    model: keras.Model
    """For later jobs. The one that people download is the same, but for tables, where it takes rows."""
    inputs: list[ExportedInput]
    """What the download takes."""
    names: dict[str, str]
    """Of a table: by column, what the download's input for it is called."""
    difference: float
    others: list[Export]


def _export(job: _Job, outputs: evaluate.Array, data: Path) -> _Exported:
    """`model.keras`, and the other formats that the job asks for."""
    job.run.reporter.check()
    folder = job.run.workdir / RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    model, file = keras_file.exported(job.run.network.model, job.run.preprocess), folder / results.MODEL
    table = job.dataset.table
    download, names = keras_file.taking_rows(model, table.encoding) if table else (model, {})
    difference = keras_file.write(download, file, test=job.dataset.split("test"), expected=outputs, names=names)
    others = make_exports(
        job.spec.exports,
        results=folder,
        model=file,
        names=names,
        data=data,
        task=job.dataset.info.task,
        image_size=job.run.preprocess.image_size,
        seed=job.spec.seed,
        reporter=job.run.reporter,
    )
    return _Exported(model, inputs_of(download), names, difference, others)


def _write_canonical(job: _Job, model: keras.Model) -> SourceInfo:
    """`rescale` is `none`: the exported model takes raw examples and scales them itself."""
    data = job.dataset.info
    folder = job.run.workdir / CANONICAL
    return sources.write_canonical(model, folder, rescale="none", labels=data.classes, features=data.features)


def _report(
    job: _Job, *, test: Evaluation, receipt: SourceReceipt, exported: _Exported, ancestry: Ancestry | None
) -> Report:
    data = job.dataset.info
    best = min(job.run.history, key=lambda epoch: epoch.metrics["val_loss"])
    return Report(
        task=data.task,
        labels=data.classes,
        spec=job.spec,
        cut_layer=job.cut_layer,
        dataset_digest=data.digest,
        source=receipt,
        ancestry=ancestry,
        phases=job.run.phases,
        class_weights=weighing.class_weights(job.spec, data),
        test=test,
        best_validation=best.metrics,
        export_difference=exported.difference,
        inputs=exported.inputs,
        exports=exported.others,
        seconds=job.run.stages.seconds(),
        versions=runtime.versions(),
        device=runtime.device_name(),
        parameters=job.run.network.model.count_params(),
    )


def _write_results(job: _Job, report: Report, info: SourceInfo, names: dict[str, str]) -> None:
    results.write(
        job.run.workdir / RESULTS,
        data=job.dataset.info,
        history=job.run.history,
        report=report,
        result_digest=info.digest,
        names=names,
    )
