"""Fills one shard: captures come in, whole HDF5 chunks go out."""

import functools
import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from attnprobe.errors import StoreError
from attnprobe.store import columns as columns_of
from attnprobe.store.admission import admit
from attnprobe.store.codes import CODES, Code, encode, mass_code
from attnprobe.store.filters import write_chunk
from attnprobe.store.jsoncheck import short
from attnprobe.store.layout import (
    FORMAT,
    FORMAT_VERSION,
    GZIP_LEVEL,
    NUMBERS,
    RAGGED,
    Column,
    chunk_shape,
)
from attnprobe.store.manifest import Manifest
from attnprobe.store.plan import PlannedRecord
from attnprobe.store.publish import told_plainly
from attnprobe.store.receipts import RECORD_COLUMNS
from attnprobe.store.stickyfile import MemoryFile, StickyFile, uninterrupted
from attnprobe.types import Capture

LIBVER = ("v110", "v110")
ONE_CHUNK_BYTES = 2**20
"""Most bytes of a dataset that is stored as one chunk however long it is."""
ALL_HEADS = 2**30
"""Bytes of one record's weights up to which the heads of a layer are encoded together."""


class Growing:
    """A dataset that grows along its last axis, written one whole HDF5 chunk after another.

    Only the unfinished chunk is held in memory. The dataset is made when the first chunk is full,
    or at the end: one that needs a single chunk then gets one of its own length, which takes HDF5
    no index of chunks.
    """

    def __init__(
        self, create: Callable[[int | None], h5py.Dataset], shape: tuple[int, ...], dtype: str,
        code: Code | None,
    ) -> None:  # fmt: skip
        self.create, self.code, self.chunk = create, code, shape[-1]
        self.made: h5py.Dataset | None = None
        self.buffer = np.zeros(shape, dtype)
        self.filled = self.written = 0

    @property
    def dataset(self) -> h5py.Dataset:
        """The dataset, which may grow without limit if it is made now."""
        if self.made is None:
            self.made = self.create(None)
        return self.made

    def append(self, values: np.ndarray, crc: int, where: str) -> int:
        """Encode and append along the last axis, one entry of the first axis at a time.

        Args:
            values: The new stretch.
            crc: CRC-32 so far.
            where: What it is, for error messages.

        Returns:
            CRC-32 with the stored bytes of this stretch.
        """
        total = self.filled + values.shape[-1]
        whole = total - total % self.chunk
        if whole:
            self.dataset.resize(self.written + whole, axis=self.dataset.ndim - 1)
        n_leading = 1 if values.nbytes <= ALL_HEADS else 2
        for index in np.ndindex(self.buffer.shape[:-1][:n_leading]):
            stored, waiting = self._stored(values[index], where, index), self.buffer[index]
            crc = zlib.crc32(stored.data, crc)
            if not whole:
                waiting[..., self.filled : total] = stored
                continue
            block = np.concatenate(
                [waiting[..., : self.filled], stored[..., : whole - self.filled]], axis=-1
            )
            self._write(index, block)
            waiting[..., : total - whole] = stored[..., whole - self.filled :]
        self.written, self.filled = self.written + whole, total - whole
        return crc

    def _write(self, index: tuple[int, ...], block: np.ndarray) -> None:
        """Write whole chunks of one entry of the first axis."""
        for place in np.ndindex(block.shape[:-1]):
            for start in range(0, block.shape[-1], self.chunk):
                part = block[(*place, slice(start, start + self.chunk))]
                write_chunk(self.dataset, (*index, *place, self.written + start), part)

    def _stored(self, part: np.ndarray, where: str, index: tuple[int, ...]) -> np.ndarray:
        if self.code is None:
            return np.ascontiguousarray(part, self.buffer.dtype)
        position = f"{where} at layer position {index[0]}" if index else where
        return encode(np.ascontiguousarray(part, np.float32), self.code, position)

    def finish(self) -> None:
        """Write the unfinished chunk."""
        if self.made is None:
            dataset = self.create(self.filled)
            if self.filled:
                dataset[...] = self.buffer[..., : self.filled]
        elif self.filled:
            self.dataset.resize(self.written + self.filled, axis=self.dataset.ndim - 1)
            self.dataset[..., self.written :] = self.buffer[..., : self.filled]


