"""What the grid of heads is coloured by, and which records show a head best."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from attnprobe.measures import find_measure, measure
from attnprobe.report.coding import plain
from attnprobe.report.findings import Findings
from attnprobe.report.pairs import Pair

N_EXAMPLES = 5
"""Examples of a head."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """One measure per item, style and head."""

    values: Float[np.ndarray, "style item layer head"]
    """NaN where an item has no value."""
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    pairs: tuple[Pair, ...]

    @property
    def difference(self) -> Float[np.ndarray, "layer head"] | None:
        """Mean over items of the first style minus the second; None for a single style."""
        if len(self.values) < 2:
            return None
        return mean(self.values[0] - self.values[1], 0)

    def means(self) -> list[Float[np.ndarray, "layer head"]]:
        """Mean over items in each style."""
        return [mean(part, 0) for part in self.values]

    def examples(self, layer: int, head: int, count: int = N_EXAMPLES) -> list[dict[str, Any]]:
        """List the items at which a head shows most clearly what it does on average.

        With two styles those whose difference is the largest, in the direction of the mean
        difference; with one those with the largest value.
        """
        part = self.values[:, :, self.layers.index(layer), self.heads.index(head)].astype(float)
        shown = part[0] - part[1] if len(part) > 1 else part[0]
        known = shown[~np.isnan(shown)]
        sign = -1.0 if len(part) > 1 and known.size and known.mean() < 0 else 1.0
        order = np.argsort(np.where(np.isnan(shown), np.inf, -sign * shown), kind="stable")
        best = [int(place) for place in order[:count] if not np.isnan(shown[place])]
        return [
            {
                "item": self.pairs[place].item,
                "records": list(self.pairs[place].first),
                "values": plain(part[:, place]),
            }
            for place in best
        ]


def measure_grid(run: Any, findings: Findings, pairs: Sequence[Pair]) -> Grid:
    """Measure every head in the records of the pairs.

    Raises:
        MeasureError: If the run does not hold what the measure needs.
        SelectionError: If a role or the measure is not there.
    """
    key = findings.key if find_measure(findings.measure).has_key else None
    ids = [name for pair in pairs for name in pair.ids]
    found = measure(run, findings.measure, findings.query, key, ids=ids)
    found = found.transpose("record", "layer", "head")
    places = {name: place for place, name in enumerate(found["record"].values.tolist())}
    sides = [
        [mean(found.values[[places[name] for name in pair.records[side]]], 0) for pair in pairs]
        for side in range(len(pairs[0].records))
    ]
    return Grid(np.stack([np.stack(side) for side in sides]), *_axes(found), tuple(pairs))


def _axes(found: xr.DataArray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    layers, heads = (tuple(int(n) for n in found[name].values) for name in ("layer", "head"))
    return layers, heads


def mean(values: Float[np.ndarray, "..."], axis: int) -> Float[np.ndarray, "..."]:
    """Average what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    sizes = defined.sum(axis=axis)
    sums = np.where(defined, values, 0.0).sum(axis=axis, dtype=np.float64)
    return np.divide(sums, sizes, out=np.full(sums.shape, np.nan), where=sizes > 0)
