"""What the phases of a job share while it runs, and what belongs to the one that trains."""

import math
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import keras

from app.domain.caching import CacheWish
from app.domain.phases import Phase
from app.domain.progress import EpochFinished, PhaseProgress
from app.domain.report import PhaseReport
from app.domain.spec import ResolvedSpec
from worker.engine.augmentation import Augmenter
from worker.engine.checkpoint import Checkpoints, Fingerprints
from worker.engine.data import Preprocess, Preprocesses, Split
from worker.engine.foldercache import FolderCache
from worker.engine.objective import Objective
from worker.engine.reporter import Reporter, StepReports
from worker.engine.schedule import Selection, Variables
from worker.engine.stages import Stages
from worker.engine.steps import EvaluationStep, Network
from worker.engine.stopping import BestEpoch, EarlyStop
from worker.engine.totals import Totals
from worker.engine.wiring import Wiring


@dataclass
class Run:
    """A run between its loading and its report."""

    spec: ResolvedSpec
    network: Network
    objective: Objective
    train: Split
    validation: Split
    preprocess: Preprocess | Preprocesses
    workdir: Path
    reporter: Reporter
    stages: Stages
    dataset_digest: str
    features: FolderCache
    """Where cached features are kept."""
    selections: list[Selection]
    """What each phase of the schedule unfreezes."""
    checkpoints: Checkpoints
    scale_losses: bool = False
    """Whether gradients would vanish otherwise: float16."""
    augmenter: Augmenter | None = None
    """Changes training batches at random; `None`: they are trained on as they are."""
    steps: int = 0
    """Optimizer steps since the start of the job."""
    history: list[EpochFinished] = field(default_factory=list)
    phases: list[PhaseReport] = field(default_factory=list)
    """Of the phases that have ended."""
    moved: Variables = field(default_factory=dict)
    """Every weight that the phases so far may have moved."""
    optimizer: keras.optimizers.Optimizer | None = None
    """Of the phase that trains, or trained last; the next phase may carry on with it."""
    best: BestEpoch | None = None
    """Of the phase that trains, or trained last, where the next one starts from it."""

    def __post_init__(self) -> None:
        self.step_reports = StepReports(self.reporter)
        self.use(self.network)

    @property
    def batch_size(self) -> int:
        """Examples in each step."""
        return self.spec.batch_size

    @property
    def seed(self) -> int:
        """Of everything that is drawn by chance."""
        return self.spec.seed

    @property
    def cache(self) -> CacheWish:
        """Whether frozen layers are to run once, and not once for each epoch."""
        return self.spec.cache

    def use(self, network: Network) -> None:
        """Go on with another network."""
        self.network = network
        self.evaluation = EvaluationStep(network, self.objective)
        self.__dict__.pop("wiring", None)  # of the network before

    @cached_property
    def wiring(self) -> Wiring:
        """The model as a list of calls."""
        return Wiring(self.network.model)

    def steps_per_epoch(self, examples_per_step: int) -> int:
        """Optimizer steps of an epoch; the last one may have fewer examples."""
        return math.ceil(len(self.train) / examples_per_step)


@dataclass
class PhaseRun:
    """The phase that trains. What changes while it does is what a checkpoint keeps."""

    phase: Phase
    index: int
    """From 1."""
    selection: Selection
    early_stop: EarlyStop | None
    before: Fingerprints
    """Of all weights, at its start."""
    optimizer: Any = None
    """A `keras.optimizers.Optimizer`, once the phase is prepared."""
    cached: bool = False
    """Whether it trains on cached features, once it is prepared."""
    epochs: int = 0
    """How many have ended."""
    steps: int = 0
    """Done in the epoch in progress."""
    totals: Totals = field(default_factory=Totals)
    """Of the epoch in progress."""
    seconds_before: float = 0.0
    """What it took before it was interrupted."""
    started: float = field(default_factory=time.perf_counter)

    @property
    def over(self) -> bool:
        """Whether no epoch is left, or early stopping has waited long enough."""
        return self.epochs >= self.phase.epochs or (self.early_stop is not None and self.early_stop.over)

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return self.seconds_before + time.perf_counter() - self.started

    def progress(self, epoch: int) -> PhaseProgress:
        """Where in the schedule this epoch is."""
        return PhaseProgress(index=self.index, name=str(self.phase.name), epoch=epoch, epochs=self.phase.epochs)
