"""What a converting process is asked to do, and how it answers: files, since converters may crash or be ended.

order.json             what to do
<format>.json          what became of each export, written when it is done
saved_model.zip, …     those that succeeded
exit status            NO_ROOM: there was no room on the disk, for an export or for this answer
"""

import errno
from pathlib import Path

from pydantic import Field

from app.domain.base import Value
from app.domain.exports import FILES, Export, ExportFormat
from app.domain.spec import Task
from worker.engine import durable

ORDER = "order.json"
NO_ROOM = errno.ENOSPC
"""No other way in which Python ends: 1 and 2 are its own, 120 is a standard stream that could not be flushed."""


class Order(Value):
    """Convert `model`, compare each result with it on examples of `data`."""

    formats: list[ExportFormat]
    """In this order."""
    model: Path
    """The `model.keras` that is to be published."""
    names: dict[str, str] = Field(default_factory=dict)
    """Of a model that takes a table's rows: by column, what the input for it is called."""
    data: Path
    """The canonical dataset."""
    task: Task
    image_size: tuple[int, int] | None
    """Height and width that the job trained at, for formats that need one size; `None` for anything but pictures."""
    seed: int
    """Of the job: it chooses the representative examples."""
    folder: Path
    """Where everything goes."""

    def file(self, wanted: ExportFormat) -> Path:
        """Where that export goes."""
        return self.folder / FILES[wanted]

    def write(self) -> Path:
        """Write the order down for the process that will read it."""
        path = self.folder / ORDER
        durable.write_text(path, self.model_dump_json())
        return path

    def answer(self, export: Export) -> None:
        """Write down what became of one export."""
        durable.write_text(self._answer(export.format), export.model_dump_json())

    def answered(self, wanted: ExportFormat) -> Export | None:
        """What became of that export; `None` if the process did not get so far."""
        path = self._answer(wanted)
        return Export.model_validate_json(path.read_bytes()) if path.exists() else None

    def _answer(self, wanted: ExportFormat) -> Path:
        return self.folder / f"{wanted}.json"
