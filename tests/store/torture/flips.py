"""Single flipped bits: `verify --full` reports every one, and nothing wrong is ever read."""

import contextlib
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py

from attnprobe import store
from attnprobe.errors import AttnprobeError
from attnprobe.store.layout import BIG
from tests.store.torture.reference import Outcome, fingerprints, write_chunks, write_run


@dataclass(frozen=True)
class Stretch:
    """Bytes of a file."""

    file: Path
    start: int
    stop: int


Parts = dict[str, list[Stretch]]
"""Where each part of a run lies."""


def torture_by_flips(folder: Path, n_flips: int, seed: int) -> Outcome:
    """Flip one bit at a time, as many in each part of a run, and hold verify and reader to it.

    Half of the bits are those of a finished run, half of one that lacks a shard.
    """
    outcome, rng = Outcome("single flipped bits"), random.Random(seed)
    runs = [folder / "finished", folder / "begun"]
    write_run(runs[0])
    write_chunks(runs[1], 3)
    parts, read = [_parts(run) for run in runs], [fingerprints(run) for run in runs]
    for number in range(n_flips):
        which = number % 2
        names = sorted(parts[which])
        name = names[number // 2 % len(names)]
        stretches = parts[which][name]
        [stretch] = rng.choices(stretches, [s.stop - s.start for s in stretches])
        at = rng.randrange(stretch.start, stretch.stop)
        where = f"{stretch.file.relative_to(folder)}, byte {at} ({name})"
        outcome.n_done += 1
        outcome.count(f"in {name}")
        with _flipped(stretch.file, at, 1 << rng.randrange(8)):
            _hold(runs[which], where, read[which], outcome)
    return outcome


def _hold(run: Path, where: str, read: dict[str, str], outcome: Outcome) -> None:
    try:
        reported = bool(store.verify(run, full=True).faults)
    except AttnprobeError:
        reported = True
    if not reported:
        outcome.violations.append(f"{where}: not reported by verify --full")
    try:
        same = fingerprints(run) == read
    except AttnprobeError:
        outcome.count("refused by the reader")
        return
    outcome.count("not met by the reader, which read all as it was", int(same))
    if not same:
        outcome.violations.append(f"{where}: read silently")


@contextlib.contextmanager
def _flipped(file: Path, at: int, bit: int) -> Iterator[None]:
    with file.open("rb+") as stream:
        stream.seek(at)
        [old] = stream.read(1)
        stream.seek(at)
        stream.write(bytes([old ^ bit]))
    try:
        yield
    finally:
        with file.open("rb+") as stream:
            stream.seek(at)
            stream.write(bytes([old]))


def _parts(run: Path) -> Parts:
    parts: Parts = defaultdict(list)
    for file in sorted(run.rglob("*")):
        if file.suffix == ".h5":
            for name, stretch in _shard_parts(file):
                parts[name].append(stretch)
        elif file.is_file():
            name = "the manifest" if file.name == "manifest.json" else "receipts"
            parts[name].append(Stretch(file, 0, file.stat().st_size))
    return dict(parts)


def _shard_parts(path: Path) -> Iterator[tuple[str, Stretch]]:
    """Yield the stored chunks of a shard, and what lies between them: HDF5's own structures."""
    chunks: list[tuple[int, int, str]] = []

    def visit(name: str, member: h5py.Dataset | h5py.Group) -> None:
        if isinstance(member, h5py.Dataset):
            part = "data" if f"/{name}" in BIG else "index columns"
            for number in range(member.id.get_num_chunks()):
                chunk = member.id.get_chunk_info(number)
                chunks.append((chunk.byte_offset, chunk.byte_offset + chunk.size, part))

    with h5py.File(path) as shard:
        shard.visititems(visit)
    at = 0
    for start, stop, part in sorted(chunks):
        if at < start:
            yield "HDF5 metadata", Stretch(path, at, start)
        yield part, Stretch(path, start, stop)
        at = stop
    if at < path.stat().st_size:
        yield "HDF5 metadata", Stretch(path, at, path.stat().st_size)
