"""Messages: what a child process tells its supervisor.

    ready, (reported | alive)*, then exactly one of: trained | registered | validated | tested | failed | stopped

They travel as lines of JSON, not as pickles: whoever has taken over a child must not run code in its supervisor.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from app.domain.base import Value
from app.domain.dataset import DatasetInfo, PreviewExample
from app.domain.errors import Failure, PlatformError
from app.domain.model import SourceInfo
from app.domain.progress import Progress
from app.domain.report import Report
from app.domain.worker import Fact

MAX_MESSAGE_BYTES = 64 * 1024**2
"""Layer tables and confusion matrices of the largest sources stay far below."""


class Ready(Value):
    """The process runs and is about to begin."""

    type: Literal["ready"] = "ready"


class Reported(Value):
    """The engine reports progress."""

    type: Literal["reported"] = "reported"
    progress: Progress


class Alive(Value):
    """The engine goes on: it has carried out something since the last message, however little there is to tell."""

    type: Literal["alive"] = "alive"


class Trained(Value):
    """The job is trained; results, canonical model and checkpoints lie in the attempt's folder."""

    type: Literal["trained"] = "trained"
    info: SourceInfo
    report: Report


class Registered(Value):
    """The model is usable; its canonical form lies in the attempt's folder."""

    type: Literal["registered"] = "registered"
    info: SourceInfo


class Validated(Value):
    """The dataset is usable; its canonical form lies in the attempt's folder."""

    type: Literal["validated"] = "validated"
    info: DatasetInfo
    preview: list[PreviewExample]


class Tested(Value):
    """The self-test is over."""

    type: Literal["tested"] = "tested"
    facts: list[Fact]
    bits: str
    """Of the job that is compared between processes."""
    device: str
    versions: dict[str, str]


class Failed(Value):
    """The engine gave up, for a reason that it knows."""

    type: Literal["failed"] = "failed"
    failure: Failure


class Stopped(Value):
    """The engine ended because it was asked to."""

    type: Literal["stopped"] = "stopped"


Outcome = Trained | Registered | Validated | Tested | Failed | Stopped
Message = Ready | Reported | Alive | Outcome

_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def encode(message: Message) -> bytes:
    """As a line of JSON."""
    return message.model_dump_json(by_alias=True).encode() + b"\n"


def decode(data: bytes) -> Message:
    """Read one message. Raises `PlatformError` if it is none."""
    try:
        return _MESSAGE.validate_json(data)
    except ValidationError as error:
        message = f"The process sent something that is no message of ours: {error.errors(include_input=False)[:3]}"
        raise PlatformError(message, code="internal_error") from error


class Inbox:
    """Puts messages together from bytes as they arrive; one that is broken off never becomes one."""

    def __init__(self) -> None:
        self._begun = bytearray()

    def take(self, data: bytes) -> list[Message]:
        """The messages that are complete with these bytes. Raises `PlatformError` for anything that is no message."""
        first, *others = data.split(b"\n")
        self._begun += first
        if len(self._begun) > MAX_MESSAGE_BYTES:
            message = f"The process sent a message of more than the {MAX_MESSAGE_BYTES:,} bytes that are allowed."
            raise PlatformError(message, code="internal_error")
        if not others:
            return []
        lines = [bytes(self._begun), *others[:-1]]
        self._begun = bytearray(others[-1])
        return [decode(line) for line in lines]
