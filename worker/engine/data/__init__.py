"""Data: from an uploaded archive to batches that train.

    upload --validate--> canonical folder --open_dataset--> StoredDataset --split(name).batches(…)--> (x, y)

`validate` needs no TensorFlow and runs once for each dataset; the canonical folder is immutable.
"""

from worker.engine.data.ordered import map_ordered
from worker.engine.data.pipeline import Batches, epoch_order
from worker.engine.data.preprocess import Preprocess
from worker.engine.data.several import Preprocesses, resolve_preprocess
from worker.engine.data.stored import Raw, Split, StoredDataset, open_dataset
from worker.engine.data.validate import validate

__all__ = [
    "Batches",
    "Preprocess",
    "Preprocesses",
    "Raw",
    "Split",
    "StoredDataset",
    "epoch_order",
    "map_ordered",
    "open_dataset",
    "resolve_preprocess",
    "validate",
]
