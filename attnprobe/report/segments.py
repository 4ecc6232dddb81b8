"""Which segment looks at which, head by head: what a click on a head shows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from attnprobe.errors import MeasureError
from attnprobe.measures import find_measure, match_roles, measure
from attnprobe.panels.segments import collapse_roles
from attnprobe.report.grid import mean
from attnprobe.report.pairs import Pair
from attnprobe.types import Encoding

RECORDS_AT_ONCE = 64
"""Records whose measures are in memory together."""
SEGMENT_MEASURE = "enrichment"
"""What segments are shown by where the measure of the contrast has no key roles."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadSegments:
    """A measure of query roles by key roles, for each head; means over items."""

    styles: Float[np.ndarray, "style layer head query_role key_role"]
    """NaN where no item has both roles, the key before the query."""
    difference: Float[np.ndarray, "layer head query_role key_role"] | None
    """First style minus second, over the items that have a value in both."""
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    measure: str
    unit: str


def head_segments(
    run: Any,
    pairs: Sequence[Pair],
    encodings: Mapping[str, Encoding],
    name: str,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> HeadSegments:
    """Measure segments by segments, for every head that is asked for.

    Each item counts once. Numbered roles beyond a few are measured as one (`step_*`), as in the
    figure of segments.

    Args:
        run: An open run.
        pairs: Items, in one style or two.
        encodings: Their records in tokens.
        name: A measure; `SEGMENT_MEASURE` replaces one that has no key roles, or whose values of
            a record depend on all others.
        layers: Layers; None for all.
        heads: Heads; None for all.

    Raises:
        MeasureError: If the run does not hold what the measure needs.
    """
    chosen = find_measure(name)
    if not chosen.has_key or chosen.across is not None:  # some take all records at once
        name = SEGMENT_MEASURE
    every = [encodings[record_id] for pair in pairs for record_id in pair.ids]
    queries, keys = (collapse_roles(found) for found in _roles(every))
    shape = (
        len(layers or run.layers), len(heads or run.heads), len(queries), len(keys)
    )  # fmt: skip
    n_styles = len(pairs[0].records)
    sums = _Sums(np.zeros((n_styles + 1, *shape)), np.zeros((n_styles + 1, *shape), np.int32))
    for some in _chunks(pairs):
        ids = [record_id for pair in some for record_id in pair.ids]
        there = _roles(encodings[record_id] for record_id in ids)
        asked = [
            [role for role in roles if match_roles(role, found)]
            for roles, found in zip((queries, keys), there, strict=True)
        ]
        try:
            values = measure(run, name, *asked, layer=layers, head=heads, ids=ids)
        except MeasureError:
            if not {"rows", "steps", "full", "pooled"} & set(run.keep):
                raise
            continue  # nothing in this chunk has a value, such as items of one word
        sums.add(
            values, some, [queries.index(r) for r in asked[0]], [keys.index(r) for r in asked[1]]
        )
    means = sums.means()
    return HeadSegments(
        styles=means[:n_styles],
        difference=means[n_styles] if n_styles > 1 else None,
        queries=queries,
        keys=keys,
        measure=name,
        unit=find_measure(name).unit,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """Running sums over items: one part per style, and one for their difference."""

    total: Float[np.ndarray, "part layer head query_role key_role"]
    count: np.ndarray

    def add(
        self, values: xr.DataArray, pairs: Sequence[Pair], rows: list[int], columns: list[int]
    ) -> None:
        """Add the items of a chunk."""
        found = values.transpose("record", "layer", "head", "query_role", "key_role").values
        places = {name: place for place, name in enumerate(values["record"].values.tolist())}
        at = np.ix_(rows, columns)
        for pair in pairs:
            sides = [mean(found[[places[i] for i in ids]], 0) for ids in pair.records]
            parts = [*sides, sides[0] - sides[1]] if len(sides) > 1 else sides
            for part, value in enumerate(parts):
                defined = ~np.isnan(value)
                self.total[part][..., *at] += np.where(defined, value, 0.0)
                self.count[part][..., *at] += defined

    def means(self) -> Float[np.ndarray, "part layer head query_role key_role"]:
        """Divide; NaN where nothing was added."""
        blank = np.full(self.total.shape, np.nan)
        return np.divide(self.total, self.count, out=blank, where=self.count > 0)


def _roles(encodings: Iterable[Encoding]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the roles of predicted tokens and of all tokens, in the order they turn up."""
    queries: dict[str, None] = {}
    keys: dict[str, None] = {}
    for encoding in encodings:
        for span in encoding.spans:
            keys[span.role] = None
            if span.stop > encoding.n_prompt:
                queries[span.role] = None
    return tuple(queries), tuple(keys)


def _chunks(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Cut items into chunks of few records."""
    some: list[Pair] = []
    for pair in pairs:
        some.append(pair)
        if sum(len(one.ids) for one in some) >= RECORDS_AT_ONCE:
            yield some
            some = []
    if some:
        yield some
