"""`thaw backup` and `thaw restore`: one file with everything that `thaw up` keeps, taken while it runs.

A backup is a tar archive that its owner alone can read:

    thaw-backup.json    which format, which version of Thaw, when
    blobs/<sha256>      every blob that the database refers to, once
    thaw.db             the database as it was at one moment
    end.json            the database's sha256 and revision, and which blobs the store had lost

The last member says that the archive is whole. Blobs never change, so it is enough that each is there at the moment
when the database was copied. What was deleted between the two (a checkpoint that a newer one replaced) makes the
database be copied once more.

Not in it: the API key (the database has its sha256, so the key that people hold goes on to work), logs, caches, the
broker's hints (they are rung again), files of work in progress.
"""

from app.backup.archive import Summary
from app.backup.restoring import restore
from app.backup.taking import take
from app.domain.errors import ThawError

__all__ = ["Summary", "ThawError", "restore", "take"]
