"""Pages of lists: keyset, never offset, so that a page costs the same at a million rows.

The order is (created_at, id): ids sort by time only to the millisecond and by the clock of whoever made them,
`created_at` is the database's clock, and together they are total.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy import ColumnElement, UnaryExpression, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session, defer

from app.domain.errors import FieldProblem, InvalidRequestError
from app.storage.tables import CheckpointRow, FileRow, Leased, UploadRow

T = TypeVar("T")
U = TypeVar("U")
ListedRow = TypeVar("ListedRow", bound=FileRow | UploadRow | Leased | CheckpointRow)
Order = Literal["asc", "desc"]
Position = tuple[InstrumentedAttribute[float], InstrumentedAttribute[str]]


@dataclass(frozen=True)
class PageQuery:
    """Where in a list to go on, and how far. `after` is the last id of the page before; `desc` is newest first."""

    after: str | None = None
    limit: int = 20
    order: Order = "desc"


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items of a list, and whether there are more behind them."""

    items: list[T]
    has_more: bool

    def map(self, change: Callable[[T], U]) -> "Page[U]":
        """The same page with other items."""
        return Page(items=[change(item) for item in self.items], has_more=self.has_more)


def cut_to(query: PageQuery, found: Sequence[T]) -> Page[T]:
    """A page of `query.limit` items, where one more was asked for to see whether there are more."""
    return Page(items=list(found[: query.limit]), has_more=len(found) > query.limit)


def page_of(
    session: Session,
    row: type[ListedRow],
    project: str,
    query: PageQuery,
    *,
    where: Sequence[ColumnElement[bool]] = (),
    position: Position | None = None,
    without: InstrumentedAttribute[Any] | None = None,
) -> Page[ListedRow]:
    """One page of a project's rows. Raises `InvalidRequestError` if `query.after` names nothing in the project.

    `position` is the pair of columns that orders, if they are to come from another table than `row`. `without`: a
    column that is not read, as it may be large.
    """
    columns = position or (row.created_at, row.id)
    statement = select(row).where(row.project == project, *where)
    if without is not None:
        statement = statement.options(defer(without, raiseload=True))
    if query.after is not None:
        at = tuple_(*_place(session, row, project, query.after))
        here = tuple_(*columns)
        statement = statement.where(here > at if query.order == "asc" else here < at)
    statement = statement.order_by(*in_order(columns, query.order)).limit(query.limit + 1)
    return cut_to(query, session.scalars(statement).all())


def in_order(columns: Sequence[InstrumentedAttribute[Any]], order: Order) -> list[UnaryExpression[Any]]:
    """The ORDER BY of a list."""
    return [column.asc() if order == "asc" else column.desc() for column in columns]


def unknown_after(after: str) -> InvalidRequestError:
    """The error for an `after` that names nothing in this list."""
    message = f"Nothing in this list has the id '{after}', which `after` names. Send the `last_id` of a page of it."
    problem = FieldProblem(pointer="/after", code="unknown_id", message=message)
    return InvalidRequestError(message, param="after", problems=[problem])


def _place(session: Session, row: type[ListedRow], project: str, after: str) -> tuple[float, str]:
    statement = select(row.created_at).where(row.project == project, row.id == after)
    created_at = session.scalars(statement).one_or_none()
    if created_at is None:
        raise unknown_after(after)
    return created_at, after
