"""The model that a job would train, as rows: the backbone's up to the cut, and the head's on top."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.domain import estimates, kept
from app.domain.cuts import resolve_cut
from app.domain.dataset import DatasetInfo
from app.domain.estimates import Sizes
from app.domain.fitting import fit_shape
from app.domain.head import Head
from app.domain.head_rows import head_rows
from app.domain.model import LayerRow, SourceInfo
from app.domain.phases import Phase
from app.domain.spec import ResolvedSpec


@dataclass(frozen=True)
class Layout:
    """Rows of a model, with what they are trained on."""

    spec: ResolvedSpec
    source: SourceInfo
    data: DatasetInfo
    cut: LayerRow
    """The last row of the source that is reused."""
    backbone: Sequence[LayerRow]
    head: Sequence[LayerRow]
    """New rows, or those of the source's own output layer."""
    example_shape: Sequence[int]
    """Of what the source is given, without the batch axis."""
    sizes: Sizes | None
    """Numbers that each row gives for one example."""

    @property
    def rows(self) -> list[LayerRow]:
        """Backbone and head."""
        return [*self.backbone, *self.head]

    @property
    def number_bytes(self) -> int:
        """Of a number that a layer gives: in what layers compute."""
        return estimates.FLOAT_BYTES if self.spec.mixed_precision == "off" else estimates.HALF_BYTES

    @property
    def cached_examples(self) -> int:
        """Those that the cache would hold: every epoch sees them."""
        return self.data.splits["train"].examples + self.data.splits["validation"].examples

    def steps(self, phase: Phase) -> int:
        """Optimizer steps of an epoch; each may have gathered the gradients of several batches."""
        return math.ceil(self.data.splits["train"].examples / (self.spec.batch_size * phase.gradient_accumulation))


def lay_out(spec: ResolvedSpec, source: SourceInfo, data: DatasetInfo, *, name: str | None = None) -> Layout:
    """Cut the layer table and put the head's rows on; `name`: the source's, for errors: `CutError` and `UserError`."""
    cut = resolve_cut(source.layers, spec.cut, model=name)
    backbone = kept.backbone(source.layers, spec, model=name)
    if isinstance(spec.head, Head):
        head = head_rows(source.layers, cut, spec.head, data, backbone=backbone)
    else:
        head = kept.split(source.layers)[1]
    shape = fit_shape(spec.preprocessing, source, data).output_shape
    return Layout(
        spec=spec,
        source=source,
        data=data,
        cut=cut,
        backbone=backbone,
        head=head,
        example_shape=shape,
        sizes=estimates.sizes([*source.layers, *head], source, shape),
    )
