"""Measures of a whole run, by name: `Run` → labelled array."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import xarray as xr
from jaxtyping import Float

from attnprobe.errors import MeasureError, SelectionError, nearest
from attnprobe.measures.arrays import (
    StepMass,
    mean_over_steps,
    role_density,
    role_enrichment,
    role_mass,
    sink_mass,
)
from attnprobe.measures.roles import match_roles, require_role, sort_roles

_RECORD_COORDS = ("item", "style", "task", "split")


@runtime_checkable
class StepMassRun(Protocol):
    """What a measure needs of a run: the table of records, and attention summed per span."""

    @property
    def records(self) -> Any:
        """Table indexed by record id, with the columns item, style, task and split."""
        ...

    def iter_step_mass(
        self, ids: Any = None, layer: Any = None, head: Any = None
    ) -> Iterator[tuple[str, xr.DataArray]]:
        """Yield each record's mass per (layer, head, step, group)."""
        ...


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure that can be asked for by name."""

    unit: str
    description: str
    """One sentence for captions and exports."""
    per_step: Callable[[StepMass], Float[np.ndarray, "layer head step *key_role"]]
    has_key: bool = True
    """Whether it is taken per key role; if not, it speaks of the query alone."""


MEASURES: dict[str, Measure] = {
    "enrichment": Measure(
        "bits",
        "log2 of a span's share of the attention over its share of the visible keys, sinks set "
        "apart; 0 where attention is even",
        role_enrichment,
    ),
    "mass": Measure("probability", "attention on the whole span, its sinks included", role_mass),
    "density": Measure(
        "probability per key",
        "attention on the whole span per visible key, its sinks included",
        role_density,
    ),
    "sink_mass": Measure(
        "probability",
        "attention on the sinks: the first positions and BOS",
        sink_mass,
        has_key=False,
    ),
}
"""Every measure by name."""


def find_measure(name: str) -> Measure:
    """Look a measure up by name.

    Raises:
        SelectionError: If there is none of that name.
    """
    if name not in MEASURES:
        raise SelectionError(
            "no measure of that name", got=f"'{name}'", fix=nearest(name, MEASURES)
        )
    return MEASURES[name]


def measure(
    run: StepMassRun,
    name: str = "enrichment",
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
        run: An open run that holds step masses.
        name: One of `MEASURES`.
        query: Query role; a pattern such as `step_*` takes the steps of several roles as one. A
            list keeps the dimension `query_role`; None takes every role there is.
        key: Key role, likewise.
        layer: Layers to read, as the run takes them; None for all.
        head: Heads to read, as the run takes them; None for all.
        ids: Records to read; None for all.

    Returns:
        Dims (record, layer, head, query_role, key_role), without the role dims that `query` and
        `key` name singly; coords item, style, task and split along `record`. NaN where a record
        lacks the role. Attributes `units`, `measure`, `description`.

    Raises:
        SelectionError: If the measure, a role or a record is not there.
        MeasureError: If the run holds no step masses, or nothing at all could be measured.
    """
    chosen = find_measure(name)
    queries, keys = _listed(query), _listed(key) if chosen.has_key else None
    table = _rows(run.records, ids)
    seen_queries: set[str] = set()
    seen_keys: set[str] = set()
    found: dict[str, _Measured] = {}
    axes: tuple[np.ndarray, np.ndarray] | None = None
    for record_id, step_mass in run.iter_step_mass(ids=ids, layer=layer, head=head):
        seen_queries.update(step_mass["step_role"].values.tolist())
        seen_keys.update(step_mass["role"].values.tolist())
        found[str(record_id)] = _measure_record(step_mass, chosen, queries, keys)
        if axes is None:
            axes = step_mass["layer"].values, step_mass["head"].values
    if axes is None:
        raise MeasureError(
            f"'{name}' needs the attention of the steps, and the run holds none",
            fix="extract again with --keep rows or --keep steps",
        )
    for asked, seen, kind in ((queries, seen_queries, "query role"), (keys, seen_keys, "key role")):
        for role in asked or ():
            require_role(role, seen, kind)
    query_roles = tuple(queries) if queries else sort_roles(seen_queries)
    key_roles = tuple(keys) if keys else sort_roles(seen_keys) if chosen.has_key else ("",)
    values = np.full(
        (len(table), len(axes[0]), len(axes[1]), len(query_roles), len(key_roles)),
        np.nan,
        dtype=np.float32,
    )
    for row, record_id in enumerate(table.index):
        if str(record_id) in found:
            found[str(record_id)].place(values[row], query_roles, key_roles)
    if np.isnan(values).all():
        raise MeasureError(
            f"'{name}' is undefined in all {len(table)} records",
            where=f"query {', '.join(query_roles)} on key {', '.join(key_roles)}",
            fix="choose roles that occur in one record, the key before the query",
        )
    array = xr.DataArray(
        values,
        dims=("record", "layer", "head", "query_role", "key_role"),
        coords={
            "record": [str(record_id) for record_id in table.index],
            "layer": axes[0],
            "head": axes[1],
            "query_role": list(query_roles),
            "key_role": list(key_roles),
            **{
                column: ("record", table[column].astype(str).to_numpy(dtype=object))
                for column in _RECORD_COORDS
                if column in table.columns
            },
        },
        name=name,
        attrs={"units": chosen.unit, "measure": name, "description": chosen.description},
    )
    if not chosen.has_key:
        array = array.isel(key_role=0, drop=True)
    elif isinstance(key, str):
        array = array.isel(key_role=0)
    return array.isel(query_role=0) if isinstance(query, str) else array


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
    """One record's values, for the roles that it has."""

    values: np.ndarray
    queries: tuple[str, ...]
    keys: tuple[str, ...]

    def place(self, into: np.ndarray, queries: Sequence[str], keys: Sequence[str]) -> None:
        """Copy the values to where their roles stand among all."""
        rows = [queries.index(role) for role in self.queries]
        columns = [keys.index(role) for role in self.keys]
        into[:, :, np.array(rows, dtype=int)[:, None], np.array(columns, dtype=int)] = self.values


