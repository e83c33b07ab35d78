"""What the phases of a job share while it runs."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import keras

from app.domain.caching import CacheWish
from app.domain.progress import EpochFinished
from worker.engine.augmentation import Augmenter
from worker.engine.data import Preprocess, Preprocesses, Split
from worker.engine.foldercache import FolderCache
from worker.engine.objective import Objective
from worker.engine.reporter import Reporter, StepReports
from worker.engine.stages import Stages
from worker.engine.steps import EvaluationStep, Network
from worker.engine.stopping import BestEpoch
from worker.engine.wiring import Wiring


@dataclass
class Run:
    """A run between its loading and its report."""

    network: Network
    objective: Objective
    train: Split
    validation: Split
    preprocess: Preprocess | Preprocesses
    batch_size: int
    seed: int
    workdir: Path
    reporter: Reporter
    stages: Stages
    dataset_digest: str
    features: FolderCache
    """Where cached features are kept."""
    cache: CacheWish = "auto"
    scale_losses: bool = False
    """Whether gradients would vanish otherwise: float16."""
    augmenter: Augmenter | None = None
    """Changes training batches at random; `None`: they are trained on as they are."""
    steps: int = 0
    """Optimizer steps since the start of the job."""
    first_step_at: float | None = None
    """`time.perf_counter()` at the end of the first of them."""
    history: list[EpochFinished] = field(default_factory=list)
    optimizer: keras.optimizers.Optimizer | None = None
    """The one of the phase before; the next phase may carry on with it."""
    best: BestEpoch | None = None
    """Of the phase before, where the next one starts from it."""

    def __post_init__(self) -> None:
        self.step_reports = StepReports(self.reporter)
        self.use(self.network)

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
