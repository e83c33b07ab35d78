"""Checks on an HDF5 file, before Keras reads from it.

HDF5 can point at other files (external links, external storage, virtual datasets), declare arrays of any size
without holding them, and name plug-ins to load. Files that Keras writes do none of that.
"""

import math
from pathlib import Path
from typing import Any

import h5py

from worker.engine.intake.refusals import refuse

MAX_OBJECTS = 200_000
MAX_DEPTH = 64
MAX_ATTRIBUTE_BYTES = 16 * 1024**2
MAX_RATIO = 64
"""Of an array's size to what is stored of it, if it is compressed at all."""
NUMBERS = frozenset("fiub")
TEXTS = frozenset("SUO")
FILTERS = frozenset({h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF})


def check_hdf5(path: Path) -> None:
    """Refuse a file with anything but groups and arrays of numbers that it holds itself."""
    try:
        with h5py.File(path, "r") as file:
            check = _Check(path.stat().st_size)
            check.attributes(file, "/")
            check.group(file, depth=0)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        # What h5py raises on a damaged file depends on where the damage is.
        refuse("corrupt_file", f"The HDF5 file is damaged: {str(error)[:200]}. Save the model again.")


class _Check:
    def __init__(self, file_bytes: int) -> None:
        self._left = file_bytes
        self._seen: set[Any] = set()

    def group(self, group: h5py.Group, *, depth: int) -> None:
        """Look at everything in a group."""
        if depth > MAX_DEPTH:
            refuse("unsafe_file", f"The HDF5 file is nested more than {MAX_DEPTH} levels deep.")
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"[:200]
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                refuse("unsafe_file", f"'{where}' in the HDF5 file is a link to somewhere else. Save the model again.")
            self._member(group[name], where, depth)

    def attributes(self, owner: h5py.HLObject, where: str) -> None:
        """Look at the type and size of an object's attributes, without reading them."""
        for name in owner.attrs:
            attribute = owner.attrs.get_id(name)
            kind = attribute.dtype.kind
            if kind not in NUMBERS | TEXTS or (kind == "O" and h5py.check_string_dtype(attribute.dtype) is None):
                refuse("unsafe_file", f"Attribute '{name[:100]}' of '{where}' is neither numbers nor text.")
            if math.prod(attribute.shape or ()) * attribute.dtype.itemsize > MAX_ATTRIBUTE_BYTES:
                refuse("unsafe_file", f"Attribute '{name[:100]}' of '{where}' is larger than any that Keras writes.")

    def _member(self, member: h5py.HLObject, where: str, depth: int) -> None:
        address = h5py.h5o.get_info(member.id).addr
        if address in self._seen or len(self._seen) >= MAX_OBJECTS:
            refuse("unsafe_file", f"'{where}' in the HDF5 file is there twice, or one of more than {MAX_OBJECTS}.")
        self._seen.add(address)
        self.attributes(member, where)
        if isinstance(member, h5py.Group):
            self.group(member, depth=depth + 1)
        elif isinstance(member, h5py.Dataset):
            self._dataset(member, where)
        else:
            refuse("unsafe_file", f"'{where}' in the HDF5 file is neither a group nor an array.")

    def _dataset(self, dataset: h5py.Dataset, where: str) -> None:
        if dataset.external or dataset.is_virtual:
            refuse("unsafe_file", f"The numbers of '{where}' are in another file. Save the model again.")
        if dataset.dtype.kind not in NUMBERS:
            refuse("unsafe_file", f"'{where}' holds {dataset.dtype}; the arrays of a model are numbers.")
        settings = dataset.id.get_create_plist()
        filters = {settings.get_filter(number)[0] for number in range(settings.get_nfilters())}
        if unknown := filters - FILTERS:
            refuse("unsafe_file", f"'{where}' is packed by the filters {sorted(unknown)}, which Keras does not use.")
        self._check_size(dataset, where, packed=bool(filters))

    def _check_size(self, dataset: h5py.Dataset, where: str, *, packed: bool) -> None:
        stored, declared = dataset.id.get_storage_size(), dataset.size * dataset.dtype.itemsize
        # Small arrays may be kept in the header, where they do not count as stored.
        if declared > max(stored * (MAX_RATIO if packed else 1), 65_536) or stored > self._left:
            refuse("unsafe_file", f"'{where}' declares {declared} bytes, and the file holds {stored} of them.")
        self._left -= stored
