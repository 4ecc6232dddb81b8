"""Reads one shard: light columns whole, heavy ones in stretches."""

import contextlib
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d  # pyright: ignore[reportAttributeAccessIssue]
from jaxtyping import Float32, Int64

from attnprobe.errors import FormatError, StoreError
from attnprobe.store import guard
from attnprobe.store.codes import CODES, Code, decode
from attnprobe.store.columns import encoding_from, texts_from
from attnprobe.store.consistency import check_axis, check_consistency, check_records
from attnprobe.store.jsoncheck import short
from attnprobe.store.layout import (
    BIG,
    BY_NAME,
    COLUMNS,
    NUMBERS,
    RAGGED,
)
from attnprobe.store.manifest import Manifest
from attnprobe.store.publish import sha256
from attnprobe.store.receipts import RECORD_COLUMNS, Receipt
from attnprobe.store.stretches import Ahead, Leading, Window, read_stretch, read_whole
from attnprobe.types import Encoding

IDENTITY = ("st_dev", "st_ino", "st_size", "st_mtime_ns")
"""What tells whether a file is still the one that was checked."""

BLOBS = ("/record/json", "/record/generated")
NUMBER_COLUMNS = {f"/record/{name}": place for place, name in enumerate(NUMBERS)}


class Shard:
    """A shard open for reading; its structure was checked.

    The light columns are read once, and checked when they are first read.
    """

    def __init__(
        self,
        path: Path,
        file: h5py.File,
        expected: guard.Expected,
        stored: Mapping[str, guard.Stored],
    ) -> None:
        self.path, self.file, self.columns = path, file, expected.columns
        self._expected, self._stored = expected, stored
        self._ids = {name: where.id for name, where in stored.items()}
        self._columns: dict[str, np.ndarray] = {}
        self._checked: set[str] = set()
        self._whole = False
        self._receipt: Receipt | None = None
        self._seen: os.stat_result | None = None

    @classmethod
    def open(cls, path: Path, receipt: Receipt, manifest: Manifest, *, sealed: bool) -> "Shard":
        """Open a shard.

        Args:
            path: Its file.
            receipt: What it should hold.
            manifest: The run's.
            sealed: Whether its bytes need not be compared with the receipt: what is read has
                checksums of its own.

        Raises:
            FormatError: If it is not what the receipt says, or not built as a shard must be.
        """
        seen = guard.check_size(path, receipt)
        if not sealed:
            guard.check_sealed(path, receipt)
        shard = cls.of(path, guard.open_file(path), receipt, manifest)
        shard._receipt, shard._seen = receipt, seen
        return shard

    @classmethod
    def of(cls, path: Path, file: h5py.File, receipt: Receipt, manifest: Manifest) -> "Shard":
        """Check an HDF5 file that is open already, on disk or in memory; close it if it is bad.

        Raises:
            FormatError: If it is not what the receipt says, or not built as a shard must be.
        """
        counts = {axis: receipt.counts.get(axis, 0) for axis in (*RAGGED, "record")}
        try:
            shard = cls._checked_file(path, file, counts, manifest)
            shard._check_listed(manifest.plan.column("id", receipt.chunk), manifest)
            check_records(shard)
        except BaseException:
            file.close()
            raise
        return shard

    @classmethod
    def _checked_file(
        cls, path: Path, file: h5py.File, counts: Mapping[str, int], manifest: Manifest
    ) -> "Shard":
        n_layers, n_heads = len(manifest.layers), len(manifest.heads)
        lengths = dict(counts) | {"layer": n_layers, "head": n_heads}
        expected = guard.Expected(manifest.columns, lengths, manifest.encoding)
        stored = guard.check_structure(path, file, expected)
        return cls(path, file, expected, stored)

    def close(self) -> None:
        """Close the file; what was read of it is kept."""
        self._ids.clear()
        if self.file:
            self.file.id.close()  # much faster than going through all that is open in it

    def reopen(self) -> None:
        """Open the file again after `close`.

        Raises:
            FormatError: If it is not the file that was checked.
        """
        if self.file or self._receipt is None or self._seen is None:
            return
        now = guard.check_size(self.path, self._receipt)
        if any(getattr(now, name) != getattr(self._seen, name) for name in IDENTITY):
            raise self.fault("the shard was changed while the run was open")
        self.file = guard.open_file(self.path)

    @property
    def n_cached(self) -> int:
        """Bytes of the columns that were read."""
        return sum(values.nbytes for values in self._columns.values())

    def dataset(self, name: str) -> h5py.Dataset:
        """Return a dataset, unread."""
        return h5py.Dataset(self._id(name))

    def stored(self, name: str) -> guard.Stored:
        """Return how a dataset lies in the file."""
        return self._stored[name]

    def _id(self, name: str) -> h5d.DatasetID:
        if name not in self._ids:
            self._ids[name] = h5d.open(self.file.id, name.encode())
        return self._ids[name]

    def column(self, name: str) -> np.ndarray:
        """Return a light column, read once; those of its axis are checked first.

        The columns of `/record/numbers` have names of their own, such as `/record/n_tokens`. What
        the run does not keep is empty.
        """
        if name in NUMBER_COLUMNS:
            return self.column("/record/numbers")[:, NUMBER_COLUMNS[name]]
        if name not in self.columns:
            return np.empty(0, BY_NAME[name].dtype)
        if name not in self._columns:
            with self._told(name):
                values = read_whole(self._id(name), self.stored(name))
            values.flags.writeable = False
            self._columns[name] = values
        axis = self.columns[name].axis
        if axis not in self._checked:
            self._checked.add(axis)
            try:
                check_axis(self, axis)
            except BaseException:
                self._checked.discard(axis)
                raise
        return self._columns[name]

    def extent(self, axis: str, record: int) -> slice:
        """Return the stretch of a ragged axis that belongs to a record."""
        edges = self.edge(axis)
        return slice(int(edges[record]), int(edges[record + 1]))

    def edge(self, axis: str) -> Int64[np.ndarray, " edge"]:
        """Return where the stretches of the records begin and end on a ragged axis."""
        return self._edges[RAGGED.index(axis)]

    @cached_property
    def _edges(self) -> Int64[np.ndarray, "axis edge"]:
        counts = self.column("/record/counts").T
        return np.concatenate([np.zeros_like(counts[:, :1]), np.cumsum(counts, axis=1)], axis=1)

    @cached_property
    def group_table(self) -> dict[str, np.ndarray]:
        """What is known of the key groups of every record, one after another."""
        spans = np.repeat(self.edge("span")[:-1], np.diff(self.edge("group")))
        names = self.column("/span/role")[self.column("/group/span") + spans].tolist()
        texts = {name: name.decode("utf-8", "replace") for name in set(names)}
        return {
            "role": np.array([texts[name] for name in names], np.str_),
            "is_sink": self.column("/group/is_sink").astype(bool),
            "group_start": self.column("/group/start"),
            "group_stop": self.column("/group/stop"),
        }

    def part(self, name: str, record: int) -> np.ndarray:
        """Return a record's stretch of a column with one axis.

        Light columns are read whole, attributions only where they are wanted.
        """
        if name in BY_NAME:
            return self.column(name)[self.extent(BY_NAME[name].axis, record)]
        return self.block(name, (), self.extent(self.columns[name].axis, record))

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
        names = ("/token/text", "/token/text_length")
        return texts_from({name: self.part(name, record) for name in names})

    def code(self, name: str) -> Code:
        """Return the code in which a dataset is stored."""
        return CODES[self._expected.code_name(self.columns[name])]

    def heavy(
        self, name: str, record: int, layers: Sequence[int], heads: Sequence[int],
        ahead: "Ahead | None" = None,
    ) -> np.ndarray:  # fmt: skip
        """Return a record's part of a heavy dataset, as stored; every index is checked before.

        Args:
            name: One of `BIG`.
            record: Which record.
            layers: Positions on the layer axis.
            heads: Positions on the head axis; not used for `/visible`.
            ahead: What was read ahead, where records are asked for one after another.
        """
        if not self._whole:
            check_consistency(self)
            self._whole = True
        leading = (tuple(layers),) if name == "/visible" else (tuple(layers), tuple(heads))
        axis = BY_NAME[name].axis
        extent = self.extent(axis, record)
        if ahead is None:
            return self.block(name, leading, extent)
        if name not in ahead.windows:
            ahead.windows[name] = Window(self, name, leading)
        return ahead.windows[name].read(extent, self.extent(axis, ahead.last).stop)

    def probabilities(
        self, name: str, record: int, layers: Sequence[int], heads: Sequence[int],
        ahead: "Ahead | None" = None,
    ) -> Float32[np.ndarray, "layer head cell"]:  # fmt: skip
        """Return a record's part of a heavy dataset, decoded; arguments as of `heavy`."""
        return self.decoded(name, self.heavy(name, record, layers, heads, ahead))

    def decoded(self, name: str, codes: np.ndarray) -> np.ndarray:
        """Decode what was read of a dataset of probabilities.

        Raises:
            FormatError: If it holds something else.
        """
        code = self.code(name)
        if codes.size and not code.levels and not (codes.min() >= 0 and codes.max() <= 1):
            raise self.fault(f"{name} holds values that are no probabilities")
        return decode(codes, code)

    def block(self, name: str, leading: Leading, extent: slice) -> np.ndarray:
        """Read a stretch of a dataset's last axis, at some positions of the others.

        Raises:
            FormatError: If it cannot be read, or a checksum does not hold.
        """
        with self._told(name):
            return read_stretch(self._id(name), self.stored(name), leading, extent)

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError, KeyError, MemoryError) as error:
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
        n_layers, *inner = shard.stored(column.name).shape[:-1]
        for layer in range(n_layers):
            leading = ((layer,), *(tuple(range(length)) for length in inner))
            block = shard.block(column.name, leading, extent)
            crc = zlib.crc32(np.ascontiguousarray(block).data, crc)
    return crc


