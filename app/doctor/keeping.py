"""Whether what the service keeps is safe: database, file system, room, artifact store, API key."""

import os
import shutil
import stat
from pathlib import Path

import psutil
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from app.doctor.finding import Finding, ok, problem, warning
from app.services import health, pairing
from app.services.context import Services
from app.settings import Settings
from app.storage import inspection
from app.storage.database import lacks_file

NETWORK = frozenset(
    (
        *("9p", "afs", "afpfs", "beegfs", "ceph", "cifs", "davfs", "glusterfs", "gpfs", "lustre"),
        *("ncpfs", "nfs", "nfs4", "smb", "smb2", "smb3", "smbfs", "webdav"),
    )
)
"""File systems of other machines: SQLite's WAL mode needs shared memory, and locks that are kept."""
FUSE = "fuse"
FLEETING = frozenset(("overlay", "aufs", "tmpfs", "ramfs", "devtmpfs"))
"""Gone with the container, or at the next start of the machine."""
ROOM = 10
"""So many times what is always kept free is little."""


def missing_database(settings: Settings) -> Finding | None:
    """A database file that nobody has made yet."""
    url = settings.resolved_database_url()
    if not lacks_file(url):
        return None
    advice = "Start the service on this folder (thaw up), or name the folder that it uses: THAW_DATA_DIR, --data-dir."
    return problem("database", f"there is none at {make_url(url).database}: no service has run here yet", advice)


def database(services: Services) -> Finding:
    """Whether it answers, and has this version's tables."""
    found = health.database(services)
    if found.ok:
        return ok("database", "answers, and its schema is this version's")
    advice = "Start it, and check THAW_DATABASE_URL. An old schema is brought up to date by `thaw db upgrade`."
    return problem("database", found.detail, advice)


def database_version(services: Services) -> Finding:
    """Whether it is an SQLite with the rare fault of its WAL mode."""
    with services.db.read() as session:
        found = inspection.inspect(session)
    if not found.rare_fault:
        return ok("database version", found.described)
    advice = "Install a Python with SQLite 3.51.3 or later (or 3.50.7, 3.44.6), or use PostgreSQL. Keep backups."
    return warning("database version", found.described, advice)


def durability(services: Services) -> Finding:
    """Whether committed rows survive a power cut."""
    with services.db.read() as session:
        found = inspection.inspect(session)
    shown = ", ".join(f"{name} {value}" for name, value in found.durability.items())
    if not found.lacking:
        return ok("durability", shown)
    advice = f"Set {', '.join(found.lacking)} as the database's manual recommends: accepted jobs may be lost."
    return problem("durability", shown, advice)


def writing(services: Services) -> Finding:
    """Whether this user may write to it."""
    if refused := inspection.read_only(services.db):
        return problem("writing", f"the database can only be read: {refused.why}", refused.advice)
    try:
        inspection.try_writing(services.db)
    except DBAPIError as error:
        # Without the text of the driver's errors, which may hold a URL.
        found = f"the database refuses to write: {type(error.orig).__name__}"
        return problem("writing", found, "Make room on its disk, if that is full, and look at what it logs.")
    return ok("writing", "transactions that write are accepted")


def file_system(services: Services) -> Finding:
    """Whether SQLite's file, wherever it is, and the data folder are on disks of this machine that stay."""
    data, database = services.settings.data_dir.resolve(), _sqlite_folder(services.settings)
    kinds = {folder: _kind_of(folder) for folder in (database or data, data)}
    found = "; ".join(f"{folder} is on {kind or 'an unknown file system'}" for folder, kind in kinds.items())
    if database and _is_remote(kinds[database]):
        advice = f"SQLite loses data there. Move what is in {database} to a local disk, or use PostgreSQL."
        return problem("file system", found, advice)
    if _is_remote(kinds[data]):
        advice = "Fine for artifacts that all machines share; working folders are faster on a local disk."
        return warning("file system", found, advice)
    if not FLEETING.isdisjoint(kinds.values()):
        advice = "What is in it goes with the container or the next start. Put it on a disk or a volume."
        return warning("file system", found, advice)
    return ok("file system", found)


def _sqlite_folder(settings: Settings) -> Path | None:
    """Where SQLite's file really is: it follows links, and writes beside what they lead to."""
    url = make_url(settings.resolved_database_url())
    return Path(url.database).resolve().parent if url.get_backend_name() == "sqlite" and url.database else None


def _is_remote(kind: str) -> bool:
    return kind in NETWORK or kind.startswith(FUSE)


def _kind_of(folder: Path) -> str:
    """Type of the file system that a folder is on; empty if nobody says."""
    at = folder.resolve()
    above = {str(at), *(str(parent) for parent in at.parents)}
    mounted = [part for part in psutil.disk_partitions(all=True) if part.mountpoint in above]
    # Of several mounts on one point the last one is seen.
    return max(reversed(mounted), key=lambda part: len(part.mountpoint)).fstype.lower() if mounted else ""


def room(services: Services) -> Finding:
    """Whether there is room for more, in bytes and in names, in the data folder and beside SQLite's file."""
    data = services.settings.data_dir.resolve()
    folders = dict.fromkeys((data, _sqlite_folder(services.settings) or data))
    return max((_room_in(folder, services.settings.min_free_disk_bytes) for folder in folders), key=_weight)


def _room_in(folder: Path, kept: int) -> Finding:
    disk, names = shutil.disk_usage(folder), os.statvfs(folder)
    found = f"{disk.free / 1024**3:.1f} of {disk.total / 1024**3:.1f} GiB free in {folder}"
    if disk.free < kept:
        return problem("room", found, f"The service is not ready below {kept:,} bytes. Delete what is not needed.")
    if names.f_files and names.f_favail < names.f_files // 100:
        found = f"{names.f_favail:,} of {names.f_files:,} inodes free in {folder}"
        return warning("room", found, "Delete small files, or reformat.")
    if disk.free < ROOM * kept:
        return warning("room", found, f"The service is not ready below {kept:,} bytes. Make room in time.")
    return ok("room", found)


def _weight(finding: Finding) -> int:
    return ("ok", "warning", "problem").index(finding.verdict)


def store(services: Services) -> Finding:
    """Whether a blob can be written, read and deleted."""
    found = health.store(services)
    if found.ok:
        return ok("store", f"wrote, read and deleted a probe; {found.detail}")
    return problem("store", found.detail, "Check the artifact store's disk, its owner and its permissions.")


def pairing_of_store(services: Services) -> Finding:
    """Whether the artifact store is that of this database."""
    because = pairing.refusal(services)
    if because is None:
        return ok("artifacts", "the store has what the database refers to, as far as was looked")
    advice = "Set THAW_ARTIFACTS_URL or THAW_DATA_DIR as on the other machines, mount the folder, or restore a backup."
    return problem("artifacts", because, advice)


def key_file(services: Services) -> Finding:
    """Whether others can read the admin key."""
    path = services.settings.api_key_file()
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return ok("API key", "not on this machine; the API makes its file when it starts")
    if mode & 0o077:
        return problem(
            "API key", f"{path} can be read by others ({mode:o})", f"chmod 600 {path}, then set another key."
        )
    return ok("API key", f"{path} is its owner's alone")
