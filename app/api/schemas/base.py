"""What all wire forms share: frozen, described field by field, and the list around them."""

from collections.abc import Callable, Sequence
from typing import Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field


class Wire(BaseModel):
    """Base of what Thaw answers. Times are Unix seconds."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


Item = TypeVar("Item", bound=Wire)
Source = TypeVar("Source")


class ListOf(Wire, Generic[Item]):
    """A page of things."""

    object: Literal["list"] = "list"
    """Always `list`."""
    data: Sequence[Item]
    """The things of this page, in the order that was asked for."""
    first_id: str | None = None
    """What names the first of them; `null` on an empty page."""
    last_id: str | None = None
    """What names the last of them: send it as `after` to get the next page."""
    has_more: bool = False
    """Whether there are more behind this page."""

    @classmethod
    def of(cls, items: Sequence[Item], *, name: Callable[[Item], str], has_more: bool = False) -> Self:
        """A page; `name` gives what `after` takes."""
        first, last = (name(items[0]), name(items[-1])) if items else (None, None)
        return cls(data=items, first_id=first, last_id=last, has_more=has_more)


class Deleted(Wire):
    """It is gone."""

    id: str
    """What was deleted."""
    object: str = Field(examples=["file"])
    """What kind of thing it was."""
    deleted: Literal[True] = True
    """Always `true`: what could not be deleted is an error."""


def seconds(time: float | None) -> int | None:
    """Whole seconds, as OpenAI's clients in stricter languages expect them."""
    return None if time is None else int(time)
