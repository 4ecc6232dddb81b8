"""The run that is tortured, how it is written, and what it must read and look like in the end."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import xarray as xr

from attnprobe import store
from attnprobe.types import Capture
from tests.store.builders import chunked, make_captures, open_writer, write_missing

CHUNK_SIZE = 2
VARYING = ("created", "checksum")
"""What differs in the manifests of two runs that are the same."""


@dataclass
class Outcome:
    """What one kind of torture came to."""

    kind: str
    n_done: int = 0
    facts: dict[str, int] = field(default_factory=dict)
    """Further counts, by what was counted."""
    violations: list[str] = field(default_factory=list)

    def count(self, what: str, by: int = 1) -> None:
        """Count something."""
        self.facts[what] = self.facts.get(what, 0) + by


@cache
def captures() -> tuple[Capture, ...]:
    """Eight records, four shards."""
    return tuple(make_captures(tasks=2))


def begin_run(path: Path) -> store.RunWriter:
    """Open a writer, on what is there of the run or on nothing."""
    return open_writer(
        path, list(captures()), keep=("rows", "steps", "pooled"), chunk_size=CHUNK_SIZE
    )


def write_run(path: Path) -> None:
    """Begin the run, or finish what is there of it."""
    write_missing(begin_run(path), list(captures()), chunk_size=CHUNK_SIZE)


def write_chunks(path: Path, n_chunks: int) -> None:
    """Begin the run, and seal its first shards."""
    writer = begin_run(path)
    for index, chunk in enumerate(chunked(list(captures()), CHUNK_SIZE)[:n_chunks]):
        with writer.chunk(index) as sink:
            for capture in chunk:
                sink.append(capture)


def files(path: Path) -> dict[str, object]:
    """Every file of a run by its name; the manifest without when the run was begun."""
    found: dict[str, object] = {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
    if "manifest.json" in found:
        manifest = json.loads((path / "manifest.json").read_bytes())
        found["manifest.json"] = {k: v for k, v in manifest.items() if k not in VARYING}
    return found


def differing(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Name the files in which two runs differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def sealed(path: Path) -> dict[str, object]:
    """Every shard that has a receipt, and the receipts."""
    found = files(path) if path.exists() else {}
    stems = [name.removesuffix(".json") for name in found if name.startswith("shards/chunk-")]
    whole = {stem for stem in stems if f"{stem}.json" in found and f"{stem}.h5" in found}
    return {
        name: digest
        for name, digest in found.items()
        if name.removesuffix(".json").removesuffix(".h5") in whole
    }


def fingerprint(run: store.Run, record_id: str) -> str:
    """Hash everything that can be read of one record."""
    digest = hashlib.sha256(repr(run.records.loc[record_id].to_list()).encode())
    encoding = run.encoding(record_id)
    digest.update(repr((encoding.record, encoding.ids.tolist(), encoding.spans)).encode())
    digest.update(repr((encoding.texts, encoding.sinks, encoding.generated)).encode())
    arrays = [run.weights(record_id), run.step_mass(record_id), run.pooled(record_id)]
    arrays += run.predictions(record_id).data_vars.values()
    for array in arrays:
        for part in _parts(array):
            digest.update(part)
    return digest.hexdigest()


def _parts(array: xr.DataArray) -> Iterator[bytes]:
    yield repr((array.name, array.dims, array.shape, str(array.dtype), array.attrs)).encode()
    for values in (array, *array.coords.values()):
        plain = np.asarray(values.to_numpy())
        yield repr(plain.tolist()).encode() if plain.dtype.kind in "OU" else plain.tobytes()


def fingerprints(path: Path) -> dict[str, str]:
    """Hash every record of a run, and what its listing says."""
    with store.open_run(path) as run:
        facts = {name: value for name, value in run.info().items() if name != "path"}
        listing = {"": hashlib.sha256(repr((facts, run.settings, run.model)).encode()).hexdigest()}
        return listing | {name: fingerprint(run, name) for name in run.records.index}
