"""Examples for models with several inputs: one plan of preprocessing for each input, in the model's order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.domain.dataset import DatasetInfo
from app.domain.inputs import views
from app.domain.model import SourceInfo
from app.domain.spec import Preprocessing
from worker.engine.data.found import Array
from worker.engine.data.preprocess import Preprocess


@dataclass(frozen=True)
class Preprocesses:
    """What happens to the examples for each input that a backbone uses."""

    parts: tuple[tuple[str, Preprocess], ...]
    """Names of the inputs, in the backbone's order, with their plans."""

    def apply(self, raw: Mapping[str, Array]) -> list[Array]:
        """For each input float32 `(batch, …)`, from the raw arrays by name."""
        return [preprocess.apply(raw[name]) for name, preprocess in self.parts]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of what the first input gets."""
        return self.parts[0][1].output_shape

    @property
    def image_size(self) -> tuple[int, int] | None:
        """`None`: arrays have one shape each, so the exported model's inputs have it too."""
        return None

    @property
    def numbers(self) -> int:
        """Of one example, all inputs together."""
        return sum(preprocess.numbers for _, preprocess in self.parts)

    @property
    def resizes(self) -> bool:
        """Whether pictures are resized for one of the inputs."""
        return any(preprocess.resizes for _, preprocess in self.parts)


def resolve_preprocess(
    wanted: Preprocessing, source: SourceInfo, data: DatasetInfo, *, used: Sequence[str]
) -> Preprocess | Preprocesses:
    """Plan how the dataset's examples become what the source takes; `used` are the inputs of its backbone.

    Raises DataError or UserError where the two do not fit, as `Preprocess.resolve`.
    """
    seen = views(wanted, source, data, used=used)
    plans = [(view.name, Preprocess.resolve(view.wanted, view.source, view.data)) for view in seen]
    return Preprocesses(tuple(plans)) if data.inputs else plans[0][1]
