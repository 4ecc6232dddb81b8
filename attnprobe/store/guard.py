"""Checks a shard before any data is read from it: it may come from a stranger.

Only metadata is looked at, and of that nothing whose cost a file can choose: no list of chunks is
walked (it may claim any length), no dataset's size is asked for before it is known to lie in chunks
of this file (that could open another one), and what a dataset claims must fit into the file.
"""

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5l, h5o, h5p, h5t  # pyright: ignore[reportAttributeAccessIssue]

from attnprobe.errors import FormatError
from attnprobe.store.codes import CODES, mass_code
from attnprobe.store.layout import (
    BIG,
    BY_NAME,
    FILTERS,
    GZIP_LEVEL,
    MAX_CHUNK_BYTES,
    MAX_NAME_BYTES,
    Column,
)
from attnprobe.store.publish import sha256
from attnprobe.store.receipts import Receipt

MAX_ATTRIBUTES, MAX_ATTRIBUTE_BYTES, MAX_SHORT_BYTES = 64, 65536, 64
MAX_OBJECTS, MAX_DEPTH, MAX_RANK = 400, 3, 8
MAX_LIGHT_BYTES = 2**30
"""What the columns that are read whole may take in memory, all together."""
MAX_RATIO = 1032
"""Deflate makes nothing smaller than this (RFC 1951: 258 bytes by two bits)."""
MIN_CHUNK_ENTRY = 8
"""Bytes that the address of a chunk takes in the file."""

SUPERBLOCK_BYTES = 48
SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = b"\xff" * 8

NEVER_READ = (b"dims", b"unit")
"""Attributes for whoever looks into a shard with other tools."""

