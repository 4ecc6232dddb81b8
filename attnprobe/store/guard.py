"""Checks a shard before any data is read from it: it may come from a stranger."""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np
from h5py import h5a, h5d, h5l, h5o, h5t  # pyright: ignore[reportAttributeAccessIssue]

from attnprobe.errors import FormatError
from attnprobe.store.layout import COLUMNS, FILTERS, GZIP_LEVEL, MAX_CHUNK_BYTES, Column
from attnprobe.store.publish import sha256
from attnprobe.store.receipts import Receipt

MAX_ATTRIBUTE_BYTES = 65536
MAX_OBJECTS = 1000
MAX_DEPTH = 3
DEFLATE_SKIPPED = 0b010
"""HDF5 leaves deflate out, and notes it, where it would make a chunk longer."""


def check_sealed(path: Path, receipt: Receipt) -> None:
    """Check that a shard is byte for byte what its receipt says.

    Raises:
        FormatError: Naming the shard and the fault.
    """
    try:
        size = path.stat().st_size
        if size != receipt.bytes:
            raise fault(path, "the size is not the receipt's", f"{size} bytes", receipt.bytes)
        digest = sha256(path)
    except OSError as error:
        raise fault(path, "the shard cannot be read", error) from error
    if digest != receipt.sha256:
        raise fault(
            path, "the content is not what was sealed", f"SHA-256 {digest[:12]}…",
            f"{receipt.sha256[:12]}…",
        )  # fmt: skip


def open_checked(
    path: Path,
    counts: Mapping[str, int],
    n_layers: int,
    n_heads: int,
    columns: Iterable[Column] = COLUMNS,
) -> h5py.File:
    """Open a shard and check its structure, without reading any data.

    Args:
        path: The shard.
        counts: Length of each ragged axis and of `record`, as the receipt says; a missing axis
            may have any length that the file's own size allows.
        n_layers: Layers of the run.
        n_heads: Heads of the run.
        columns: Datasets that must be there.

    Raises:
        FormatError: Naming the shard and the fault.
    """
    try:
        file = h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise fault(path, "this is no readable HDF5 file", error) from error
    try:
        lengths = dict(counts) | {"layer": n_layers, "head": n_heads}
        found = dict(_walk(path, file))
        for column in columns:
            _check_column(path, column, found.get(column.name), lengths)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        file.close()
        raise fault(path, "the file's structure cannot be read", error) from error
    except BaseException:
        file.close()
        raise
    return file


def _walk(path: Path, file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Visit every object, refusing whatever is no plain group or dataset."""
    pending: list[tuple[str, h5py.Group, int]] = [("", file, 0)]
    n_seen = 0
    _check_attributes(path, "/", file)
    while pending:
        prefix, group, depth = pending.pop()
        for name in map(str, group):
            n_seen, where = n_seen + 1, f"{prefix}/{name}"
            if n_seen > MAX_OBJECTS or depth >= MAX_DEPTH:
                raise fault(path, "there are too many objects", where)
            link = name.encode("utf-8", "surrogateescape")
            if group.id.links.get_info(link).type != h5l.TYPE_HARD:
                raise fault(path, f"{where} is a soft or external link", expected="hard links")
            kind = h5o.get_info(group.id, link).type
            member = group[name] if kind in (h5o.TYPE_GROUP, h5o.TYPE_DATASET) else None
            if isinstance(member, h5py.Group):
                pending.append((where, member, depth + 1))
            elif isinstance(member, h5py.Dataset):
                _check_dataset(path, where, member)
                yield where, member
            else:
                raise fault(path, f"{where} is neither group nor dataset")
            _check_attributes(path, where, member)


def _check_attributes(path: Path, where: str, owner: h5py.Group | h5py.Dataset) -> None:
    if h5a.get_num_attrs(owner.id) > MAX_OBJECTS:
        raise fault(path, f"{where} has too many attributes")
    for index in range(h5a.get_num_attrs(owner.id)):
        attribute = h5a.open(owner.id, index=index)
        _check_type(path, f"attribute {attribute.name.decode()!r} of {where}", attribute.get_type())
        if attribute.get_storage_size() > MAX_ATTRIBUTE_BYTES:
            raise fault(path, f"an attribute of {where} is too large")


def _check_type(path: Path, where: str, kind: h5t.TypeID) -> None:
    good = isinstance(kind, (h5t.TypeIntegerID, h5t.TypeFloatID)) or (
        isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str()
    )
    if not good:
        raise fault(
            path, f"{where} has a forbidden type", type(kind).__name__,
            "integers, floats or fixed-length text",
        )  # fmt: skip


def _check_dataset(path: Path, where: str, dataset: h5py.Dataset) -> None:
    _check_type(path, where, dataset.id.get_type())
    plist = dataset.id.get_create_plist()
    if plist.get_external_count() or plist.get_layout() != h5d.CHUNKED:
        raise fault(
            path, f"{where} is stored outside or not in chunks", expected="chunks in this file"
        )
    filters = [plist.get_filter(index) for index in range(plist.get_nfilters())]
    if [number for number, *_ in filters] != [number for number, _ in FILTERS] or (
        tuple(filters[1][2]) != (GZIP_LEVEL,)
    ):
        raise fault(
            path, f"{where} has other filters", [name.decode() for *_, name in filters],
            f"shuffle, deflate {GZIP_LEVEL}, fletcher32",
        )  # fmt: skip
    chunk_bytes = math.prod(plist.get_chunk()) * dataset.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise fault(path, f"{where} has too large chunks", chunk_bytes, MAX_CHUNK_BYTES)


def _check_column(
    path: Path, column: Column, dataset: h5py.Dataset | None, lengths: Mapping[str, int]
) -> None:
    if dataset is None:
        raise fault(path, f"dataset {column.name} is missing")
    expected = tuple(lengths.get(dim, -1) for dim in column.dims)
    known = len(dataset.shape) == len(expected) and all(
        want in (-1, got) for got, want in zip(dataset.shape, expected, strict=True)
    )
    if not known:
        raise fault(path, f"{column.name} has another shape", dataset.shape, expected)
    kinds = {"text": "S", "code": "uf", "mass": "uf"}
    exact = column.dtype not in kinds and dataset.dtype != np.dtype(column.dtype)
    if exact or (column.dtype in kinds and dataset.dtype.kind not in kinds[column.dtype]):
        raise fault(path, f"{column.name} has another type", dataset.dtype, column.dtype)
    _check_chunks(path, column.name, dataset)


def _check_chunks(path: Path, where: str, dataset: h5py.Dataset) -> None:
    """Every chunk must be there, with its checksum, so that no size is a bare claim."""
    masks: list[int] = []
    if dataset.size:
        dataset.id.chunk_iter(lambda chunk: masks.append(chunk.filter_mask))
    if any(mask & ~DEFLATE_SKIPPED for mask in masks):
        raise fault(path, f"a chunk of {where} goes without its filters")
    chunks = dataset.chunks or ()
    wanted = math.prod(
        -(-length // chunk) for length, chunk in zip(dataset.shape, chunks, strict=True)
    )
    if len(masks) != (wanted if dataset.size else 0):
        raise fault(path, f"chunks of {where} are missing", len(masks), wanted)


def fault(path: Path, what: str, got: object = None, expected: object = None) -> FormatError:
    """Word the refusal of a shard."""
    return FormatError(
        what, where=str(path), got=got, expected=expected,
        fix="the shard was damaged or not written by attnprobe; fetch it again, or delete it "
        "and extract again",
    )  # fmt: skip
