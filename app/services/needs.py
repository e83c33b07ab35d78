"""What is still needed must not be deleted.

    a file                what is being made of it, and the jobs that wait for that
    a model, a dataset    jobs that have not ended; models that are being made of a checkpoint of a job on it, and the
                          jobs that wait for those

The caller holds the row of what is to be deleted: nobody begins to need it meanwhile.
"""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.domain.errors import InUseError
from app.storage import assets, jobs, models
from app.storage.tables import DatasetRow, ModelRow

LISTED = 20
"""Ids in an answer."""


def refuse_file(session: Session, project: str, identifier: str) -> None:
    """Raise `InUseError` while something is being made of the file."""
    checked = [
        *assets.being_checked(session, ModelRow, project, identifier, limit=LISTED),
        *assets.being_checked(session, DatasetRow, project, identifier, limit=LISTED),
    ]
    waiting = jobs.unfinished_with(session, project, checked, limit=LISTED)
    _refuse(f"File '{identifier}'", [*waiting, *checked], until="is still being checked. Try again later.")


def refuse_asset(session: Session, project: str, what: str, identifier: str) -> None:
    """Raise `InUseError` while something needs the model or dataset; `what` it is called."""
    restored = models.being_restored_with(session, project, identifier, limit=LISTED)
    needing = jobs.unfinished_with(session, project, [identifier, *restored], limit=LISTED)
    _refuse(f"{what} '{identifier}'", [*needing, *restored], until="is not finished. Cancel those jobs, or wait.")


def _refuse(what: str, needed_by: Sequence[str], *, until: str) -> None:
    if needed_by:
        named = ", ".join(f"'{each}'" for each in needed_by[:LISTED])
        message = f"{what} is needed by {named}, which {until}"
        raise InUseError(message, needed_by=needed_by[:LISTED])