def _measure_record(
    step_mass: xr.DataArray,
    chosen: Measure,
    queries: Sequence[str] | None,
    keys: Sequence[str] | None,
) -> _Measured:
    """Measure one record for the roles asked for, or for all that it has."""
    step_mass = step_mass.transpose("layer", "head", "step", "group")
    step_roles = step_mass["step_role"].values.tolist()
    group_roles = step_mass["role"].values.tolist()
    steps_of = _present(queries, step_roles)
    groups_of = _present(keys, group_roles) if chosen.has_key else {"": []}
    wanted = np.array(sorted({s for steps in steps_of.values() for s in steps}), dtype=int)
    members = np.zeros((len(group_roles), len(groups_of)), dtype=bool)
    for column, groups in enumerate(groups_of.values()):
        members[groups, column] = True
    per_step = chosen.per_step(
        StepMass(
            mass=step_mass.values[:, :, wanted],
            visible=step_mass["visible"].transpose("layer", "step", "group").values[:, wanted],
            is_sink=step_mass["is_sink"].values.astype(bool),
            members=members,
        )
    )
    if not chosen.has_key:
        per_step = per_step[..., None]
    n_layers, n_heads = per_step.shape[:2]
    values = np.empty((n_layers, n_heads, len(steps_of), len(groups_of)), dtype=np.float32)
    for row, steps in enumerate(steps_of.values()):
        values[:, :, row] = mean_over_steps(per_step[:, :, np.searchsorted(wanted, steps)])
    return _Measured(values, tuple(steps_of), tuple(groups_of))


def _present(asked: Sequence[str] | None, roles: Sequence[str]) -> dict[str, list[int]]:
    """Find the places of each role asked for, leaving out those that are nowhere."""
    places = {role: match_roles(role, roles) for role in asked or sort_roles(roles)}
    return {role: found for role, found in places.items() if found}


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
