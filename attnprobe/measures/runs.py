"""Measures of a whole run, by name: `Run` → labelled array."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import xarray as xr

from attnprobe.errors import MeasureError, SelectionError, nearest
from attnprobe.measures.arrays import mean_over_steps
from attnprobe.measures.profiles import DistanceProfile, joined_profiles
from attnprobe.measures.recency import profile_of
from attnprobe.measures.registry import MEASURES, Measure, find_measure
from attnprobe.measures.roles import require_role, sort_roles
from attnprobe.measures.sources import Asked, Given, read

_RECORD_COORDS = ("item", "style", "task", "split")
_ABSENT = -1
"""Number of a layer or head in `by_head` where the measure has none."""


@runtime_checkable
class StepMassRun(Protocol):
    """What most measures need of a run: the table of records, and attention summed per span."""

    @property
    def records(self) -> Any:
        """Table indexed by record id, with the columns item, style, task and split."""
        ...

    def iter_step_mass(
        self, ids: Any = None, layer: Any = None, head: Any = None
    ) -> Iterator[tuple[str, xr.DataArray]]:
        """Yield each record's mass per (layer, head, step, group)."""
        ...


def measure(
    run: StepMassRun,
    name: str | Measure = "enrichment",
    query: str | Sequence[str] | None = None,
    key: str | Sequence[str] | None = None,
    layer: Any = None,
    head: Any = None,
    ids: Sequence[str] | None = None,
) -> xr.DataArray:
    """Measure where each head looks, per record.

    A step's query role is the role of the target span that holds the token predicted there. The
    value is taken step by step and then averaged over the steps of the role, each step counting
    once; steps at which it is undefined (the span has no visible key yet) are left out.

    Args:
        run: An open run that holds what the measure needs: step masses for most, rows for some.
        name: One of `MEASURES`, `attribution:METHOD`, or a measure itself.
        query: Query role; a pattern such as `step_*` takes the steps of several roles as one. A
            list keeps the dimension `query_role`; None takes every role there is.
        key: Key role, likewise; unused by measures without one.
        layer: Layers to read, as the run takes them; None for all.
        head: Heads to read, as the run takes them; None for all.
        ids: Records to read; None for all.

    Returns:
        Dims (record, layer, head, query_role, key_role), without the role dims that `query` and
        `key` name singly, without `key_role` where the measure has no key, and without `layer` or
        `head` where it has none (`rollout` mixes the heads, attributions have neither; `by_head`
        puts them back). Coords item, style, task and split along `record`. NaN where a record lacks
        the role. Attributes `units`, `measure`, `description`.

    Raises:
        SelectionError: If the measure, a role or a record is not there.
        MeasureError: If the run does not hold what the measure needs (the message says which
            `--keep` does), or nothing at all could be measured.
    """
    chosen = name if isinstance(name, Measure) else find_measure(name)
    name = name if isinstance(name, str) else _name_of(name)
    queries, keys = _listed(query), _listed(key) if chosen.has_key else None
    table = _rows(run.records, ids)
    chosen_ids = None if ids is None else list(ids)
    found = _Found()
    for block in read(run, Asked(name, chosen, queries, keys, layer, head, chosen_ids)):
        found.take(block, chosen)
    if not found.values:
        raise MeasureError(
            f"'{name}' needs the attention of the steps, and the run holds none",
            fix="extract again with --keep rows or --keep steps",
        )
    for asked, seen, kind in (
        (queries, found.query_roles, "query role"),
        (keys, found.key_roles, "key role"),
    ):
        for role in asked or ():
            require_role(role, seen, kind)
    query_roles = tuple(queries) if queries else sort_roles(found.query_roles)
    key_roles = tuple(keys) if keys else sort_roles(found.key_roles) if chosen.has_key else ("",)
    values = found.together([str(record) for record in table.index], query_roles, key_roles)
    if np.isnan(values).all():
        raise MeasureError(
            f"'{name}' is undefined in all {len(table)} records",
            where=f"query {', '.join(query_roles)} on key {', '.join(key_roles)}"
            if chosen.has_key else f"query {', '.join(query_roles)}",
            fix=chosen.where_undefined
            or "choose roles that occur in one record, the key before the query",
        )  # fmt: skip
    array = xr.DataArray(
        values,
        dims=("record", "layer", "head", "query_role", "key_role"),
        coords={
            "record": [str(record_id) for record_id in table.index],
            "layer": found.layers,
            "head": found.heads,
            "query_role": list(query_roles),
            "key_role": list(key_roles),
            **{
                column: ("record", table[column].astype(str).to_numpy(dtype=object))
                for column in _RECORD_COORDS
                if column in table.columns
            },
        },
        name=name,
        attrs={
            "units": _unit(run, chosen), "measure": name, "description": chosen.description,
        },
    )  # fmt: skip
    for axis in ("layer", "head"):
        if axis not in chosen.axes:
            array = array.isel({axis: 0}, drop=True)
    if not chosen.has_key:
        array = array.isel(key_role=0, drop=True)
    elif isinstance(key, str):
        array = array.isel(key_role=0)
    return array.isel(query_role=0) if isinstance(query, str) else array


def by_head(values: xr.DataArray) -> xr.DataArray:
    """Give a measure the dims `layer` and `head`, after `record`, if it has none of its own.

    Args:
        values: What `measure` returned.

    Returns:
        The same, with one entry of number −1 on each axis that was not there.
    """
    for axis in ("head", "layer"):
        if axis not in values.dims:
            values = values.expand_dims({axis: [_ABSENT]})
    return values.transpose("record", "layer", "head", ...)


