"""Runs held in memory: written and read as shards on disk are, without a file."""

import contextlib
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py

from attnprobe.errors import StoreError
from attnprobe.store.layout import shard_name
from attnprobe.store.manifest import Manifest
from attnprobe.store.plan import PlannedRecord
from attnprobe.store.reader import Run
from attnprobe.store.receipts import Receipt
from attnprobe.store.shard import Shard
from attnprobe.store.shardwriter import ShardWriter
from attnprobe.store.stickyfile import MemoryFile
from attnprobe.store.writer import planned_manifest

PLACE = Path("(in memory)")
"""What stands for a path in messages."""


class MemoryRun(Run):
    """A run whose one shard is an HDF5 image in memory. It reads like any other."""

    def __init__(self, manifest: Manifest, image: bytes) -> None:
        self._manifest, self._image = manifest, image
        super().__init__(PLACE)

    def _read_manifest(self) -> Manifest:
        return self._manifest

    def _open_shard(self, number: int) -> Shard:
        file = h5py.File(io.BytesIO(self._image), "r")
        return Shard.of(PLACE / shard_name(number), file, self.receipts[number], self.manifest)


class MemoryWriter:
    """Takes the captures of a run, in the order of its plan; gives the run when they are there."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest, self._disk = manifest, MemoryFile()
        self.sink = ShardWriter(PLACE, manifest, 0, manifest.plan[0], self._disk)
        self._finished = False

    def finish(self) -> None:
        """Write what is left.

        Raises:
            StoreError: If captures are missing.
        """
        self.sink.finish()
        self._finished = True

    def run(self) -> MemoryRun:
        """Return the run.

        Raises:
            StoreError: If it was not finished.
        """
        if not self._finished:
            raise StoreError("the run is not finished", where=str(PLACE))
        image = self._disk.getvalue()
        digest = hashlib.sha256(image).hexdigest()
        receipt = Receipt(0, len(image), digest, self.sink.counts, self.sink.listed)
        return MemoryRun(self._manifest.completed((receipt,)), image)


@contextlib.contextmanager
def in_memory(
    settings: Mapping[str, Any],
    model: Mapping[str, Any],
    layers: Sequence[int],
    heads: Sequence[int],
    records: Sequence[PlannedRecord],
) -> Iterator[MemoryWriter]:
    """Open a run in memory for its captures; leaving the block normally finishes it.

    Args:
        settings: What shapes the captures, JSON values; `keep` and `encoding` among them.
        model: What is captured, JSON values.
        layers: Model layer of each entry of the layer axis.
        heads: Query head of each entry of the head axis.
        records: The records, in order.

    Raises:
        StoreError: If the settings are not understood, a record stands there twice, or captures
            are missing at the end.
    """
    writer = MemoryWriter(planned_manifest(settings, model, layers, heads, [records]))
    try:
        yield writer
        writer.finish()
    finally:
        writer.sink.close()
