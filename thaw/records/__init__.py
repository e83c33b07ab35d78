"""What the service answers, as frozen dataclasses.

Every record keeps the JSON it was read from in `raw`. Fields that a newer service adds are there and nowhere else;
fields that an older one leaves out have their defaults. Times are Unix seconds, sizes bytes.
"""

from thaw.records.assets import (
    CatalogueModel,
    CorruptExample,
    Dataset,
    Failure,
    File,
    Layer,
    Model,
    ModelSummary,
    PreviewExample,
    Split,
)
from thaw.records.jobs import (
    Artifact,
    Attempt,
    Checkpoint,
    EpochMetrics,
    Evaluation,
    Event,
    FreezeProof,
    Interval,
    Job,
    JobProgress,
    PhasePlan,
    PhaseProgress,
    PhaseReport,
    Plan,
    Report,
    SourceReceipt,
)
from thaw.records.record import Record, read
from thaw.records.service import Capabilities, Health, Part, Worker

__all__ = [
    "Artifact",
    "Attempt",
    "Capabilities",
    "CatalogueModel",
    "Checkpoint",
    "CorruptExample",
    "Dataset",
    "EpochMetrics",
    "Evaluation",
    "Event",
    "Failure",
    "File",
    "FreezeProof",
    "Health",
    "Interval",
    "Job",
    "JobProgress",
    "Layer",
    "Model",
    "ModelSummary",
    "Part",
    "PhasePlan",
    "PhaseProgress",
    "PhaseReport",
    "Plan",
    "PreviewExample",
    "Record",
    "Report",
    "SourceReceipt",
    "Split",
    "Worker",
    "read",
]