def distance_profile(
    run: Any, layer: Any = None, head: Any = None, ids: Sequence[str] | None = None
) -> DistanceProfile:
    """Find how each head weighs a key by its distance alone, from a run of neutral text.

    Args:
        run: An open run that holds rows, of text without the segments in question; `probe` or
            `extract` makes one.
        layer: Layers to read; those that will be measured. None for all.
        head: Heads to read, likewise.
        ids: Records to read; None for all.

    Returns:
        The profile, for `beyond_profile`.

    Raises:
        MeasureError: If the run holds no rows.
    """
    needed = Measure("", "", lambda _: np.empty(0), has_key=False, needs="rows")
    blocks = read(run, Asked("distance_profile", needed, None, None, layer, head, ids))
    return joined_profiles([profile_of(given.records for given in block) for block in blocks])


def _name_of(chosen: Measure) -> str:
    """Name a measure that was given as such."""
    return next((name for name, one in MEASURES.items() if one is chosen), "measure")


def _unit(run: Any, chosen: Measure) -> str:
    """Return the unit; that of an attribution is the method's, which the run knows."""
    if chosen.unit or chosen.needs != "attribution":
        return chosen.unit
    method = chosen.method or next(iter(run.attributions))
    return str(run.attributions[method].get("unit", ""))


def _listed(roles: str | Sequence[str] | None) -> list[str] | None:
    return [roles] if isinstance(roles, str) else list(roles) if roles is not None else None


def _rows(records: Any, ids: Sequence[str] | None) -> Any:
    """Take the rows of the chosen records, in their order."""
    if ids is None:
        return records
    known = set(records.index)
    for record_id in ids:
        if record_id not in known:
            raise SelectionError(
                "no record of that id", got=f"'{record_id}'", fix=nearest(record_id, known)
            )
    if not ids:
        raise SelectionError("no record was chosen", got="no ids", expected="at least one record")
    return records.loc[list(ids)]


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """One record's values, for the roles that it has, in one block of layers."""

    values: np.ndarray
    queries: tuple[str, ...]
    keys: tuple[str, ...]

    def place(self, into: np.ndarray, queries: Sequence[str], keys: Sequence[str]) -> None:
        """Copy the values to where their roles stand among all."""
        rows = [queries.index(role) for role in self.queries]
        columns = [keys.index(role) for role in self.keys]
        into[:, :, np.array(rows, dtype=int)[:, None], np.array(columns, dtype=int)] = self.values


class _Found:
    """What was measured so far."""

    def __init__(self) -> None:
        self.values: dict[str, list[_Measured]] = {}
        """Of each record, block by block."""
        self.layers: list[int] = []
        self.heads: list[int] = []
        self.query_roles: set[str] = set()
        self.key_roles: set[str] = set()

    def take(self, block: Iterator[Given], chosen: Measure) -> None:
        """Measure all records in one block of layers."""
        waiting: list[Given] = []

        def records() -> Iterator[Any]:
            for given in block:
                self.query_roles |= given.seen[0]
                self.key_roles |= given.seen[1]
                waiting.append(given.without_records())
                yield given.records

        for at, per_step in enumerate(chosen.values(records())):
            given = waiting[at]
            measured = _averaged(given, per_step, has_key=chosen.has_key)
            self.values.setdefault(given.id, []).append(measured)
        if waiting:
            self.layers += list(waiting[0].axes[0])
            self.heads = list(waiting[0].axes[1])

    def together(
        self, records: Sequence[str], query_roles: Sequence[str], key_roles: Sequence[str]
    ) -> np.ndarray:
        """Put all values into one array, NaN where there is none."""
        shape = (len(records), len(self.layers), len(self.heads), len(query_roles), len(key_roles))
        values = np.full(shape, np.nan, dtype=np.float32)
        for row, record_id in enumerate(records):
            first = 0
            for measured in self.values.get(record_id, []):
                stop = first + len(measured.values)
                measured.place(values[row, first:stop], query_roles, key_roles)
                first = stop
        return values


def _averaged(given: Given, per_step: np.ndarray, *, has_key: bool) -> _Measured:
    """Average a record's values over the steps of each role."""
    per_step = per_step if has_key else per_step[..., None]
    n_layers, n_heads, _, n_keys = per_step.shape
    values = np.empty((n_layers, n_heads, len(given.steps), n_keys), dtype=np.float32)
    for row, steps in enumerate(given.steps.values()):
        values[:, :, row] = mean_over_steps(per_step[:, :, steps])
    return _Measured(values, tuple(given.steps), given.key_roles if has_key else ("",))


def roles_by_style(run: Any) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """List the query roles and the key roles that each style has.

    Args:
        run: An open run whose `encoding(id)` gives the spans.

    Returns:
        style → (query roles, key roles), both in reading order.
    """
    roles: dict[str, tuple[set[str], set[str]]] = {}
    for record_id, style in run.records["style"].items():
        encoding = run.encoding(record_id)
        queries, keys = roles.setdefault(str(style), (set(), set()))
        keys.update(span.role for span in encoding.spans)
        queries.update(s.role for s in encoding.spans if s.stop > encoding.n_prompt)
    return {style: (sort_roles(q), sort_roles(k)) for style, (q, k) in roles.items()}


def unfinished(*runs: Any) -> str:
    """Say how far unfinished runs are; nothing of finished ones."""
    counts = [run.info()["records"] for run in runs if not getattr(run, "complete", True)]
    return " ".join(
        f"The run is unfinished: {count['sealed']} of {count['planned']} records so far."
        for count in counts
    )