KINDS = (h5t.INTEGER, h5t.FLOAT, h5t.STRING)
TYPES = {
    "<i4": h5t.STD_I32LE, "|u1": h5t.STD_U8LE, "<f4": h5t.IEEE_F32LE, "<u2": h5t.STD_U16LE,
    "<i8": h5t.STD_I64LE, "<u4": h5t.STD_U32LE,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stored:
    """How a checked dataset lies in its file."""

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype
    id: h5d.DatasetID
    """Its handle, as long as the file is open."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a shard must hold."""

    columns: Mapping[str, Column]
    lengths: Mapping[str, int]
    """Length of each axis; one that is missing may have any length that fits into the file."""
    encoding: str
    """Name of the code of the weights."""

    def code_name(self, column: Column) -> str:
        """Return the name of a column's code, or nothing where it has none."""
        weights = CODES[self.encoding]
        return {"code": weights.name, "mass": mass_code(weights).name}.get(column.dtype, "")


def check_sealed(path: Path, receipt: Receipt) -> None:
    """Check that a shard is byte for byte what its receipt says.

    Raises:
        FormatError: Naming the shard and the fault.
    """
    check_size(path, receipt)
    try:
        digest = sha256(path)
    except OSError as error:
        raise fault(path, "the shard cannot be read", error) from error
    if digest != receipt.sha256:
        raise fault(
            path, "the content is not what was sealed", f"SHA-256 {digest[:12]}…",
            f"{receipt.sha256[:12]}…",
        )  # fmt: skip


def check_size(path: Path, receipt: Receipt) -> os.stat_result:
    """Check that a shard is a file, and as long as its receipt says.

    Returns:
        What the file system says about it.

    Raises:
        FormatError: Naming the shard and the fault.
    """
    try:
        folder, found = path.parent.lstat(), path.lstat()
    except OSError as error:
        raise fault(path, "the shard cannot be read", error) from error
    if not stat.S_ISDIR(folder.st_mode):
        raise fault(path, "the folder of the shards is no folder, but leads elsewhere")
    if not stat.S_ISREG(found.st_mode):
        raise fault(path, "the shard is no file of its own", stat.filemode(found.st_mode))
    if found.st_size != receipt.bytes:
        raise fault(path, "the size is not the receipt's", f"{found.st_size} bytes", receipt.bytes)
    return found


def open_file(path: Path) -> h5py.File:
    """Open a file, however it may be built inside.

    Raises:
        FormatError: If it is no HDF5 file, or one that begins otherwise than attnprobe's do.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            start = os.read(descriptor, SUPERBLOCK_BYTES)
        finally:
            os.close(descriptor)
        _check_superblock(path, start)
        return h5py.File(h5f.open(os.fsencode(path), h5f.ACC_RDONLY, _access()))
    except (OSError, RuntimeError) as error:
        raise fault(path, "this is no readable HDF5 file", error) from error


@cache
def _access() -> h5p.PropFAID:
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    access.set_file_locking(False, True)  # nobody writes to a sealed shard
    access.set_cache(0, 1, 0, 0.0)  # chunks are not read through HDF5
    return access


def _check_superblock(path: Path, start: bytes) -> None:
    """Check the first bytes: no user block, sizes of 8 bytes, no extension (HDF5 format, II.A)."""
    whole = len(start) == SUPERBLOCK_BYTES and start.startswith(SIGNATURE)
    if not whole or start[8] not in (2, 3):
        raise fault(
            path, "this is no readable HDF5 file", expected="a superblock of version 2 or 3"
        )
    if start[9:11] != b"\x08\x08" or any(start[12:20]) or start[20:28] != UNDEFINED:
        raise fault(path, "the superblock is not as attnprobe writes it")


def check_structure(path: Path, file: h5py.File, expected: Expected) -> dict[str, Stored]:
    """Check the structure of an open shard, without reading any data.

    Returns:
        The datasets of `expected.columns`.

    Raises:
        FormatError: Naming the shard and the fault.
    """
    try:
        size, found, n_light = file.id.get_filesize(), {}, 0
        for where, dataset in _walk(path, file.id).items():
            column = expected.columns.get(where)
            stored = _check_dataset(path, where, dataset, size)
            if column is None:
                continue  # what a newer minor version added
            _check_column(path, column, stored, expected)
            _check_type_of(path, column, dataset, stored, expected)
            found[where] = stored
            if where in BY_NAME and where not in BIG:
                n_light += math.prod(stored.shape) * stored.dtype.itemsize
        for name in expected.columns:
            if name not in found:
                raise fault(path, f"dataset {name} is missing")
        if n_light > MAX_LIGHT_BYTES:
            raise fault(path, "the index is too large", f"{n_light} bytes", MAX_LIGHT_BYTES)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise fault(path, "the file's structure cannot be read", error) from error
    return found


def _walk(path: Path, file: h5f.FileID) -> dict[str, h5d.DatasetID]:
    """Find every dataset, refusing whatever is no plain group or dataset."""
    root = h5g.open(file, b"/")
    pending: list[tuple[str, h5g.GroupID, int]] = [("", root, 0)]
    n_seen, found = 0, {}
    seen = {h5o.get_info(root).addr}
    _check_attributes(path, "/", root)
    while pending:
        prefix, group, depth = pending.pop()
        n_seen += group.get_num_objs()
        if n_seen > MAX_OBJECTS or depth >= MAX_DEPTH:
            raise fault(path, "there are too many objects", prefix or "/")
        for link, kind, address in _links(group):
            where = f"{prefix}/{link.decode('utf-8', 'backslashreplace')}"
            if kind != h5l.TYPE_HARD:
                raise fault(path, f"{where} is a soft or external link", expected="hard links")
            if address in seen:
                raise fault(path, f"{where} is another name of something else")
            seen.add(address)
            member = h5o.open(group, link)
            if isinstance(member, h5g.GroupID):
                pending.append((where, member, depth + 1))
            elif isinstance(member, h5d.DatasetID):
                found[where] = member
            else:
                raise fault(path, f"{where} is neither group nor dataset")
            _check_attributes(path, where, member)
    return found


def _links(group: h5g.GroupID) -> list[tuple[bytes, int, int]]:
    """List names, kinds and addresses of the links of a group, following none."""
    links: list[tuple[bytes, int, int]] = []

    def note(name: bytes, about: Any) -> None:
        links.append((name, about.type, about.u))

    group.links.iterate(note, info=True)
    return links


def _check_attributes(path: Path, where: str, owner: h5g.GroupID | h5d.DatasetID) -> None:
    """Check size and type of the attributes, but for the type of those that are never read."""
    n_attributes = h5a.get_num_attrs(owner)
    if n_attributes > MAX_ATTRIBUTES:
        raise fault(path, f"{where} has too many attributes", n_attributes, MAX_ATTRIBUTES)
    sizes: list[tuple[bytes, int]] = []
    h5a.iterate(owner, lambda name, about: sizes.append((name, about.data_size)), info=True)
    for name, size in sizes:
        if size > MAX_ATTRIBUTE_BYTES:
            raise fault(path, f"an attribute of {where} is too large", size, MAX_ATTRIBUTE_BYTES)
        if name not in NEVER_READ:
            kind = h5a.open(owner, name).get_type()
            if not _is_plain(kind):
                text = name.decode("utf-8", "backslashreplace")
                raise _forbidden(path, f"attribute '{text}' of {where}", kind)


def _is_plain(kind: h5t.TypeID) -> bool:
    number = kind.get_class()
    return number in KINDS and not (number == h5t.STRING and kind.is_variable_str())


def _forbidden(path: Path, where: str, kind: h5t.TypeID) -> FormatError:
    return fault(
        path, f"{where} has a forbidden type", type(kind).__name__,
        "integers, floats or fixed-length text",
    )  # fmt: skip


def _check_dataset(path: Path, where: str, dataset: h5d.DatasetID, file_size: int) -> Stored:
    kind, plist = dataset.get_type(), dataset.get_create_plist()
    if not _is_plain(kind):
        raise _forbidden(path, where, kind)
    if plist.get_layout() != h5d.CHUNKED or plist.get_external_count():
        raise fault(
            path, f"{where} is stored outside or not in chunks", expected="chunks in this file"
        )
    filters = [plist.get_filter(index) for index in range(min(plist.get_nfilters(), 4))]
    if [number for number, *_ in filters] != [number for number, _ in FILTERS] or (
        tuple(filters[1][2]) != (GZIP_LEVEL,)
    ):
        raise fault(
            path, f"{where} has other filters", [name.decode() for *_, name in filters],
            f"shuffle, deflate {GZIP_LEVEL}, fletcher32",
        )  # fmt: skip
    itemsize, chunk = kind.get_size(), plist.get_chunk()
    chunk_bytes = math.prod(chunk) * itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise fault(path, f"{where} has too large chunks", chunk_bytes, MAX_CHUNK_BYTES)
    shape = dataset.get_space().get_simple_extent_dims()
    if len(shape) > MAX_RANK:
        raise fault(path, f"{where} has too many axes", len(shape), MAX_RANK)
    n_chunks = math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True))
    n_bytes = math.prod(shape) * itemsize
    if n_chunks * MIN_CHUNK_ENTRY > file_size or n_bytes > MAX_RATIO * file_size:
        raise fault(
            path, f"{where} claims more than the file can hold", f"{n_bytes} bytes",
            f"at most {MAX_RATIO} times {file_size}",
        )  # fmt: skip
    return Stored(shape, chunk, kind.dtype, dataset)


def _check_column(path: Path, column: Column, stored: Stored, expected: Expected) -> None:
    shape = tuple(expected.lengths.get(dim, -1) for dim in column.dims)
    known = len(stored.shape) == len(shape) and all(
        want in (-1, got) for got, want in zip(stored.shape, shape, strict=True)
    )
    if not known:
        raise fault(path, f"{column.name} has another shape", stored.shape, shape)


def _check_type_of(
    path: Path, column: Column, dataset: h5d.DatasetID, stored: Stored, expected: Expected
) -> None:
    """Check that a column is of its type, and says the code that it has."""
    name = expected.code_name(column)
    wanted = CODES[name].dtype if name else column.dtype
    if wanted == "text":
        good = stored.dtype.kind == "S" and stored.dtype.itemsize <= MAX_NAME_BYTES
    else:
        good = stored.dtype.itemsize <= 8 and dataset.get_type() == TYPES[wanted]
    if not good:
        raise fault(path, f"{column.name} has another type", stored.dtype, wanted)
    if name:
        _check_code(path, column.name, dataset, name)


def _check_code(path: Path, where: str, dataset: h5d.DatasetID, name: str) -> None:
    """Check that the attributes of an encoded dataset say how it is encoded."""
    encoding, levels = (_attribute(dataset, what) for what in (b"encoding", b"levels"))
    if encoding is None or encoding.tolist() != name.encode():
        raise fault(path, f"the encoding of {where} is not the run's", encoding, name)
    if levels is None or levels.dtype.kind != "i" or levels.tolist() != CODES[name].levels:
        raise fault(path, f"{where} has other levels", levels, CODES[name].levels)


def _attribute(dataset: h5d.DatasetID, name: bytes) -> np.ndarray | None:
    """Read an attribute that is one short value; anything else is None."""
    if not h5a.exists(dataset, name):
        return None
    attribute = h5a.open(dataset, name)
    if attribute.shape != () or attribute.get_storage_size() > MAX_SHORT_BYTES:
        return None
    value = np.empty((), attribute.dtype)
    attribute.read(value)
    return value


def fault(path: Path, what: str, got: object = None, expected: object = None) -> FormatError:
    """Word the refusal of a shard."""
    return FormatError(
        what, where=str(path), got=got, expected=expected,
        fix="the shard was damaged or not written by attnprobe; fetch it again, or delete it "
        "and extract again",
    )  # fmt: skip
