"""Reads stretches of datasets in whole chunks, and keeps what the next record may want."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from h5py import h5d  # pyright: ignore[reportAttributeAccessIssue]

from attnprobe.store.filters import largest_packed, read_chunk
from attnprobe.store.guard import Stored

WINDOW_BYTES = 64 * 2**20
"""How much decoded data is read ahead at most, while records are read one after another."""

Leading = tuple[tuple[int, ...], ...]
"""Positions on every axis but the last."""


def read_stretch(
    dataset: h5d.DatasetID, stored: Stored, leading: Leading, extent: slice
) -> np.ndarray:
    """Read a stretch of the last axis, at some positions of the others.

    Raises:
        ValueError: If a chunk is not what the dataset declares.
        OSError: If one is missing, or cannot be read.
        RuntimeError: Likewise.
    """
    block = np.empty((*map(len, leading), extent.stop - extent.start), stored.dtype)
    if not block.size:
        return block
    *outer, length = stored.chunk
    n_values = math.prod(stored.chunk)
    buffer = bytearray(largest_packed(n_values * stored.dtype.itemsize))
    numbers = range(extent.start // length, -(-extent.stop // length))
    places = [list(_places(*axis)) for axis in zip(leading, outer, strict=True)]
    for place in itertools.product(*places):
        first = tuple(at for at, _, _ in place)
        for start in (number * length for number in numbers):
            values = read_chunk(dataset, (*first, start), n_values, stored.dtype, buffer)
            low, high = max(extent.start, start), min(extent.stop, start + length)
            into = (*(to for _, to, _ in place), slice(low - extent.start, high - extent.start))
            out_of = (*(of for _, _, of in place), slice(low - start, high - start))
            block[into] = values.reshape(stored.chunk)[out_of]
    return block


def read_whole(dataset: h5d.DatasetID, stored: Stored) -> np.ndarray:
    """Read a whole dataset; raises what `read_stretch` raises."""
    if stored.shape != stored.chunk:
        leading = tuple(tuple(range(length)) for length in stored.shape[:-1])
        return read_stretch(dataset, stored, leading, slice(0, stored.shape[-1]))
    n_values = math.prod(stored.chunk)
    buffer = bytearray(largest_packed(n_values * stored.dtype.itemsize))
    first = (0,) * len(stored.chunk)
    return read_chunk(dataset, first, n_values, stored.dtype, buffer).reshape(stored.shape)


def _places(positions: Sequence[int], size: int) -> Iterator[tuple[int, slice, slice]]:
    """Cut positions into runs that rise by one within a chunk.

    Yields:
        Where the chunk begins, where the run stands among the positions, and where in the chunk.
    """
    begin = 0
    for end in range(1, len(positions) + 1):
        last = positions[end - 1]
        if end < len(positions) and positions[end] == last + 1 and positions[end] % size:
            continue
        inside = last % size + 1
        yield last // size * size, slice(begin, end), slice(inside - (end - begin), inside)
        begin = end


@runtime_checkable
class Source(Protocol):
    """What a window reads from: an open shard."""

    def stored(self, name: str) -> Stored:
        """Return how a dataset lies in the file."""
        ...

    def block(self, name: str, leading: Leading, extent: slice) -> np.ndarray:
        """Read a stretch."""
        ...


class Window:
    """A stretch of a heavy dataset, read in whole HDF5 chunks and kept for the next record."""

    def __init__(self, shard: Source, name: str, leading: Leading) -> None:
        self.shard, self.name, self.leading = shard, name, leading
        stored = shard.stored(name)
        self.chunk, self.length = stored.chunk[-1], stored.shape[-1]
        per_position = 4 * math.prod(map(len, leading))
        self.ahead = max(WINDOW_BYTES // max(per_position, 1) // self.chunk, 1) * self.chunk
        self.start = self.stop = 0
        self.data = np.empty((*map(len, leading), 0), stored.dtype)

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
            self.data = self.shard.block(self.name, self.leading, slice(start, stop))
        else:
            new = self.shard.block(self.name, self.leading, slice(self.stop, stop))
            self.data = np.concatenate([kept, new], axis=-1)
        self.start, self.stop = start, stop


@dataclass(slots=True)
class Ahead:
    """What was read ahead of a sequence of records of one shard, for one choice of heads."""

    last: int
    """The last record of the sequence."""
    windows: dict[str, Window] = field(default_factory=dict)
