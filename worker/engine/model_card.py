"""The model card: what somebody needs to know before using a result, in Markdown.

Only what was measured stands in it, each figure with its uncertainty; what is not known is said to be not known.
The way of such cards: Mitchell et al., "Model Cards for Model Reporting", 2019.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from app.domain.ancestry import Ancestor, Ancestry
from app.domain.dataset import SPLITS, DatasetInfo
from app.domain.exports import FILES, Export
from app.domain.phases import Phase
from app.domain.report import Evaluation, Interval, PhaseReport, Report
from app.domain.spec import ResolvedSpec
from worker.engine import loading
from worker.engine.markdown import Row, code, json_code, plain, section, table

FILE = "MODEL_CARD.md"
MAX_CONFUSED_CLASSES = 20
"""A larger confusion matrix is left to `report.json`."""
FEW_EXAMPLES = 30
"""A class with fewer test examples is named among the limits: its figures may be far off."""
MAX_NAMED = 10


def card(report: Report, data: DatasetInfo, *, lineage: Mapping[str, str], files: Sequence[Mapping[str, Any]]) -> str:
    """The card's text. `files`: name, sha256 and bytes of the model's files; `lineage` as in the manifest."""
    sections = [
        _what(report, lineage),
        *([_ancestry(report.ancestry)] if report.ancestry else []),
        _data(data),
        _training(report),
        _test(report.test, report.labels),
        _choice(report),
        _limits(report, data),
        _exports(report.exports),
        _use(report),
        _files(files),
    ]
    return "\n\n".join(sections) + "\n"


# === Sections ===


def _head(spec: ResolvedSpec) -> str:
    if isinstance(spec.head, str):
        return "the source's own output layer"
    return ", ".join(layer.type for layer in spec.head.layers) or "nothing but a new output layer"


def _what(report: Report, lineage: Mapping[str, str]) -> str:
    spec, versions = report.spec, report.versions
    labels = report.labels or []
    does = f"tells {len(labels)} classes apart: {_named(labels)}" if labels else "predicts numbers"
    if report.task == "multi_label":
        does = f"says for each of {len(labels)} labels whether it applies: {_named(labels)}"
    weights = {
        "source": "the source's weights",
        "random": "new weights in the source's architecture (a baseline from scratch)",
    }[spec.backbone_weights]
    made_with = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [
        f"It {does}. It has {report.parameters:,} parameters and takes raw examples: what prepares them is inside.",
        "",
        (
            f"It was fine-tuned from another model, reused up to its layer {code(report.cut_layer)} with {weights}; "
            f"on top of that: {plain(_head(spec))}."
        ),
        "",
        table(("", "sha256"), [(name, code(digest)) for name, digest in lineage.items()]),
        "",
        (
            f"The source is {'unchanged' if report.source.unchanged else 'CHANGED'}: its digest after the job is "
            f"{code(report.source.model_digest_after)}. Made on {plain(report.device)} with {plain(made_with)}."
        ),
    ]
    return section("Model card", lines, level=1)


def _ancestry(ancestry: Ancestry) -> str:
    """The way back to the first source, one row for each job."""
    lines = [f"Made by job {code(ancestry.job)}."]
    if ancestry.retry_of:
        lines += ["", f"It did again what {', '.join(map(code, ancestry.retry_of))} had been asked to do."]
    if ancestry.ancestors:
        columns = ("began with", "of job", "sha256 of its file", "digest as a model", "digest of its dataset")
        lines += ["", table(columns, [_ancestor(each) for each in ancestry.ancestors])]
    first = ancestry.first_source
    known = [f"{name} {code(value)}" for name, value in (("from", first.origin), ("digest", first.digest)) if value]
    name = f" {plain(first.name)}" if first.name else ""
    lines += [
        "",
        f"The first source is model{name} {code(first.model)}: {', '.join(known) or 'nothing more is known'}.",
    ]
    return section("Ancestry", lines)


def _ancestor(ancestor: Ancestor) -> Row:
    kept = f" (phase {plain(ancestor.phase)})" if ancestor.phase else ""
    weights = f"checkpoint {code(ancestor.checkpoint)}{kept}" if ancestor.checkpoint else "the result"
    digests = (ancestor.weights_sha256, ancestor.model_digest, ancestor.dataset_digest)
    return (weights, code(ancestor.job), *(code(digest) if digest else "not known" for digest in digests))


def _examples(data: DatasetInfo) -> str:
    """What the examples are, in words."""
    if data.value_range is None:
        return "Texts"
    low, high = data.value_range
    shape = " x ".join("any" if size is None else str(size) for size in data.example_shape) or "one value"
    columns = f", made of {len(data.columns)} columns" if data.columns else ""
    return f"{data.kind.capitalize()}: {shape}, {data.dtype}, values from {low:g} to {high:g}{columns}"


def _data(data: DatasetInfo) -> str:
    splits = [name for name in SPLITS if name in data.splits]
    counts = {name: data.splits[name].class_counts or {} for name in splits}
    rows: list[Row] = [("examples", *(data.splits[name].examples for name in splits))]
    rows += [(plain(label), *(counts[name].get(label, 0) for name in splits)) for label in data.classes or ()]
    lines = [
        f"{_examples(data)}.",
        "",
        table(("", *splits), rows),
        "",
        (
            f"Unreadable examples left out: {data.corrupt_count}. Exact duplicates across splits: "
            f"{data.duplicates_across_splits}; nearly equal images: {data.near_duplicates_across_splits}."
        ),
    ]
    lines += [f"\n{plain(warning)}" for warning in data.warnings]
    return section("Data", lines)


def _training(report: Report) -> str:
    spec = report.spec
    rows = [_phase(phase, done) for phase, done in zip(spec.schedule, report.phases, strict=True)]
    columns = ("phase", "unfrozen", "epochs", "optimizer", "learning rate", "trained", "frozen", "seconds", "more")
    held = sum(phase.proof.held for phase in report.phases)
    lines = [
        f"Batches of {spec.batch_size}, seed {spec.seed}.",
        "",
        table(columns, rows),
        "",
        f"What was frozen stayed bit-identical in {held} of {len(report.phases)} phases.",
    ]
    return section("Training", lines)


def _phase(phase: Phase, done: PhaseReport) -> Row:
    told = {"name", "unfreeze", "epochs", "optimizer"}
    settings = phase.model_dump(mode="json", exclude_defaults=True, exclude=told)
    unfrozen = phase.unfreeze if isinstance(phase.unfreeze, str) else json_code(phase.unfreeze.model_dump(mode="json"))
    return (
        plain(done.name),
        unfrozen,
        f"{done.epochs_run} of {phase.epochs}",
        phase.optimizer.type,
        f"{phase.optimizer.learning_rate:g}",
        f"{done.trainable_parameters:,}",
        f"{done.frozen_parameters:,}",
        f"{done.seconds:.1f}",
        json_code(settings) if settings else "",
    )


def _test(test: Evaluation, labels: Sequence[str] | None) -> str:
    figures = [(name, value) for name, value in test if isinstance(value, Interval)]
    rows = [
        (name.replace("_", " "), f"{found.value:.4g}", f"{found.low:.4g} to {found.high:.4g}", found.method)
        for name, found in figures
    ]
    lines = [
        f"On {test.examples} examples that no phase trained on, looked at once, at the end. Loss: {test.loss:.4g}.",
        "",
        table(("", "value", "95 % interval", "method"), rows),
    ]
    if test.per_class:
        lines += ["", _per_class(test.per_class)]
    if test.confusion_matrix and labels:
        lines += ["", _confusion(test.confusion_matrix, labels)]
    return section("Test", lines)


def _per_class(per_class: Mapping[str, Mapping[str, float]]) -> str:
    names = list(dict.fromkeys(name for figures in per_class.values() for name in figures))
    rows = [(plain(label), *(_figure(figures, name) for name in names)) for label, figures in per_class.items()]
    return table(("class", *names), rows)


def _figure(figures: Mapping[str, float], name: str) -> str:
    return f"{figures[name]:.0f}" if name == "examples" else f"{figures.get(name, float('nan')):.3f}"


def _confusion(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    if len(labels) > MAX_CONFUSED_CLASSES:
        return f"The confusion matrix of {len(labels)} classes is in `report.json`."
    rows = [(plain(label), *row) for label, row in zip(labels, matrix, strict=True)]
    return table(("true \\ predicted", *(plain(label) for label in labels)), rows)


def _choice(report: Report) -> str:
    best = ", ".join(f"{name} {value:.4g}" for name, value in report.best_validation.items() if name != "seconds")
    lines = [
        (
            "The weights are those with which the last phase ended; nothing was chosen by the test split. The epoch "
            f"with the lowest validation loss had: {best}."
        ),
        "",
        (
            "This is the outcome of one job. Whether others were run and this one was picked is not known here; if so, "
            "its figures are better than the model."
        ),
    ]
    return section("How it was chosen", lines)


def _limits(report: Report, data: DatasetInfo) -> str:
    lines = [
        "- The figures hold for examples like the test split's, which came from the same file as the training data.",
        "- Outputs were not calibrated: 0.9 need not mean right in nine of ten cases.",
    ]
    few = [label for label, found in (report.test.per_class or {}).items() if found.get("examples", 0) < FEW_EXAMPLES]
    if few:
        lines.append(f"- Fewer than {FEW_EXAMPLES} test examples, so hardly a measure: {_named(few)}.")
    if data.duplicates_across_splits:
        lines.append(
            f"- {data.duplicates_across_splits} examples stand in more than one split; the figures may be too good."
        )
    if report.spec.backbone_weights == "source":
        lines.append("- What the source had learned from its own data, and its licence, are not known here.")
    return section("Limits", lines)


def _exports(exports: Sequence[Export]) -> str:
    if not exports:
        return section("Other formats", ["None were asked for."])
    return section(
        "Other formats",
        [
            "Each was loaded by its own runtime and compared with `model.keras` on test examples.",
            "",
            table(
                ("format", "file", "examples", "largest difference", "same class", "accuracy there", "of model.keras"),
                [_export(export) for export in exports],
            ),
            *(f"\n`{export.format}` failed: {plain(export.reason or '')}" for export in exports if export.reason),
        ],
    )


def _export(export: Export) -> Row:
    shares = (export.agreement, export.accuracy, export.keras_accuracy)
    return (
        export.format,
        export.file or "failed",
        export.examples or "",
        "" if export.difference is None else f"{export.difference:.2g}",
        *("" if share is None else f"{share:.1%}" for share in shares),
    )


def _use(report: Report) -> str:
    lines = [loading.answer(report.task, report.labels), "", *_snippet(FILES["keras"], loading.keras(report.inputs))]
    for export in report.exports:
        if export.file:
            lines += ["", *_snippet(export.file, loading.of(export))]
    return section("Use", lines)


def _snippet(file: str, python: str) -> list[str]:
    return [f"`{file}`:", "", "```python", python, "```"]


def _files(files: Sequence[Mapping[str, Any]]) -> str:
    rows = [(file["name"], f"{file['bytes']:,}", code(file["sha256"])) for file in files]
    return section("Files", [table(("file", "bytes", "sha256"), rows), "", "All others are in `manifest.json`."])


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(plain(name) for name in names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"