class ShardWriter:
    """Writes the captures of one chunk to an unpublished file. It is a `Sink`."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        chunk: int,
        planned: Sequence[PlannedRecord],
        disk: StickyFile | MemoryFile | None = None,
    ) -> None:
        self.path, self.manifest, self.planned = path, manifest, planned
        self.columns = manifest.columns
        self.weight_code, self.whole = CODES[manifest.encoding], True
        self.counts: Counter[str] = Counter({"record": 0} | dict.fromkeys(RAGGED, 0))
        self.listed: dict[str, list[Any]] = {name: [] for name in RECORD_COLUMNS}
        self.texts: dict[str, list[bytes]] = defaultdict(list)
        self.numbers: dict[str, list[Any]] = defaultdict(list)
        self.growing: dict[str, Growing] = {}
        with told_plainly(path), uninterrupted():
            self.disk = StickyFile(path) if disk is None else disk
            self.file = h5py.File(self.disk, "w", libver=LIBVER)
            self.file.attrs["format"] = np.bytes_(FORMAT)
            self.file.attrs["format_version"] = np.array(FORMAT_VERSION, np.int32)
            self.file.attrs["chunk"] = np.int32(chunk)
            self.file.attrs["settings_hash"] = np.bytes_(manifest.settings_hash)
            for column in self.columns.values():
                if column.dtype != "text" and column.axis in RAGGED:
                    self.growing[column.name] = self._growing(column)

    def append(self, capture: Capture, /) -> None:
        """Take the next capture of the plan.

        Raises:
            StoreError: If it is not the planned one, or not fit to be stored.
        """
        self._check_plan(capture)
        methods = tuple(self.manifest.attribute)
        admit(capture, len(self.manifest.layers), len(self.manifest.heads), methods)
        names = columns_of.names(capture)
        values = columns_of.values(capture, self.manifest.keep, methods)
        record_id, crc = capture.encoding.record.id, 0
        self.whole = False
        for column in self.columns.values():
            if column.name in values:
                crc = self._append_column(column, values[column.name], crc, record_id)
        for name, entries in names.items():
            self.texts[name] += entries
        lengths = {self.columns[name].axis: part.shape[-1] for name, part in values.items()}
        lengths["span"] = len(names["/span/role"])
        self.numbers["/record/counts"].append([lengths.get(axis, 0) for axis in RAGGED])
        self.counts.update(lengths)
        self._list(capture, crc)
        self.whole = True

    def _check_plan(self, capture: Capture) -> None:
        position, encoding = self.counts["record"], capture.encoding
        if position >= len(self.planned):
            raise StoreError(
                "the chunk is already full", where=str(self.path), got=f"'{encoding.record.id}'",
                expected=f"{len(self.planned)} records",
            )  # fmt: skip
        planned = self.planned[position]
        if encoding.record.id != planned.id:
            raise StoreError(
                "captures must come in the order of the plan", where=f"record {position}",
                got=f"'{encoding.record.id}'", expected=f"'{planned.id}'",
            )  # fmt: skip
        if encoding.digest != planned.digest:
            raise StoreError(
                "the record was encoded otherwise than planned", where=f"record '{planned.id}'",
                got=f"digest {encoding.digest[:12]}…", expected=f"{planned.digest[:12]}…",
                fix="tokenizer, spans or sinks have changed since the run was planned",
            )  # fmt: skip

    def _append_column(self, column: Column, values: np.ndarray, crc: int, record_id: str) -> int:
        with told_plainly(self.path), uninterrupted():
            with_this = self.growing[column.name].append(
                values, crc, f"record '{record_id}', {column.name}"
            )
            self.disk.check()
        return with_this if column.in_crc else crc

    def _code(self, column: Column) -> Code | None:
        codes = {"code": self.weight_code, "mass": mass_code(self.weight_code)}
        return codes.get(column.dtype)

    def _list(self, capture: Capture, crc: int) -> None:
        encoding = capture.encoding
        entry = {
            "n_prompt": encoding.n_prompt, "n_tokens": encoding.n_tokens,
            "batch_size": capture.batch_size, "is_generated": encoding.generated is not None,
            "crc32": crc, "worst_error": short(capture.errors.max(initial=0.0)),
        }  # fmt: skip
        self.numbers["/record/numbers"].append([entry[name] for name in NUMBERS])
        self.numbers["/record/error"].append(capture.errors)
        for name, values in self.listed.items():
            values.append(entry[name])
        self.counts["record"] += 1

    def finish(self) -> None:
        """Write what is left and close the file.

        Raises:
            StoreError: If captures are missing.
        """
        if not self.whole:
            raise StoreError("a capture was refused half-way; the chunk must be done again")
        if self.counts["record"] != len(self.planned):
            raise StoreError(
                "captures are missing", where=str(self.path),
                got=f"{self.counts['record']} records", expected=len(self.planned),
            )  # fmt: skip
        with told_plainly(self.path), uninterrupted():
            for growing in self.growing.values():
                growing.finish()
            self._write_small()
            self.close()
            self.disk.check()

    def close(self) -> None:
        """Close the file, finished or not, and let go of what waits to be written.

        What grows knows its writer; without this, only the collector of cycles would free both,
        many shards later.
        """
        self.growing.clear()
        with uninterrupted():
            self.file.close()
            self.disk.close()

    def _write_small(self) -> None:
        self.numbers["/layer"], self.numbers["/head"] = (
            list(self.manifest.layers),
            list(self.manifest.heads),
        )
        for column in self.columns.values():
            if column.name in self.growing:
                continue
            if column.dtype == "text":
                entries = self.texts[column.name]
                width = max([1, *map(len, entries)])
                data = np.array(entries, f"S{width}")
            else:
                data = np.array(self.numbers[column.name], column.dtype)
            dataset = self._create(column, data.dtype, len(data))
            if data.size:
                dataset[...] = data

    def _growing(self, column: Column) -> Growing:
        code = self._code(column)
        dtype = np.dtype(code.dtype if code else column.dtype)
        shape = self._shape(column, chunk_shape(column, dtype.itemsize, 1)[-1])
        return Growing(functools.partial(self._create, column, dtype), shape, dtype.str, code)

    def _shape(self, column: Column, length: int) -> tuple[int, ...]:
        fixed = {
            "layer": len(self.manifest.layers), "head": len(self.manifest.heads),
            "axis": len(RAGGED), "number": len(NUMBERS),
        }  # fmt: skip
        return tuple(length if dim == column.axis else fixed[dim] for dim in column.dims)

    def _create(self, column: Column, dtype: np.dtype[Any], length: int | None) -> h5py.Dataset:
        """Make a dataset of some length, in one chunk if it can be; or one that grows."""
        code, shape = self._code(column), self._shape(column, length or 0)
        chunks = chunk_shape(column, dtype.itemsize, len(self.manifest.layers))
        limit = tuple(
            None if dim == column.axis else n for dim, n in zip(column.dims, shape, strict=True)
        )
        whole = tuple(
            n if dim == column.axis or column.axis == "record" else 1
            for dim, n in zip(column.dims, shape, strict=True)
        )
        if length and math.prod(whole) * dtype.itemsize <= ONE_CHUNK_BYTES:
            chunks, limit = whole, shape
        dataset = self.file.create_dataset(
            column.name, shape, dtype, maxshape=limit, chunks=chunks, shuffle=True,
            compression="gzip", compression_opts=GZIP_LEVEL, fletcher32=True, track_times=False,
        )  # fmt: skip
        dataset.attrs["dims"] = np.bytes_(" ".join(column.dims))
        if column.unit:
            dataset.attrs["unit"] = np.bytes_(column.unit)
        if code:
            dataset.attrs["encoding"] = np.bytes_(code.name)
            dataset.attrs["levels"] = np.int32(code.levels)
        return dataset
