"""Between values and JSON columns. What comes out of the database is checked by Pydantic again."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from app.domain.artifacts import Artifact, Bundle
from app.domain.errors import Failure
from app.domain.spec import ResolvedSpec


def dumped(value: BaseModel) -> dict[str, Any]:
    """The value for a JSON column."""
    return value.model_dump(mode="json")


def dumped_all(values: Sequence[BaseModel]) -> list[dict[str, Any]]:
    """The values for a JSON column."""
    return [dumped(value) for value in values]


def spec_column(spec: ResolvedSpec) -> dict[str, Any]:
    """The specification for its JSON column. Raises `ValidationError` for one that could not be read again.

    A job whose row nobody can read could not even be cancelled.
    """
    column = dumped(spec)
    ResolvedSpec.model_validate(column)
    return column


def bundle_of(column: list[Any]) -> Bundle:
    """The artifacts of a JSON column."""
    return [Artifact.model_validate(each) for each in column]


def failure_of(column: dict[str, Any] | None) -> Failure | None:
    """The failure of a JSON column."""
    return None if column is None else Failure.model_validate(column)
