"""Reads one shard: light columns whole, heavy ones in stretches."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
from jaxtyping import Float32, Int64

from attnprobe.errors import FormatError
from attnprobe.store import guard
from attnprobe.store.codes import CODES, Code, decode
from attnprobe.store.columns import encoding_from, texts_from
from attnprobe.store.consistency import check_consistency
from attnprobe.store.jsoncheck import short
from attnprobe.store.layout import (
    BIG,
    BY_NAME,
    COLUMNS,
    PAIRS_PER_CHUNK,
    POINTS_INTO,
    RAGGED,
    Column,
)
from attnprobe.store.manifest import Manifest
from attnprobe.store.publish import sha256
from attnprobe.store.receipts import RECORD_COLUMNS, Receipt
from attnprobe.types import Encoding

WINDOW_BYTES = 64 * 2**20
"""How much decoded data is read ahead at most, while records are read one after another."""


BLOBS = ("/record/json", "/record/generated")


class Shard:
    """A shard open for reading; its structure was checked."""

    def __init__(self, path: Path, file: h5py.File, columns: Mapping[str, Column]) -> None:
        self.path, self.file, self.columns = path, file, columns
        self._columns: dict[str, np.ndarray] = {}
        self._codes: dict[str, Code] = {}

    @classmethod
    def open(cls, path: Path, receipt: Receipt, manifest: Manifest, *, sealed: bool) -> "Shard":
        """Open a shard.

        Args:
            path: Its file.
            receipt: What it should hold.
            manifest: The run's.
            sealed: Whether its bytes were already compared with the receipt.

        Raises:
            FormatError: If it is not what the receipt says, or not built as a shard must be.
        """
        if not sealed:
            guard.check_sealed(path, receipt)
        counts = {axis: receipt.counts.get(axis, 0) for axis in (*RAGGED, "record")}
        n_layers, n_heads = len(manifest.layers), len(manifest.heads)
        columns = manifest.columns
        file = guard.open_checked(path, counts, n_layers, n_heads, columns.values())
        shard = cls(path, file, columns)
        try:
            shard._check_listed(receipt.ids, manifest)
            check_consistency(shard)
        except BaseException:
            shard.close()
            raise
        return shard

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def dataset(self, name: str) -> h5py.Dataset:
        """Return a dataset, unread."""
        return cast(h5py.Dataset, self.file[name])

    def column(self, name: str) -> np.ndarray:
        """Return a light column, read once."""
        if name not in self._columns:
            self._columns[name] = self._read(name, ())
        return self._columns[name]

    def extent(self, axis: str, record: int) -> slice:
        """Return the stretch of a ragged axis that belongs to a record."""
        edges = self.edges[:, RAGGED.index(axis)]
        return slice(int(edges[record]), int(edges[record + 1]))

    @cached_property
    def edges(self) -> Int64[np.ndarray, "edge axis"]:
        """Where the stretches of the records begin and end on each ragged axis."""
        counts = self.column("/record/counts")
        return np.concatenate([np.zeros_like(counts[:1]), np.cumsum(counts, axis=0)])

    def part(self, name: str, record: int) -> np.ndarray:
        """Return a record's stretch of a column with one axis; positions count from its start.

        Light columns are read whole, attributions only where they are wanted.
        """
        extent = self.extent(self.columns[name].axis, record)
        values = self._read(name, (extent,)) if name not in BY_NAME else self.column(name)[extent]
        if name in POINTS_INTO:
            return values - self.extent(POINTS_INTO[name], record).start
        return values

    def number(self, name: str, record: int) -> int:
        """Return a record's entry in a column that has one whole number per record."""
        return int(self.column(name)[record])

    def encoding(self, record: int) -> Encoding:
        """Rebuild the encoding of a record."""
        wanted = [c.name for c in COLUMNS if c.name.startswith(("/span/", "/token/", "/sink/"))]
        parts = {name: self.part(name, record) for name in (*wanted, *BLOBS)}
        n_prompt = self.number("/record/n_prompt", record)
        is_generated = bool(self.number("/record/is_generated", record))
        try:
            return encoding_from(parts, n_prompt, is_generated=is_generated)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise self.fault(f"record {record} cannot be rebuilt", error) from error

    def texts(self, record: int) -> tuple[str, ...]:
        """Rebuild the token texts of a record."""
        names = ("/token/text", "/token/text_start", "/token/text_length")
        return texts_from({name: self.part(name, record) for name in names})

    def code(self, name: str) -> Code:
        """Return the code in which a dataset is stored."""
        if name not in self._codes:
            stored = self.dataset(name).attrs.get("encoding")
            key = stored.decode("utf-8", "replace") if isinstance(stored, bytes) else ""
            if key not in CODES or self.dataset(name).dtype != np.dtype(CODES[key].dtype):
                raise self.fault(f"the encoding of {name} is not known", repr(stored))
            self._codes[name] = CODES[key]
        return self._codes[name]

    def heavy(
        self, name: str, record: int, layers: Sequence[int], heads: Sequence[int],
        ahead: "Ahead | None" = None,
    ) -> np.ndarray:  # fmt: skip
        """Return a record's part of a heavy dataset, as stored.

        Args:
            name: One of `BIG`.
            record: Which record.
            layers: Positions on the layer axis.
            heads: Positions on the head axis; not used for `/visible`.
            ahead: What was read ahead, where records are asked for one after another.
        """
        leading = (tuple(layers),) if name == "/visible" else (tuple(layers), tuple(heads))
        axis = BY_NAME[name].axis
        extent = self.extent(axis, record)
        if ahead is None:
            return self._block(name, leading, extent)
        if name not in ahead.windows:
            ahead.windows[name] = Window(self, name, leading)
        return ahead.windows[name].read(extent, self.extent(axis, ahead.last).stop)

    def probabilities(
        self, name: str, record: int, layers: Sequence[int], heads: Sequence[int],
        ahead: "Ahead | None" = None,
    ) -> Float32[np.ndarray, "layer head cell"]:  # fmt: skip
        """Return a record's part of a heavy dataset, decoded; arguments as of `heavy`."""
        return decode(self.heavy(name, record, layers, heads, ahead), self.code(name))

    def _block(self, name: str, leading: tuple[tuple[int, ...], ...], extent: slice) -> np.ndarray:
        shape = tuple(map(len, leading))
        block = np.empty((*shape, extent.stop - extent.start), self.dataset(name).dtype)
        if not block.size:
            return block
        for index in np.ndindex(shape[:-1]):
            outer = tuple(positions[i] for positions, i in zip(leading, index, strict=False))
            for run in _runs(leading[-1]):
                inner = slice(leading[-1][run.start], leading[-1][run.stop - 1] + 1)
                block[(*index, run)] = self._read(name, (*outer, inner, extent))
        return block

    def _read(self, name: str, selection: tuple[Any, ...]) -> np.ndarray:
        try:
            return self.dataset(name)[selection]
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise self.fault(f"{name} cannot be read", error) from error

    def _check_listed(self, ids: Sequence[str], manifest: Manifest) -> None:
        stored = [name.decode("utf-8", "replace") for name in self.column("/record/id").tolist()]
        if stored != list(ids):
            raise self.fault("the records are not those of the receipt")
        for name, expected in (("/layer", manifest.layers), ("/head", manifest.heads)):
            if tuple(self.column(name).tolist()) != expected:
                raise self.fault(f"{name} is not what the manifest says")

    def fault(self, what: str, got: object = None) -> FormatError:
        """Word the refusal of this shard."""
        return guard.fault(self.path, what, got)


