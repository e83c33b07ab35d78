"""The model that a job would train, as rows: the backbone's up to the cut, and the head's on top."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.domain import estimates
from app.domain.cuts import kept_rows, resolve_cut
from app.domain.dataset import DatasetInfo
from app.domain.estimates import Sizes
from app.domain.fitting import fit_shape
from app.domain.head_rows import head_rows
from app.domain.model import LayerRow, SourceInfo
from app.domain.spec import ResolvedSpec


@dataclass(frozen=True)
class Layout:
    """Rows of a model, with what they are trained on."""

    spec: ResolvedSpec
    source: SourceInfo
    data: DatasetInfo
    end: LayerRow
    """The last row of the backbone."""
    backbone: Sequence[LayerRow]
    head: Sequence[LayerRow]
    sizes: Sizes | None
    """Numbers that each row gives for one example."""

    @property
    def rows(self) -> list[LayerRow]:
        """Backbone and head."""
        return [*self.backbone, *self.head]

    @property
    def cached_examples(self) -> int:
        """Those that the cache would hold: every epoch sees them."""
        return self.data.splits["train"].examples + self.data.splits["validation"].examples

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return math.ceil(self.data.splits["train"].examples / self.spec.batch_size)


def lay_out(spec: ResolvedSpec, source: SourceInfo, data: DatasetInfo, *, name: str | None = None) -> Layout:
    """Cut the layer table and put the head's rows on. `name`: the source's, for messages. Raises `CutError`."""
    end = resolve_cut(source.layers, spec.cut, model=name)
    backbone = kept_rows(source.layers, end)
    head = head_rows(source.layers, end, spec.head, data, backbone=backbone)
    shape = fit_shape(spec.preprocessing, source, data).output_shape
    return Layout(
        spec=spec,
        source=source,
        data=data,
        end=end,
        backbone=backbone,
        head=head,
        sizes=estimates.sizes([*source.layers, *head], source, shape),
    )
