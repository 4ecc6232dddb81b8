"""The step masses of many records at once, one after another along one axis."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float32, Int

from attnprobe.store.shard import Shard
from attnprobe.store.views import Place, Selection, lacking, masses
from attnprobe.types import step_query

GROUP_COLUMNS = ("role", "is_sink", "group_start", "group_stop")


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring records of one shard."""

    shard: Shard
    first: int
    stop: int

    def of(self, axis: str) -> slice:
        """Return what belongs to the records on an axis."""
        return slice(
            self.shard.extent(axis, self.first).start, self.shard.extent(axis, self.stop - 1).stop
        )

    def counts(self, axis: str) -> Int[np.ndarray, " record"]:
        """Return how many entries each record has on an axis."""
        return np.diff(self.shard.edge(axis))[self.first : self.stop]


def neighbours(found: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Cut (shard, record) pairs into stretches of neighbouring records.

    Yields:
        Shard, first record, and the record after the last.
    """
    begin = 0
    for end in range(1, len(found) + 1):
        number, last = found[end - 1]
        if end == len(found) or found[end] != (number, last + 1):
            yield number, found[begin][1], last + 1
            begin = end


def step_masses(stretches: Iterator[Stretch], ids: Sequence[str], chosen: Selection) -> xr.Dataset:
    """Put the step masses of many records one after another."""
    mass: list[np.ndarray] = []
    tables: dict[str, list[np.ndarray]] = {name: [] for name in GROUP_COLUMNS}
    n_steps: list[np.ndarray] = []
    n_groups: list[np.ndarray] = []
    for stretch in stretches:
        mass.append(_masses(stretch, chosen))
        n_steps.append(stretch.counts("step"))
        n_groups.append(stretch.counts("group"))
        groups, table = stretch.of("group"), stretch.shard.group_table
        for name, parts in tables.items():
            parts.append(table[name][groups])
    steps, groups = np.concatenate(n_steps), np.concatenate(n_groups)
    coords = chosen.coords | {
        "id": ("record", np.array(ids, np.str_)),
        "n_steps": ("record", steps),
        "n_groups": ("record", groups),
        "first_cell": ("record", _firsts(steps * groups)),
        "first_group": ("record", _firsts(groups)),
    }
    coords |= {name: ("group", np.concatenate(parts)) for name, parts in tables.items()}
    return xr.Dataset(
        {
            "step_mass": (
                ("layer", "head", "cell"), np.concatenate(mass, axis=-1), {"units": "probability"},
            ),
        },
        coords,
    )  # fmt: skip


def _firsts(counts: Int[np.ndarray, " record"]) -> Int[np.ndarray, " record"]:
    return np.cumsum(counts) - counts


def _masses(stretch: Stretch, chosen: Selection) -> Float32[np.ndarray, "layer head cell"]:
    shard = stretch.shard
    if _stored_whole(stretch):
        leading = (chosen.layers, chosen.heads)
        cells = shard.block("/step_mass", leading, stretch.of("step_mass_cell"))
        return shard.decoded("/step_mass", cells)
    parts = []
    for record in range(stretch.first, stretch.stop):
        place = Place(shard, record)
        mass = masses(place, place.steps, chosen)
        if mass is None:
            raise lacking(place.id, "the attention of every step", "rows")
        parts.append(mass.reshape(*mass.shape[:2], -1))
    return np.concatenate(parts, axis=-1)


def _stored_whole(stretch: Stretch) -> bool:
    """Whether the stored step masses are those of every step and nothing else."""
    shard, counts = stretch.shard, stretch.counts("step")
    if not np.array_equal(stretch.counts("step_mass_query"), counts):
        return False
    n_prompt = shard.column("/record/n_prompt")[stretch.first : stretch.stop]
    within = np.arange(counts.sum()) - np.repeat(_firsts(counts), counts)
    queries = np.repeat(step_query(0, 0) + n_prompt, counts) + within
    return np.array_equal(shard.column("/step_mass_query")[stretch.of("step_mass_query")], queries)
