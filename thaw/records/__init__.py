"""What the service answers, as frozen dataclasses.

Every record keeps the JSON it was read from in `raw`. Fields that a newer service adds are there and nowhere else;
fields that an older one leaves out have their defaults. Times are Unix seconds, sizes bytes.
"""

from thaw.records.assets import (
    ArrayInput,
    CatalogueModel,
    CorruptExample,
    Dataset,
    Failure,
    File,
    Layer,
    Model,
    ModelInput,
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
    Export,
    FreezeProof,
    Interval,
    Job,
    JobProgress,
    PhaseProgress,
    PhaseReport,
    Report,
    SourceReceipt,
)
from thaw.records.plan import CachePlan, LayerPlan, MemoryPlan, PhasePlan, Plan, TimePlan
from thaw.records.record import Record, read
from thaw.records.service import Capabilities, Fact, Health, Part, SelfTest, Worker

__all__ = [
    "ArrayInput",
    "Artifact",
    "Attempt",
    "CachePlan",
    "Capabilities",
    "CatalogueModel",
    "Checkpoint",
    "CorruptExample",
    "Dataset",
    "EpochMetrics",
    "Evaluation",
    "Event",
    "Export",
    "Fact",
    "Failure",
    "File",
    "FreezeProof",
    "Health",
    "Interval",
    "Job",
    "JobProgress",
    "Layer",
    "LayerPlan",
    "MemoryPlan",
    "Model",
    "ModelInput",
    "ModelSummary",
    "Part",
    "PhasePlan",
    "PhaseProgress",
    "PhaseReport",
    "Plan",
    "PreviewExample",
    "Record",
    "Report",
    "SelfTest",
    "SourceReceipt",
    "Split",
    "TimePlan",
    "Worker",
    "read",
]