def receipt_from_shard(path: Path, manifest: Manifest, chunk: int) -> Receipt:
    """Read a whole shard that has no receipt, and write the receipt that it deserves.

    Raises:
        FormatError: If it is not whole.
        StoreError: If it is a whole shard, but not the planned one.
    """
    columns, file = manifest.columns, guard.open_file(path)
    try:
        shard = Shard._checked_file(path, file, {}, manifest)
        planned = manifest.plan[chunk]
        if _made_for(shard) != (manifest.settings_hash, [(r.id, r.digest) for r in planned]):
            raise StoreError(
                "a shard with other records or settings is in the place of a planned one",
                where=str(path), fix="move it away, and give the same command again",
            )  # fmt: skip
        shard._check_listed(manifest.plan.column("id", chunk), manifest)
        check_consistency(shard)
        for record in range(len(planned)):
            if record_crc(shard, record) != shard.number("/record/crc32", record):
                raise shard.fault(f"record '{planned[record].id}' is damaged")
        listed = {name: _listed(shard, name) for name in RECORD_COLUMNS}
        there = (column for column in columns.values() if column.axis in RAGGED)
        counts = dict.fromkeys(RAGGED, 0) | {
            column.axis: shard.stored(column.name).shape[-1] for column in there
        }
        counts["record"] = len(planned)
    finally:
        file.close()
    size = path.stat().st_size
    return Receipt(chunk, size, sha256(path), counts, listed)


def _made_for(shard: Shard) -> tuple[str, list[tuple[str, str]]]:
    """Return the hash of the settings, and id and digest of the records, that a shard names."""
    settings_hash = shard.file.attrs.get("settings_hash", b"")
    known = isinstance(settings_hash, bytes)
    encodings = map(shard.encoding, range(len(shard.column("/record/id"))))
    names = [(encoding.record.id, encoding.digest) for encoding in encodings]
    return settings_hash.decode() if known else "", names


def _listed(shard: Shard, name: str) -> list[Any]:
    if name == "worst_error":
        errors = shard.column("/record/error")
        return [short(row.max(initial=0.0)) for row in errors]
    entries = shard.column(f"/record/{name}").tolist()
    return [e.decode() if isinstance(e, bytes) else e for e in entries]
