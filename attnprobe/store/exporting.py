"""A run as one file: HDF5 by object copy, or netCDF for xarray."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from attnprobe.errors import SelectionError, StoreError, nearest
from attnprobe.store.jsonfile import sealed
from attnprobe.store.layout import (
    FORMAT,
    FORMAT_VERSION,
    GZIP_LEVEL,
    MANIFEST,
    SHARDS,
    receipt_name,
    shard_name,
)
from attnprobe.store.netcdf import write_netcdf
from attnprobe.store.publish import publish, remove_leftovers, sync, temporary_beside, told_plainly
from attnprobe.store.reader import Run, open_run
from attnprobe.store.shard import Shard
from attnprobe.store.shardwriter import LIBVER
from attnprobe.store.stickyfile import StickyFile, uninterrupted

JSON_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    path: Path
    n_records: int
    n_chunks: int
    n_planned: int
    """Chunks of the whole run; more than `n_chunks` where it is not finished."""

    @property
    def complete(self) -> bool:
        """Whether the file holds the whole run."""
        return self.n_chunks == self.n_planned


def export(
    run: Path | str,
    out: Path | str,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write a run to one file; of an unfinished one, what is sealed.

    `.h5` holds the shards as they are, chunk by chunk, and what is in the folder beside them; stock
    HDF5 tools read it. `.nc` holds decoded masses with labels for `xarray.open_dataset`, and leaves
    rows out. Either file appears whole or not at all.

    Args:
        run: Folder of the run.
        out: The file to write.
        overwrite: Replace a file that is there.
        on_progress: Called with records done and records in all.

    Raises:
        SelectionError: If the ending of `out` is not known.
        StoreError: If `out` is there, or cannot be written.
        FormatError: If the run is damaged.
        MeasureError: If the run does not hold what the file should.
    """
    out = Path(out)
    if out.suffix not in WRITERS:
        raise SelectionError(
            "the ending of the file is not known", where=str(out), got=repr(out.suffix),
            fix=nearest(out.suffix, WRITERS),
        )  # fmt: skip
    _refuse_taken(out, overwrite)
    with open_run(run) as opened:
        if not len(opened.records):
            raise StoreError(
                "there is nothing to export yet", where=str(run), got="no sealed chunk",
                fix="give the extract command again",
            )  # fmt: skip
        with _published(out, overwrite) as temporary:
            WRITERS[out.suffix](opened, temporary, on_progress)
        chunks = len(opened.receipts), len(opened.manifest.plan)
        return Exported(out, len(opened.records), *chunks)


def _refuse_taken(out: Path, overwrite: bool) -> None:
    if out.is_dir():
        raise StoreError("this is a folder, not a file", where=str(out), fix="name another file")
    if out.exists() and not overwrite:
        raise StoreError(
            "the file is already there", where=str(out), fix="name another file, or overwrite it"
        )
    if not out.parent.is_dir():
        raise StoreError("there is no such folder", where=str(out.parent), fix="make it first")


@contextlib.contextmanager
def _published(out: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary name; what is written there gets its own when it is whole."""
    remove_leftovers(out.parent)
    temporary = temporary_beside(out)
    try:
        yield temporary
        with told_plainly(out):
            if overwrite:
                sync(temporary)
                temporary.replace(out)
                sync(out.parent)
            elif not publish(temporary, out):
                _refuse_taken(out, overwrite)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_hdf5(run: Run, path: Path, on_progress: Callable[[int, int], None]) -> None:
    """Copy every sealed shard into one file, without decoding it.

    Raises:
        FormatError: If a shard is not what its receipt says.
        StoreError: If it cannot be written.
    """
    done, total = 0, len(run.records)
    with told_plainly(path):
        disk = StickyFile(path)
    try:
        with (
            told_plainly(path),
            uninterrupted() as heed,
            h5py.File(disk, "w", libver=LIBVER) as file,
        ):
            file.attrs["format"] = np.bytes_(FORMAT)
            file.attrs["format_version"] = np.array(FORMAT_VERSION, np.int32)
            _write_bytes(file, MANIFEST, _manifest_bytes(run))
            shards = file.create_group(SHARDS)
            for receipt in run.receipts:
                name = shard_name(receipt.chunk)
                shard = Shard.open(run.path / SHARDS / name, receipt, run.manifest, sealed=False)
                with contextlib.closing(shard):
                    shard.file.copy(shard.file["/"], shards, name=Path(name).stem)
                if not run.complete:  # the manifest has none of the receipts
                    stored = run.path / SHARDS / receipt_name(receipt.chunk)
                    _write_bytes(shards, stored.name, stored.read_bytes())
                heed()
                disk.check()
                done += receipt.counts["record"]
                on_progress(done, total)
        with told_plainly(path):
            disk.check()
    finally:
        disk.close()


def _manifest_bytes(run: Run) -> bytes:
    """Return the manifest as it is on disk; while a writer is going, as it was when opened."""
    if run.complete:
        return (run.path / MANIFEST).read_bytes()
    return sealed(run.manifest.to_json())


def _write_bytes(group: h5py.Group, name: str, data: bytes) -> None:
    group.create_dataset(
        name, data=np.frombuffer(data, np.uint8), chunks=(min(len(data), JSON_CHUNK),),
        shuffle=True, compression="gzip", compression_opts=GZIP_LEVEL, fletcher32=True,
        track_times=False,
    )  # fmt: skip


WRITERS = {".h5": write_hdf5, ".nc": write_netcdf}
"""What writes each kind of file, by its ending."""
