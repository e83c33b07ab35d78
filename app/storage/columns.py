"""What the tables are made of: the base of all rows, types of columns, and rules that several tables share."""

from typing import Any, ClassVar

from sqlalchemy import JSON, CheckConstraint, Double, ForeignKey, Index, MetaData, Text, TypeDecorator
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

JsonObject = dict[str, Any]  # what Pydantic makes of a value; it checks it again on the way back
JsonList = list[Any]


class Words(TypeDecorator[str]):
    """Text, of every column that has no other type, as most of it comes from outside.

    What PostgreSQL cannot keep (NUL, lone surrogates) is replaced, so that both databases keep and find the same.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 (the signature is SQLAlchemy's)
        """The text as both databases can keep it."""
        return None if value is None else value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


class Base(DeclarativeBase):
    """The base of all rows."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Words(),
        float: Double(),
        JsonObject: JSON(none_as_null=True),
        JsonList: JSON(none_as_null=True),
    }


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """The column holds one of these."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


def newest_first(table: str, *columns: str) -> Index:
    """An index for a list with these filters: one page is one range of the index, at any length of the table."""
    return Index(f"ix_{'_'.join((table, *columns))}_page", "project", *columns, "created_at", "id")


class Owned:
    """Columns of everything that belongs to a project."""

    project: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    created_at: Mapped[float]
