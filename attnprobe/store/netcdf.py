"""A run as one netCDF-4 file for xarray: decoded masses, and everything that labels them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from attnprobe.errors import FormatError
from attnprobe.store.jsonfile import canonical_json
from attnprobe.store.publish import told_plainly
from attnprobe.store.stickyfile import StickyFile, uninterrupted
from attnprobe.types import Encoding

if TYPE_CHECKING:
    import h5netcdf

    from attnprobe.store.reader import Run

BUFFER_BYTES = 64 * 2**20
"""About how much of a mass is held back until it fills whole HDF5 chunks."""
LONGEST_CHUNK = 16384

TEXT = "S1"
Blocks = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of the file."""

    name: str
    dtype: str
    """Numpy type; `S1` for UTF-8 text, whose last axis is its bytes."""
    dims: tuple[str, ...]
    """Axes, without the one of text; the last one is the one that is filled bit by bit."""
    meaning: str
    units: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further attributes."""


_AXIS = ("record",)
RECORD = (
    Variable("record", TEXT, _AXIS, "record id"),
    Variable("item", TEXT, _AXIS, "the problem"),
    Variable("style", TEXT, _AXIS, "the way of prompting"),
    Variable("task", TEXT, _AXIS, "the problem family"),
    Variable("split", TEXT, _AXIS, "train, seen, unseen, …"),
    Variable("n_prompt", "<i4", _AXIS, "tokens of the prompt", "1"),
    Variable(
        "n_tokens", "<i4", _AXIS, "tokens of prompt and target", "1", {"sample_dimension": "token"}
    ),
    Variable("n_steps", "<i4", _AXIS, "predicted tokens", "1", {"sample_dimension": "step"}),
    Variable("batch_size", "<i4", _AXIS, "records that shared the forward pass", "1"),
    Variable("worst_error", "<f8", _AXIS, "worst relative error of the certificate", "1"),
    Variable(
        "is_generated", "|i1", _AXIS, "whether the model wrote the target", more={"dtype": "bool"}
    ),
)
TOKEN = (
    Variable("token_record", "<i4", ("token",), "position of the token's record on `record`"),
    Variable("token_id", "<i4", ("token",), "id in the tokenizer"),
    Variable("token_text", TEXT, ("token",), "text of the token"),
    Variable("token_role", TEXT, ("token",), "role of the span that holds the token"),
)
STEP = (
    Variable("step_record", "<i4", ("step",), "position of the step's record on `record`"),
    Variable("step_number", "<i4", ("step",), "number of the step in its record, from 0"),
    Variable("step_text", TEXT, ("step",), "text of the predicted token"),
    Variable("step_role", TEXT, ("step",), "role of the predicted token"),
    Variable("target", "<i4", ("step",), "id of the token that stands there"),
    Variable("predicted", "<i4", ("step",), "most probable token id"),
    Variable("log_prob", "<f4", ("step",), "natural log-probability of the target", "1"),
)


def mass_variables(name: str, cell: str, query: str, looks: str) -> tuple[Variable, ...]:
    """Describe a mass on a ragged axis of cells, each a (query, group of keys) pair of a record.

    Args:
        name: The mass, a method of `Run`.
        cell: The ragged axis.
        query: What the first axis of a record's cells counts.
        looks: That in words.
    """
    labels = (
        Variable(f"{cell}_record", "<i4", (cell,), "position of the cell's record on `record`"),
        Variable(f"{cell}_{query}", "<i4", (cell,), f"{looks}, from 0"),
        Variable(f"{cell}_{query}_role", TEXT, (cell,), f"role of the {query}"),
        Variable(f"{cell}_key_role", TEXT, (cell,), "role of the keys"),
        Variable(f"{cell}_key_start", "<i4", (cell,), "position of the first key"),
        Variable(f"{cell}_key_stop", "<i4", (cell,), "position after the last key"),
        Variable(
            f"{cell}_is_sink", "|i1", (cell,), "whether the key is a sink",
            more={"dtype": "bool"},
        ),
    )  # fmt: skip
    named = {"coordinates": " ".join(label.name for label in labels)}
    return (
        Variable(
            f"n_{cell}s", "<i4", ("record",), "cells of the record", "1",
            {"sample_dimension": cell},
        ),
        *labels,
        Variable(
            f"{cell}_visible", "<i4", ("layer", cell), "keys the mask left visible", "1", named
        ),
        Variable(name, "<f4", ("layer", "head", cell), "attention on the keys", "1", named),
    )  # fmt: skip


MASSES = {
    "step_mass": ("cell", "step", "number of the step in its record"),
    "pooled": ("pooled_cell", "query", "position of the query in its record"),
}
"""Ragged axis of each mass, and what looks."""


def write_netcdf(run: "Run", path: Path, on_progress: Callable[[int, int], None]) -> None:
    """Write a run's masses and labels to a new file, record by record.

    Raises:
        MeasureError: If the run does not hold the attention of every step.
        StoreError: If it cannot be written.
    """
    import h5netcdf

    masses = ["step_mass", *(["pooled"] if "pooled" in run.keep else [])]
    sizes = _measured(run, masses)
    disk = None
    with told_plainly(path):
        disk = StickyFile(path)
    try:
        with (
            told_plainly(path),
            uninterrupted() as heed,
            h5netcdf.File(disk, "w", libver=("v110", "v110")) as file,
        ):
            writer = _Writer(file, run, sizes, masses)
            for number, blocks in enumerate(_blocks(run, masses), 1):
                writer.append(blocks)
                heed()
                disk.check()
                on_progress(number, sizes["record"])
            writer.finish()
        with told_plainly(path):
            disk.check()
    finally:
        disk.close()


def _measured(run: "Run", masses: list[str]) -> dict[str, int]:
    """Go through the records once: length of each ragged axis, bytes of the longest texts."""
    sizes = dict.fromkeys(("record", "token", "step", *(MASSES[name][0] for name in masses)), 0)
    longest = dict.fromkeys(("token_text", "role"), 1)
    for record_id in run.records.index:
        encoding = run.encoding(record_id)
        n_groups = len(encoding.groups)
        sizes["record"] += 1
        sizes["token"] += encoding.n_tokens
        sizes["step"] += encoding.n_steps
        sizes["cell"] += encoding.n_steps * n_groups
        if "pooled" in masses:
            sizes["pooled_cell"] += len(encoding.queries) * n_groups
        longest["token_text"] = max(longest["token_text"], *map(_n_bytes, encoding.texts))
        longest["role"] = max(longest["role"], *(_n_bytes(s.role) for s in encoding.spans))
    names = {
        name: max(1, *map(_n_bytes, run.records.reset_index()[name]))
        for name in ("id", "item", "style", "task", "split")
    }
    return sizes | {f"{name}_byte": size for name, size in (longest | names).items()}


def _n_bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _blocks(run: "Run", masses: list[str]) -> Iterator[Blocks]:
    """Yield what each variable holds of each record."""
    listed = run.records.reset_index().rename(columns={"id": "record"})
    for number, (record_id, mass) in enumerate(run.iter_step_mass()):
        encoding, predictions = run.encoding(record_id), run.predictions(record_id)
        blocks = {
            variable.name: listed[variable.name].to_numpy()[number : number + 1]
            for variable in RECORD
            if variable.name in listed
        }
        blocks["is_generated"] = np.array([encoding.generated is not None])
        blocks |= _token_blocks(encoding, number) | _step_blocks(predictions, number)
        blocks |= _mass_blocks("step_mass", mass, number)
        if "pooled" in masses:
            blocks |= _mass_blocks("pooled", run.pooled(record_id), number)
        yield blocks


def _token_blocks(encoding: Encoding, number: int) -> Blocks:
    roles = [span.role for span in encoding.spans for _ in range(len(span))]
    return {
        "token_record": np.full(encoding.n_tokens, number),
        "token_id": encoding.ids,
        "token_text": np.array(encoding.texts, np.str_),
        "token_role": np.array(roles, np.str_),
    }


def _step_blocks(predictions: xr.Dataset, number: int) -> Blocks:
    names = ("step_text", "step_role", "target", "predicted", "log_prob")
    n_steps = predictions.sizes["step"]
    return {name: predictions[name].to_numpy() for name in names} | {
        "step_record": np.full(n_steps, number),
        "step_number": np.arange(n_steps),
    }


def _mass_blocks(name: str, mass: xr.DataArray, number: int) -> Blocks:
    """Flatten a record's mass, and spread its labels over the cells."""
    cell, query, _ = MASSES[name]
    n_queries, n_groups = mass.sizes[query], mass.sizes["group"]
    if "visible" not in mass.coords:
        raise FormatError(
            "the run does not hold the keys that each query saw",
            where=f"record '{mass.attrs['record']}'",
            fix="the run was not written by attnprobe, or was damaged",
        )
    by_query = {f"{cell}_{query}": query, f"{cell}_{query}_role": f"{query}_role"}
    by_group = {
        f"{cell}_key_role": "role", f"{cell}_key_start": "group_start",
        f"{cell}_key_stop": "group_stop", f"{cell}_is_sink": "is_sink",
    }  # fmt: skip
    return (
        {label: np.repeat(mass[of].to_numpy(), n_groups) for label, of in by_query.items()}
        | {label: np.tile(mass[of].to_numpy(), n_queries) for label, of in by_group.items()}
        | {
            f"n_{cell}s": np.array([n_queries * n_groups]),
            f"{cell}_record": np.full(n_queries * n_groups, number),
            f"{cell}_visible": mass["visible"].to_numpy().reshape(mass.sizes["layer"], -1),
            name: mass.to_numpy().reshape(*mass.shape[:2], -1),
        }
    )


