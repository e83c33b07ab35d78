"""Checks on a `.keras` archive, before anything in it is read."""

import re
import shutil
import stat
import zipfile
from pathlib import Path

from worker.engine.intake import vocabularies
from worker.engine.intake.refusals import refuse
from worker.engine.intake.vet_json import MAX_BYTES

CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"

_FOLDER = re.compile(r"assets(?:/|/(?:layers/[a-z0-9_]+/)*(?:layers/)?(?:_lookup_layer/)?)?")
MAX_MEMBERS = 64
MAX_RATIO = 200
"""Of a text's size to its size in the archive; JSON of Keras is about 30 times smaller when compressed."""
MAX_WEIGHTS_RATIO = 20
"""Trained weights hardly compress; those of a tiny model do, so it counts only above this many bytes:"""
SMALL_BYTES = 16 * 1024**2
MAX_WEIGHTS_BYTES = 64 * 1024**3


def check_members(archive: zipfile.ZipFile) -> None:
    """Refuse what no version of Keras writes: other members, two of one name, links, encryption, bombs."""
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        refuse("unsafe_file", f"The archive has {len(members)} members; a .keras file has three.")
    names = [member.filename for member in members]
    for name in names:
        if names.count(name) > 1:
            refuse("unsafe_file", f"The archive has '{_short(name)}' twice; programs disagree on which one counts.")
    for member in members:
        _check_member(member)
    if missing := {CONFIG, METADATA, WEIGHTS} - set(names):
        refuse("corrupt_file", f"The archive lacks {sorted(missing)}. Save the model again with model.save('x.keras').")


def _check_member(member: zipfile.ZipInfo) -> None:
    name = member.filename
    if _FOLDER.fullmatch(name):
        if member.file_size:
            refuse("unsafe_file", f"The archive's '{_short(name)}' is no folder.")
        return  # an empty folder, which some versions write
    if name not in (CONFIG, METADATA, WEIGHTS) and not vocabularies.ASSET.fullmatch(name):
        refuse(
            "unsafe_file",
            f"The archive holds '{_short(name)}'; expected {CONFIG}, {METADATA}, {WEIGHTS} and vocabularies of layers "
            "alone. Save the model again with model.save('x.keras').",
        )
    if member.flag_bits & 0x1:
        refuse("unsafe_file", f"'{name}' is encrypted. Save the model without a password.")
    if stat.S_ISLNK(member.external_attr >> 16):
        refuse("unsafe_file", f"'{name}' is a link. Save the model again.")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        refuse("unsafe_file", f"'{name}' is compressed in a way that Keras does not use. Save the model again.")
    _check_sizes(member)


def _check_sizes(member: zipfile.ZipInfo) -> None:
    is_weights = member.filename == WEIGHTS
    most = MAX_WEIGHTS_BYTES if is_weights else MAX_BYTES
    ratio = MAX_WEIGHTS_RATIO if is_weights else MAX_RATIO
    small = is_weights and member.file_size <= SMALL_BYTES
    if member.file_size > most or not (small or member.file_size <= ratio * max(member.compress_size, 1)):
        refuse(
            "unsafe_file",
            f"'{member.filename}' unpacks from {member.compress_size} to {member.file_size} bytes; "
            f"at most {most}, and at most {ratio} times as many, are expected.",
        )


def extract_weights(archive: zipfile.ZipFile, destination: Path) -> None:
    """Copy the weights out, under a name of ours."""
    with archive.open(WEIGHTS) as source, destination.open("xb") as target:
        shutil.copyfileobj(source, target, 1024**2)


def _short(name: str) -> str:
    return name[:100]