class Window:
    """A stretch of a heavy dataset, read in whole HDF5 chunks and kept for the next record."""

    def __init__(self, shard: Shard, name: str, leading: tuple[tuple[int, ...], ...]) -> None:
        self.shard, self.name, self.leading = shard, name, leading
        dataset = shard.dataset(name)
        self.chunk, self.length = PAIRS_PER_CHUNK, dataset.shape[-1]
        per_position = 4 * int(np.prod([len(positions) for positions in leading]))
        self.ahead = max(WINDOW_BYTES // max(per_position, 1) // self.chunk, 1) * self.chunk
        self.start = self.stop = 0
        self.data = np.empty((0,))

    def read(self, extent: slice, last: int) -> np.ndarray:
        """Return a stretch.

        Args:
            extent: What is wanted now.
            last: Up to where it will be read on.
        """
        if extent.start < self.start or extent.stop > self.stop:
            self._move(extent, last)
        return self.data[..., extent.start - self.start : extent.stop - self.start]

    def _move(self, extent: slice, last: int) -> None:
        start = extent.start // self.chunk * self.chunk
        wanted = max(extent.stop, min(last, start + self.ahead))
        stop = min(-(-wanted // self.chunk) * self.chunk, self.length)
        kept = self.data[..., max(start - self.start, 0) :] if start >= self.start else None
        if kept is None or start >= self.stop:
            self.data = self.shard._block(self.name, self.leading, slice(start, stop))
        else:
            new = self.shard._block(self.name, self.leading, slice(self.stop, stop))
            self.data = np.concatenate([kept, new], axis=-1)
        self.start, self.stop = start, stop


@dataclass(slots=True)
class Ahead:
    """What was read ahead of a sequence of records of one shard, for one choice of heads."""

    last: int
    """The last record of the sequence."""
    windows: dict[str, Window] = field(default_factory=dict)


def _runs(positions: Sequence[int]) -> list[slice]:
    """Cut positions into slices over which they rise by one."""
    breaks = [i for i in range(1, len(positions)) if positions[i] != positions[i - 1] + 1]
    edges = [0, *breaks, len(positions)]
    return [slice(a, b) for a, b in pairwise(edges) if a < b]


def record_crc(shard: Shard, record: int) -> int:
    """Compute the CRC-32 of a record's stored bytes, as `/record/crc32` has it."""
    crc = 0
    for column in shard.columns.values():
        if not column.in_crc:
            continue
        if column.name not in BIG:
            crc = zlib.crc32(np.ascontiguousarray(shard.part(column.name, record)).data, crc)
            continue
        extent = shard.extent(column.axis, record)
        for layer in range(shard.dataset(column.name).shape[0]):
            block = shard._read(column.name, (layer, ..., extent))
            crc = zlib.crc32(np.ascontiguousarray(block).data, crc)
    return crc


def receipt_from_shard(path: Path, manifest: Manifest, chunk: int) -> Receipt:
    """Read a whole shard that has no receipt, and write the receipt that it deserves.

    Raises:
        FormatError: If it is not whole, or not the planned one.
    """
    n_layers, n_heads = len(manifest.layers), len(manifest.heads)
    columns = manifest.columns
    file = guard.open_checked(path, {}, n_layers, n_heads, columns.values())
    shard = Shard(path, file, columns)
    try:
        planned = manifest.plan[chunk]
        shard._check_listed([record.id for record in planned], manifest)
        check_consistency(shard)
        if [d.decode() for d in shard.column("/record/digest")] != [r.digest for r in planned]:
            raise shard.fault("the records were encoded otherwise than planned")
        for record in range(len(planned)):
            if record_crc(shard, record) != shard.number("/record/crc32", record):
                raise shard.fault(f"record '{planned[record].id}' is damaged")
        listed = {name: _listed(shard, name) for name in RECORD_COLUMNS}
        there = (column for column in columns.values() if column.axis in RAGGED)
        counts = dict.fromkeys(RAGGED, 0) | {
            column.axis: shard.dataset(column.name).shape[-1] for column in there
        }
        counts["record"] = len(planned)
    finally:
        shard.close()
    size = path.stat().st_size
    return Receipt(chunk, size, sha256(path), manifest.settings_hash, counts, listed)


def _listed(shard: Shard, name: str) -> list[Any]:
    if name == "worst_error":
        errors = shard.column("/record/error")
        return [short(row.max(initial=0.0)) for row in errors]
    entries = shard.column(f"/record/{name}").tolist()
    return [e.decode() if isinstance(e, bytes) else e for e in entries]