class _Writer:
    """Holds every variable's last values back until they fill whole HDF5 chunks."""

    def __init__(
        self, file: "h5netcdf.File", run: "Run", sizes: Mapping[str, int], masses: list[str]
    ) -> None:
        self.file, self.sizes = file, dict(sizes)
        file.dimensions = dict(sizes) | {"layer": len(run.layers), "head": len(run.heads)}
        file.attrs.update(_attributes(run))
        for name, numbers in (("layer", run.layers), ("head", run.heads)):
            axis = file.create_variable(name, (name,), np.dtype("<i4"))
            axis[...] = np.array(numbers, np.int32)
            axis.attrs["long_name"] = f"number of the {name} in the model"
        n_heads = len(run.layers) * len(run.heads)
        self.chunk = min(LONGEST_CHUNK, max(256, BUFFER_BYTES // (4 * n_heads)))
        variables = [*RECORD, *TOKEN, *STEP]
        for name in masses:
            variables += mass_variables(name, *MASSES[name])
        self.growing = {variable.name: self._create(variable) for variable in variables}

    def append(self, blocks: Blocks) -> None:
        """Take one record's part of every variable."""
        for name, growing in self.growing.items():
            growing.append(blocks[name])

    def finish(self) -> None:
        """Write what was held back."""
        for growing in self.growing.values():
            growing.finish()

    def _create(self, variable: Variable) -> "_Growing":
        dims, shape = variable.dims, [1] * (len(variable.dims) - 1)
        size = self.sizes[dims[-1]]
        chunks = (*shape, max(1, min(self.chunk, size)))
        if variable.dtype == TEXT:
            width = _width_of(variable.name)
            dims, chunks = (*dims, width), (*chunks, self.sizes[width])
        stored = self.file.create_variable(
            variable.name, dims, np.dtype(variable.dtype), chunks=chunks, shuffle=True,
            compression="gzip", compression_opts=4, fletcher32=True,
        )  # fmt: skip
        stored.attrs["long_name"] = variable.meaning
        if variable.units:
            stored.attrs["units"] = variable.units
        if variable.dtype == TEXT:
            stored.attrs["_Encoding"] = "utf-8"
        stored.attrs.update(variable.more)
        return _Growing(stored, chunks[len(variable.dims) - 1], len(variable.dims) - 1)


def _width_of(name: str) -> str:
    """Name the axis that the bytes of a text lie on."""
    if name.endswith("role"):
        return "role_byte"
    return "token_text_byte" if name.endswith("text") else f"{name.replace('record', 'id')}_byte"


class _Growing:
    """A variable that is filled along one axis."""

    def __init__(self, variable: "h5netcdf.Variable", chunk: int, axis: int) -> None:
        self.variable, self.chunk, self.axis = variable, chunk, axis
        self.dtype = variable.dtype
        self.width = variable.shape[-1] if self.dtype == np.dtype(TEXT) else 0
        self.waiting: list[np.ndarray] = []
        self.n_waiting = self.written = 0

    def append(self, values: np.ndarray) -> None:
        """Take the next values, and write those that fill whole chunks."""
        self.waiting.append(self._stored(values))
        self.n_waiting += values.shape[-1]
        if self.n_waiting >= self.chunk:
            self._write(self.n_waiting - self.n_waiting % self.chunk)

    def finish(self) -> None:
        """Write the rest."""
        if self.n_waiting:
            self._write(self.n_waiting)

    def _stored(self, values: np.ndarray) -> np.ndarray:
        if not self.width:
            return values.astype(self.dtype)
        texts = np.strings.encode(values.astype(np.str_), "utf-8", "replace")
        return texts.astype(f"S{self.width}").view(TEXT).reshape(len(values), self.width)

    def _write(self, count: int) -> None:
        joined = np.concatenate(self.waiting, axis=self.axis)
        before = (slice(None),) * self.axis
        place = (*before, slice(self.written, self.written + count))
        self.variable[place] = joined[(*before, slice(count))]
        self.waiting = [joined[(*before, slice(count, None))].copy()]
        self.written, self.n_waiting = self.written + count, self.n_waiting - count


def _attributes(run: "Run") -> dict[str, Any]:
    from attnprobe import __version__

    return {
        "Conventions": "CF-1.11",
        "title": "Attention of a causal language model, summed over segments",
        "source": f"attnprobe {__version__}",
        "created": run.manifest.created,
        "chunks_exported": len(run.receipts),
        "chunks_planned": len(run.manifest.plan),
        "settings_hash": run.manifest.settings_hash,
        "settings": canonical_json(run.settings),
        "model": canonical_json(run.model),
    }
