"""Reads what measures need out of a run, record by record."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Int

from attnprobe.errors import MeasureError, SelectionError
from attnprobe.measures.arrays import StepMass
from attnprobe.measures.credit import Credit
from attnprobe.measures.influence import LayerMaps
from attnprobe.measures.registry import NEEDS, Measure
from attnprobe.measures.roles import match_roles, sort_roles
from attnprobe.measures.rows import StepRows

BLOCK_BYTES = 2**28
"""Most bytes of one record's rows that are held at once; more are measured a few layers at a
time."""

KEPT_BY: dict[str, tuple[tuple[str, ...], ...]] = {
    "rows": (("rows",), ("full",)),
    "full": (("full",),),
    "value_norms": (("rows", "value_norms"), ("full", "value_norms")),
}
"""Which `keep`, together, give what a measure needs, where not all do."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for of each record."""

    name: str
    """Name of the measure, for messages."""
    measure: Measure
    queries: Sequence[str] | None
    """Query roles or patterns; None for all there are."""
    keys: Sequence[str] | None
    layer: Any
    head: Any
    ids: Sequence[str] | None


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What a measure needs of one record, and how its values are to be read."""

    id: str
    records: Any
    """What the measure takes."""
    steps: dict[str, Int[np.ndarray, " step"]]
    """Of each query role there is, where its steps stand among those asked for."""
    key_roles: tuple[str, ...]
    """Key roles there are, in the order of the values."""
    seen: tuple[set[str], set[str]]
    """All query roles and key roles of the record."""
    axes: tuple[Sequence[int], Sequence[int]]
    """Layers and heads of the values."""

    def without_records(self) -> "Given":
        """Return the same without what is large."""
        return replace(self, records=None)


def read(run: Any, asked: Asked) -> Iterator[Iterator[Given]]:
    """Read a run for a measure.

    Yields:
        For each block of layers, all records.

    Raises:
        MeasureError: If the run does not hold what is needed; says what does.
        SelectionError: If a layer, head or attribution is not there, or the measure has none.
    """
    needs = asked.measure.needs
    for axis, wanted in (("layer", asked.layer), ("head", asked.head)):
        if wanted is not None and axis not in asked.measure.axes:
            raise SelectionError(
                f"'{asked.name}' has no {axis}s", got=f"{axis} {wanted!r:.40}",
                fix=f"leave `{axis}` out",
            )  # fmt: skip
    if needs not in _READERS:
        raise SelectionError(
            f"'{asked.name}' needs what no run holds", got=f"'{needs}'", expected=", ".join(NEEDS)
        )
    if needs in KEPT_BY and not any(set(run.keep).issuperset(keep) for keep in KEPT_BY[needs]):
        raise MeasureError(
            f"'{asked.name}' needs {NEEDS[needs].partition(':')[0]}, which the run does not hold",
            where=str(getattr(run, "path", "")) or None, got=f"--keep {' '.join(run.keep)}",
            fix="extract again with " + " ".join(f"--keep {keep}" for keep in KEPT_BY[needs][0]),
        )  # fmt: skip
    return _READERS[needs](run, asked)


def _step_masses(run: Any, asked: Asked) -> Iterator[Iterator[Given]]:
    yield (
        _step_mass(str(record_id), found, asked)
        for record_id, found in run.iter_step_mass(
            ids=asked.ids, layer=asked.layer, head=asked.head
        )
    )


def _step_mass(record_id: str, found: xr.DataArray, asked: Asked) -> Given:
    found = found.transpose("layer", "head", "step", "group")
    steps, wanted, step_roles = _steps(found["step_role"].values, asked)
    members, key_roles, roles = _members(found["role"].values, asked)
    masses = StepMass(
        mass=found.values[:, :, wanted],
        visible=found["visible"].transpose("layer", "step", "group").values[:, wanted],
        is_sink=found["is_sink"].values.astype(bool),
        members=members,
    )
    return Given(record_id, masses, steps, key_roles, (step_roles, roles), _axes(found))


def _rows(run: Any, asked: Asked) -> Iterator[Iterator[Given]]:
    tasks = run.records["task"].astype(str).to_dict() if "task" in run.records else {}
    for layers in _blocks(run, asked):
        more = {"norms": True} if asked.measure.needs == "value_norms" else {}
        found = run.iter_step_rows(ids=asked.ids, layer=layers, head=asked.head, **more)
        yield (
            _step_rows(str(record_id), rows, asked, tasks.get(str(record_id), ""))
            for record_id, rows in found
        )


def _step_rows(record_id: str, found: xr.DataArray, asked: Asked, task: str) -> Given:
    steps, wanted, step_roles = _steps(found["step_role"].values, asked)
    members, key_roles, roles = _members(found["key_role"].values, asked)
    sinks = found["is_sink"].values.astype(bool)
    rows = StepRows(
        weights=found.values,
        visible=found["visible"].values,
        queries=found["query"].values,
        apart=sinks | (np.arange(len(sinks)) < int(found.attrs["n_virtual"])),
        members=members,
        key_roles=key_roles,
        asked=wanted,
        ids=found["key_id"].values.astype(np.int64),
        texts=tuple(found["key_text"].values.tolist()),
        sinks=sinks,
        layers=tuple(found["layer"].values.tolist()),
        heads=tuple(found["head"].values.tolist()),
        task=task,
        value_norms=found["value_norm"].values if "value_norm" in found.coords else None,
    )
    return Given(record_id, rows, steps, key_roles, (step_roles, roles), _axes(found))


def _blocks(run: Any, asked: Asked) -> Iterator[list[int]]:
    """Cut the layers asked for into blocks whose rows fit into memory."""
    wanted = run.layers if asked.layer is None else asked.layer
    layers = [int(layer) for layer in np.atleast_1d(np.asarray(wanted))]
    table = run.records if asked.ids is None else run.records.loc[list(asked.ids)]
    rows = table["n_tokens"] if "full" in run.keep else table["n_steps"]
    n_heads = len(run.heads) if asked.head is None else np.size(np.asarray(asked.head))
    per_layer = 4 * n_heads * int((rows * table["n_tokens"]).max())
    size = max(1, BLOCK_BYTES // max(1, per_layer))
    for start in range(0, len(layers), size):
        yield layers[start : start + size]


def _maps(run: Any, asked: Asked) -> Iterator[Iterator[Given]]:
    there = {"layers": len(run.layers), "heads": len(run.heads)}
    for what, n_stored in there.items():
        n_all = run.model.get(f"n_{what}", n_stored)
        if n_stored != n_all:
            raise MeasureError(
                f"'{asked.name}' goes through every layer, by the mean of all heads",
                where=str(getattr(run, "path", "")) or None,
                got=f"{n_stored} of {n_all} {what}", expected=f"all {n_all}",
                fix=f"extract again without --{what}; layers that do not attend rule it out",
            )  # fmt: skip
    wanted = run.layers if asked.layer is None else asked.layer
    layers = tuple(int(layer) for layer in np.atleast_1d(np.asarray(wanted)))
    for layer in layers:
        if layer not in run.layers:
            raise SelectionError(
                f"layer {layer} is not stored", expected=f"one of {', '.join(map(str, run.layers))}"
            )
    ids = run.records.index if asked.ids is None else asked.ids
    yield (_map(run, str(record_id), layers, asked) for record_id in ids)


def _map(run: Any, record_id: str, layers: tuple[int, ...], asked: Asked) -> Given:
    encoding = run.encoding(record_id)
    key_role = np.array([span.role for span in encoding.spans for _ in range(len(span))], np.str_)
    steps, wanted, step_roles = _steps(key_role[encoding.n_prompt :], asked)
    members, key_roles, roles = _members(key_role, asked)
    through = [layer for layer in run.layers if layer <= max(layers)]
    maps = LayerMaps(
        maps=(_mean_map(run, record_id, layer) for layer in through),
        n_layers=len(through),
        kept=np.array([through.index(layer) for layer in layers]),
        queries=np.asarray(encoding.step_queries, np.int64)[wanted],
        members=members,
    )
    return Given(record_id, maps, steps, key_roles, (step_roles, roles), (layers, (-1,)))


def _mean_map(run: Any, record_id: str, layer: int) -> np.ndarray:
    """Average one layer's rows over its heads; virtual tokens, which have none, stay in place."""
    found = run.weights(record_id, layer=layer)
    whole = np.eye(found.sizes["key"])
    whole[found["query"].values] = found.values[0].mean(0)
    return whole


