"""Presets: schedules that have a name. Each expands to phases when a job is submitted, and the job shows those in full.

two_phase     the head, then everything a hundred times slower: the recipe of the Keras transfer learning guide
head_only     the head alone, on frozen layers
gradual       the head, then one block more in each phase, from the top (Howard and Ruder, 2018)
fine_tune     the head for one cycle, then everything for another, at half the rate, lower layers slower (fastai)
full          everything from the first step, along half a cosine
from_scratch  the same architecture from new weights: the baseline
"""

from abc import ABC, abstractmethod
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from app.domain.base import Value
from app.domain.learning_rates import CosineRate, OneCycleRate
from app.domain.optimizers import Optimizer, Rate
from app.domain.phases import EarlyStopping, Epochs, Phase, Unfreeze, UnfreezeFraction

OptimizerName = Literal["sgd", "adam", "adamw", "rmsprop", "nadam", "adagrad"]
MAX_BLOCKS = 49
"""With the head's phase as many as a schedule may have."""

_OPTIMIZER: TypeAdapter[Optimizer] = TypeAdapter(Optimizer)


class _Preset(Value, ABC):
    """Options that all presets share."""

    optimizer: OptimizerName = "adam"
    """The optimizer of all phases, with its usual options."""
    early_stopping: EarlyStopping | None = None
    """Whether the last phase may end before its epochs are over."""

    def phases(self) -> list[Phase]:
        """What the preset stands for."""
        *first, last = self._phases()
        return [*first, last.model_copy(update={"early_stopping": self.early_stopping})]

    @abstractmethod
    def _phases(self) -> list[Phase]:
        """All phases, without early stopping."""

    def _at(self, rate: float) -> Optimizer:
        return _OPTIMIZER.validate_python({"type": self.optimizer, "learning_rate": rate})


class TwoPhase(_Preset):
    """Train the head on frozen layers, then everything, slowly."""

    preset: Literal["two_phase"]
    """Names the preset."""
    head_epochs: Epochs = 4
    """Of the head alone."""
    epochs: Epochs = 16
    """Of the second phase."""
    learning_rate: Rate = 0.01
    """Of the head; the second phase has a hundredth of it."""
    unfreeze: Unfreeze = "all"
    """What trains in the second phase."""
    optimizer: OptimizerName = "sgd"
    """The optimizer of both phases, with its usual options."""

    def _phases(self) -> list[Phase]:
        name = "all" if self.unfreeze == "all" else "part"
        rate = self.learning_rate / 100
        return [
            Phase(name="head", unfreeze="none", epochs=self.head_epochs, optimizer=self._at(self.learning_rate)),
            Phase(name=name, unfreeze=self.unfreeze, epochs=self.epochs, optimizer=self._at(rate)),
        ]


class HeadOnly(_Preset):
    """Train the head alone, on layers that stay frozen."""

    preset: Literal["head_only"]
    """Names the preset."""
    epochs: Epochs = 20
    """How often all training examples are seen, at most."""
    learning_rate: Rate = 0.001
    """Of the head."""

    def _phases(self) -> list[Phase]:
        return [Phase(name="head", unfreeze="none", epochs=self.epochs, optimizer=self._at(self.learning_rate))]


class Gradual(_Preset):
    """Train the head, then unfreeze one block more in each phase, from the top (Howard and Ruder, 2018)."""

    preset: Literal["gradual"]
    """Names the preset."""
    blocks: int = Field(default=4, ge=1, le=MAX_BLOCKS)
    """Into so many parts of as many layers the backbone is divided."""
    head_epochs: Epochs = 4
    """Of the head alone."""
    epochs: Epochs = 3
    """Of each phase after it."""
    learning_rate: Rate = 0.001
    """Of the head."""
    rate_factor: float = Field(default=0.3, gt=0, le=1)
    """Each phase has this part of the learning rate of the one before."""

    def _phases(self) -> list[Phase]:
        head = Phase(name="head", unfreeze="none", epochs=self.head_epochs, optimizer=self._at(self.learning_rate))
        return [head, *(self._block(number) for number in range(1, self.blocks + 1))]

    def _block(self, number: int) -> Phase:
        rate = max(self.learning_rate * self.rate_factor**number, 1e-12)
        part: Unfreeze = UnfreezeFraction(fraction=number / self.blocks) if number < self.blocks else "all"
        return Phase(name=f"block-{number}", unfreeze=part, epochs=self.epochs, optimizer=self._at(rate))


class FineTune(_Preset):
    """fastai's `fine_tune`: the head for one cycle, then everything for another, at half the rate, lower layers slower.

    fastai gives its lowest of three groups of layers a hundredth of the rate; here it falls smoothly, layer by layer.
    """

    preset: Literal["fine_tune"]
    """Names the preset."""
    head_epochs: Epochs = 1
    """Of the head alone."""
    epochs: Epochs = 4
    """Of the second phase."""
    learning_rate: Rate = 0.002
    """The highest of the head; the second phase has half of it."""
    layer_decay: float = Field(default=0.9, gt=0, le=1)
    """In the second phase each layer further down gets the learning rate times this once more."""

    def _phases(self) -> list[Phase]:
        rise = OneCycleRate(type="one_cycle", warmup_epochs=0.99 * self.head_epochs)
        cycle = OneCycleRate(type="one_cycle", warmup_epochs=0.3 * self.epochs, start_factor=0.2)
        head = Phase(
            name="head",
            unfreeze="none",
            epochs=self.head_epochs,
            optimizer=self._at(self.learning_rate),
            learning_rate_schedule=rise,
        )
        everything = Phase(
            name="all",
            unfreeze="all",
            epochs=self.epochs,
            optimizer=self._at(self.learning_rate / 2),
            learning_rate_schedule=cycle,
            layer_decay=self.layer_decay,
        )
        return [head, everything]


class Full(_Preset):
    """Train everything from the first step; the learning rate rises for an epoch and falls along half a cosine."""

    preset: Literal["full"]
    """Names the preset."""
    epochs: Epochs = 20
    """How often all training examples are seen, at most."""
    learning_rate: Rate = 0.0001
    """The highest."""

    def _phases(self) -> list[Phase]:
        cosine = CosineRate(type="cosine", warmup_epochs=1.0 if self.epochs > 1 else 0.0)
        optimizer = self._at(self.learning_rate)
        return [
            Phase(name="all", unfreeze="all", epochs=self.epochs, optimizer=optimizer, learning_rate_schedule=cosine)
        ]


class FromScratch(_Preset):
    """Train the same architecture from new weights, the baseline of transfer; sets `backbone_weights` to `random`."""

    preset: Literal["from_scratch"]
    """Names the preset."""
    epochs: Epochs = 20
    """How often all training examples are seen, at most."""
    learning_rate: Rate = 0.001
    """Of everything."""

    def _phases(self) -> list[Phase]:
        optimizer = self._at(self.learning_rate)
        return [Phase(name="all", unfreeze="all", epochs=self.epochs, optimizer=optimizer, batch_norm="train")]


Preset = Annotated[TwoPhase | HeadOnly | Gradual | FineTune | Full | FromScratch, Field(discriminator="preset")]
PresetName = Literal["two_phase", "head_only", "gradual", "fine_tune", "full", "from_scratch"]

_PRESET: TypeAdapter[Preset] = TypeAdapter(Preset)


def named(name: PresetName) -> Preset:
    """The preset of this name, with its usual options."""
    return _PRESET.validate_python({"preset": name})
