"""Write the next migration from what `app.storage.tables` says: `python -m app.storage.migrations "what changes"`.

Read the result before you commit it: Alembic sees neither renames nor CHECK constraints.
"""

import sys
import tempfile
from pathlib import Path

from alembic import command

from app.storage.database import Database, configuration, upgrade

USAGE = 'usage: python -m app.storage.migrations "what changes"'


def main(arguments: list[str]) -> None:
    """Compare the tables with an empty database that all migrations were run on."""
    if len(arguments) != 1:
        sys.exit(USAGE)
    with tempfile.TemporaryDirectory() as folder:
        db = Database(f"sqlite:///{Path(folder) / 'thaw.db'}")
        upgrade(db)
        with db.begin() as session:
            command.revision(configuration(session.connection()), arguments[0], autogenerate=True)
        db.close()


if __name__ == "__main__":
    main(sys.argv[1:])