def _attributions(run: Any, asked: Asked) -> Iterator[Iterator[Given]]:
    ids = run.records.index if asked.ids is None else asked.ids
    yield (_attribution(run, str(record_id), asked) for record_id in ids)


def _attribution(run: Any, record_id: str, asked: Asked) -> Given:
    found = run.attribution(record_id, asked.measure.method)
    steps, wanted, step_roles = _steps(found["step_role"].values, asked)
    members, key_roles, roles = _members(found["source_role"].values, asked)
    given = Credit(scores=found.values[wanted], members=members)
    return Given(record_id, given, steps, key_roles, (step_roles, roles), ((-1,), (-1,)))


_READERS: dict[str, Callable[[Any, Asked], Iterator[Iterator[Given]]]] = {
    "step_mass": _step_masses,
    "rows": _rows,
    "value_norms": _rows,
    "full": _maps,
    "attribution": _attributions,
}


def _steps(
    roles: np.ndarray, asked: Asked
) -> tuple[dict[str, Int[np.ndarray, " step"]], Int[np.ndarray, " asked"], set[str]]:
    """Find the steps of each query role asked for: role → places among all that are asked for."""
    there: list[str] = roles.tolist()
    steps_of = _present(asked.queries, there)
    wanted = np.array(sorted({step for steps in steps_of.values() for step in steps}), np.int64)
    places = {role: np.searchsorted(wanted, steps) for role, steps in steps_of.items()}
    return places, wanted, set(there)


def _members(
    roles: np.ndarray, asked: Asked
) -> tuple[Bool[np.ndarray, "key key_role"], tuple[str, ...], set[str]]:
    """Find what belongs to each key role asked for."""
    there: list[str] = roles.tolist()
    found = _present(asked.keys, there) if asked.measure.has_key else {}
    members = np.zeros((len(there), len(found)), dtype=bool)
    for column, places in enumerate(found.values()):
        members[places, column] = True
    return members, tuple(found), set(there)


def _present(asked: Sequence[str] | None, roles: Sequence[str]) -> dict[str, list[int]]:
    """Find the places of each role asked for, leaving out those that are nowhere."""
    places = {role: match_roles(role, roles) for role in asked or sort_roles(roles)}
    return {role: found for role, found in places.items() if found}


def _axes(found: xr.DataArray) -> tuple[list[int], list[int]]:
    return found["layer"].values.tolist(), found["head"].values.tolist()
