"""Opens a run for reading: listing without a shard, then records as labelled arrays."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from attnprobe.errors import FormatError, SelectionError, nearest
from attnprobe.store import views
from attnprobe.store.layout import RAGGED, SHARDS, shard_name
from attnprobe.store.manifest import Manifest, read_manifest
from attnprobe.store.notebook import run_table
from attnprobe.store.opened import OpenShards
from attnprobe.store.plan import REPEATED
from attnprobe.store.ragged import Stretch, neighbours, step_masses
from attnprobe.store.receipts import RECORD_COLUMNS, Receipt, read_receipt
from attnprobe.store.shard import Ahead, Shard
from attnprobe.store.steprows import step_rows
from attnprobe.store.views import Place, Selection
from attnprobe.types import Encoding

Numbers = int | np.integer[Any] | Iterable[int] | None
"""Layers or heads by their number in the model; None means all that are stored."""

LISTED = (
    "item", "style", "task", "split", "n_prompt", "n_tokens", "n_steps", "batch_size",
    "worst_error", "shard",
)  # fmt: skip
"""Columns of `Run.records`."""


def open_run(path: Path | str) -> "Run":
    """Open a run, finished or not.

    Raises:
        FormatError: If there is none, or this version cannot read it.
    """
    if Path(path).is_file():
        raise FormatError(
            "this is a file, not a folder", where=str(path), expected="the folder of a run",
            fix="open the run that it was made from; a file of `attnprobe export` is for other "
            "tools",
        )  # fmt: skip
    return Run(Path(path))


class Run:
    """A run open for reading. Use it as a context manager, or `close()` it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = self._read_manifest()
        self.receipts = self._read_receipts()
        self._shards = OpenShards(self._open_shard)

    @property
    def complete(self) -> bool:
        """Whether every chunk of the plan is there."""
        return self.manifest.complete

    @property
    def layers(self) -> tuple[int, ...]:
        """Model layers that are stored."""
        return self.manifest.layers

    @property
    def heads(self) -> tuple[int, ...]:
        """Query heads that are stored."""
        return self.manifest.heads

    @property
    def keep(self) -> tuple[str, ...]:
        """What is stored of each record: `rows`, `full`, `steps`, `pooled`, `value_norms`."""
        return self.manifest.keep

    @property
    def attributions(self) -> dict[str, dict[str, Any]]:
        """Attribution methods that are stored, with their parameters."""
        return self.manifest.attribute

    @property
    def settings(self) -> dict[str, Any]:
        """What shaped the captures."""
        return dict(self.manifest.settings)

    @property
    def model(self) -> dict[str, Any]:
        """What was captured."""
        return dict(self.manifest.model)

    @cached_property
    def records(self) -> pd.DataFrame:
        """The records of all sealed chunks, in the order of the plan, indexed by id."""
        listed = {name: self._listed(name) for name in ("id", *REPEATED, *RECORD_COLUMNS)}
        n_steps = [n - p for n, p in zip(listed["n_tokens"], listed["n_prompt"], strict=True)]
        sizes = [(shard_name(r.chunk), r.counts["record"]) for r in self.receipts]
        shards = [name for name, size in sizes for _ in range(size)]
        columns = listed | {"n_steps": n_steps, "shard": shards}
        return pd.DataFrame(
            {name: columns[name] for name in LISTED}, pd.Index(listed["id"], name="id")
        )

    def encoding(self, record_id: str) -> Encoding:
        """Return the tokens and spans of a record, exactly as they were captured."""
        place = self._place(record_id)
        return place.shard.encoding(place.record)

    def weights(self, record_id: str, layer: Numbers = None, head: Numbers = None) -> xr.DataArray:
        """Return attention rows.

        Args:
            record_id: Which record.
            layer: Layers by their number in the model; all by default.
            head: Query heads; all by default.

        Returns:
            Probabilities with dims (layer, head, query, key); 0 where a key was not visible.

        Raises:
            MeasureError: If the run holds no rows.
            SelectionError: If there is no such record, layer or head.
        """
        return views.weights(self._place(record_id), self._select(layer, head))

    def step_mass(
        self, record_id: str, layer: Numbers = None, head: Numbers = None
    ) -> xr.DataArray:
        """Return the attention of each predicted token, summed over key groups.

        Returns:
            Probabilities with dims (layer, head, step, group), and `visible` keys as a coordinate.

        Raises:
            MeasureError: If the run holds no attention of every step.
        """
        return views.step_mass(self._place(record_id), self._select(layer, head))

    def pooled(self, record_id: str, layer: Numbers = None, head: Numbers = None) -> xr.DataArray:
        """Return the attention of every query, summed over key groups.

        Returns:
            Probabilities with dims (layer, head, query, group).

        Raises:
            MeasureError: If the run holds no attention of every query.
        """
        return views.pooled(self._place(record_id), self._select(layer, head))

    def attribution(self, record_id: str, method: str | None = None) -> xr.DataArray:
        """Return how much each token contributed to each prediction after it.

        Args:
            record_id: Which record.
            method: Which method; the run's only one by default.

        Returns:
            Scores with dims (step, source), NaN for tokens that do not come before the step's;
            target, unit and parameters of the method are attributes. Where the method promises
            what a step's scores sum to, the coordinate `delta` is how far off they are.

        Raises:
            SelectionError: If there is no such record, or no such method.
        """
        method = self._method(method)
        return views.attribution(self._place(record_id), method, self.attributions[method])

    def predictions(self, record_id: str) -> xr.Dataset:
        """Return log-probability (nats), most probable id and target id of each step."""
        return views.predictions(self._place(record_id))

    def iter_step_mass(
        self, ids: Iterable[str] | None = None, layer: Numbers = None, head: Numbers = None
    ) -> Iterator[tuple[str, xr.DataArray]]:
        """Go through the step masses of many records with bounded memory.

        Args:
            ids: Which records; all by default.
            layer: Layers by their number in the model; all by default.
            head: Query heads; all by default.

        Yields:
            Record id and the array of `step_mass`, in the order of the plan.
        """
        chosen = self._select(layer, head)
        for place in self._places(ids):
            yield place.id, views.step_mass(place, chosen)

    def iter_weights(
        self, ids: Iterable[str] | None = None, layer: Numbers = None, head: Numbers = None
    ) -> Iterator[tuple[str, xr.DataArray]]:
        """Go through the attention rows of many records with bounded memory.

        Args:
            ids: Which records; all by default.
            layer: Layers by their number in the model; all by default.
            head: Query heads; all by default.

        Yields:
            Record id and the array of `weights`, in the order of the plan.
        """
        chosen = self._select(layer, head)
        for place in self._places(ids):
            yield place.id, views.weights(place, chosen)

    def iter_step_rows(
        self,
        ids: Iterable[str] | None = None,
        layer: Numbers = None,
        head: Numbers = None,
        *,
        norms: bool = False,
    ) -> Iterator[tuple[str, xr.DataArray]]:
        """Go through the rows of the steps of many records with bounded memory.

        Args:
            ids: Which records; all by default.
            layer: Layers by their number in the model; all by default.
            head: Query heads; all by default.
            norms: Whether to read, as the coordinate `value_norm` (layer, head, key), how long the
                vector is that a head fetches from a key when it pays it all its weight.

        Yields:
            Record id and probabilities with dims (layer, head, step, key); the coordinate `visible`
            (layer, step, key) tells which keys each layer's mask shows.

        Raises:
            MeasureError: If the run holds no rows, or no such lengths.
        """
        chosen = self._select(layer, head)
        for place in self._places(ids):
            yield place.id, step_rows(place, chosen, norms=norms)

    def step_masses(
        self, layer: Numbers = None, head: Numbers = None, ids: Iterable[str] | None = None
    ) -> xr.Dataset:
        """Return the step masses of many records at once, the fast way to one head of a whole run.

        They lie one after another along `cell`, in the order of the plan: record r has
        `n_steps[r] * n_groups[r]` cells from `first_cell[r]` on, group running fastest, and its
        groups lie from `first_group[r]` on along `group`, with their roles. So this is what
        record r pays at each of its steps to each of its groups:

            start, shape = int(table.first_cell[r]), (int(table.n_steps[r]), int(table.n_groups[r]))
            table.step_mass.values[0, 0, start : start + shape[0] * shape[1]].reshape(shape)

        Args:
            layer: Layers by their number in the model; all by default.
            head: Query heads; all by default.
            ids: Which records; all by default.

        Raises:
            MeasureError: If the run holds no attention of every step.
        """
        found = self._found(ids)
        stretches = (
            Stretch(self._shards[number], first, stop) for number, first, stop in neighbours(found)
        )
        chosen = self._select(layer, head)
        names = [self._id(number, position) for number, position in found] if ids else self._where
        return step_masses(stretches, list(names), chosen)

    def info(self) -> dict[str, Any]:
        """Return what the run holds, how much, by which model and settings, and how far it is."""
        plan, errors = self.manifest.plan, self._listed("worst_error")
        n_tokens, n_prompt = sum(self._listed("n_tokens")), sum(self._listed("n_prompt"))
        return {
            "path": str(self.path),
            "format_version": ".".join(map(str, self.manifest.version)),
            "created": self.manifest.created,
            "complete": self.complete,
            "chunks": {"sealed": len(self.receipts), "planned": len(plan)},
            "records": {"sealed": len(errors), "planned": len(plan.ids)},
            "styles": dict(Counter(self._listed("style"))),
            "tasks": dict(Counter(self._listed("task"))),
            "splits": dict(Counter(self._listed("split"))),
            "items": len(set(self._listed("item"))),
            "tokens": n_tokens,
            "steps": n_tokens - n_prompt,
            "layers": list(self.layers),
            "heads": list(self.heads),
            "keep": list(self.keep),
            "encoding": self.manifest.encoding,
            "bytes": sum(receipt.bytes for receipt in self.receipts),
            "counts": {
                axis: sum(receipt.counts.get(axis, 0) for receipt in self.receipts)
                for axis in RAGGED
            },
            "worst_error": max(errors, default=None),
            "settings_hash": self.manifest.settings_hash,
            "model": self.model,
            "settings": self.settings,
        }

    def close(self) -> None:
        """Close every shard."""
        self._shards.close()

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "complete" if self.complete else f"{len(self.receipts)} chunks so far"
        return (
            f"Run('{self.path}', {len(self._where)} records, {len(self.layers)} layers × "
            f"{len(self.heads)} heads, keep {'+'.join(self.keep)}, {state})"
        )

    def _repr_html_(self) -> str:
        return run_table(self.info())

    def _read_manifest(self) -> Manifest:
        return read_manifest(self.path)

    def _listed(self, name: str) -> list[Any]:
        if name in RECORD_COLUMNS:
            return [entry for receipt in self.receipts for entry in receipt.records[name]]
        plan = self.manifest.plan
        return [entry for r in self.receipts for entry in plan.column(name, r.chunk)]

    def _read_receipts(self) -> tuple[Receipt, ...]:
        if self.manifest.complete:
            return self.manifest.receipts
        plan, settings_hash = self.manifest.plan, self.manifest.settings_hash
        found = [read_receipt(self.path, chunk, plan, settings_hash) for chunk in range(len(plan))]
        return tuple(receipt for receipt in found if receipt is not None)

    @cached_property
    def _where(self) -> dict[str, tuple[int, int]]:
        """Receipt and position of each record."""
        return {
            record_id: (number, position)
            for number, receipt in enumerate(self.receipts)
            for position, record_id in enumerate(self.manifest.plan.column("id", receipt.chunk))
        }

    def _method(self, method: str | None) -> str:
        """Check the name of an attribution method; the only one need not be named."""
        there = self.attributions
        if not there:
            raise SelectionError(
                "the run holds no attribution", where=str(self.path), got=method,
                fix="extract again with --attribute input_x_gradient",
            )  # fmt: skip
        if method is None and len(there) == 1:
            return next(iter(there))
        if method is None:
            raise SelectionError(
                "the run holds several attributions", where=str(self.path),
                expected=f"one of {', '.join(there)}", fix="name the method",
            )  # fmt: skip
        if method not in there:
            raise SelectionError(
                f"no attribution by '{method}'", where=str(self.path),
                fix=f"{nearest(method, there)}; to have it, extract again with "
                f"--attribute {method}",
            )  # fmt: skip
        return method

    def _find(self, record_id: str) -> tuple[int, int]:
        if record_id not in self._where:
            raise SelectionError(
                f"no record '{record_id}'", where=str(self.path),
                fix=nearest(record_id, self._where),
            )  # fmt: skip
        return self._where[record_id]

    def _place(self, record_id: str) -> Place:
        number, position = self._find(record_id)
        return Place(self._shards[number], position)

    def _id(self, number: int, position: int) -> str:
        return self.manifest.plan.column("id", self.receipts[number].chunk)[position]

    def _found(self, ids: Iterable[str] | None) -> list[tuple[int, int]]:
        """Return where records lie, in the order of the plan."""
        return sorted(map(self._find, ids)) if ids is not None else list(self._where.values())

    def _places(self, ids: Iterable[str] | None) -> Iterator[Place]:
        found = self._found(ids)
        shard, ahead = None, Ahead(-1)
        for at, (number, position) in enumerate(found):
            current = self._shards[number]
            if current is not shard or position > ahead.last:
                shard, ahead = current, Ahead(_until(found, at))
            yield Place(current, position, ahead)

    def _open_shard(self, number: int) -> Shard:
        receipt = self.receipts[number]
        path = self.path / SHARDS / shard_name(receipt.chunk)
        return Shard.open(path, receipt, self.manifest, sealed=True)

    def _select(self, layer: Numbers, head: Numbers) -> Selection:
        layers, layer_numbers = self._axis("layer", layer, self.layers)
        heads, head_numbers = self._axis("head", head, self.heads)
        return Selection(layers, heads, layer_numbers, head_numbers)

    def _axis(
        self, name: str, wanted: Numbers, there: tuple[int, ...]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if wanted is None:
            return tuple(range(len(there))), there
        single = isinstance(wanted, (int, np.integer))
        numbers = (int(wanted),) if single else tuple(int(number) for number in wanted)
        positions, absent = views.chosen_positions(numbers, there)
        if absent or not numbers:
            raise SelectionError(
                f"{name} {absent[0]} is not stored" if absent else f"no {name} was asked for",
                where=str(self.path), expected=f"one of {_shown(there)}",
            )  # fmt: skip
        return positions, numbers


def _until(found: list[tuple[int, int]], at: int) -> int:
    """Return the last position of the unbroken sequence of records that starts here."""
    number, position = found[at]
    last = at
    while last + 1 < len(found) and found[last + 1] == (number, position + last + 1 - at):
        last += 1
    return found[last][1]


def _shown(numbers: tuple[int, ...]) -> str:
    if len(numbers) > 2 and numbers == tuple(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
