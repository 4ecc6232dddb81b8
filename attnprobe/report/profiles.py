"""How far back a head looks: the mean weight of a token by its distance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from attnprobe.panels.maps import seen_keys
from attnprobe.report.pairs import Pair
from attnprobe.types import Encoding

N_ITEMS = 24
"""Items that profiles are taken from, spread over the run: every weight of them is read."""


@dataclass(frozen=True, slots=True, eq=False)
class Profiles:
    """The mean weight of one token at a distance, per style and head. Sinks are left out."""

    values: Float[np.ndarray, "style layer head bin"]
    """Probability per token; NaN where no token is so far away."""
    bins: tuple[tuple[int, int], ...]
    """First and last distance of each bin: 0 is the token that looks itself."""
    n_items: int


def distance_bins(longest: int) -> tuple[tuple[int, int], ...]:
    """Cut distances into bins that double in width: 0, 1, 2, 3-4, 5-8, and so on."""
    bins = [(0, 0), (1, 1)]
    while bins[-1][1] < longest:
        last = bins[-1][1]
        bins.append((last + 1, 2 * last))
    return tuple(bins)


def head_profiles(
    run: Any,
    pairs: Sequence[Pair],
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> Profiles:
    """Average the weights of predicted tokens by how far back the token is that they look at.

    Each item counts once, each of its predicted tokens alike.

    Args:
        run: An open run that holds rows.
        pairs: Items to read, in one style or two.
        layers: Layers; None for all.
        heads: Heads; None for all.

    Raises:
        MeasureError: If the run holds no rows.
    """
    encodings = {name: run.encoding(name) for pair in pairs for name in pair.first}
    longest = max(encoding.n_tokens for encoding in encodings.values())
    bins = distance_bins(longest - 1)
    layers, heads = list(layers or run.layers), list(heads or run.heads)
    n_styles = len(pairs[0].records)
    total = np.zeros((n_styles, len(layers), len(heads), len(bins)))
    count = np.zeros((n_styles, 1, 1, len(bins)))
    for pair in pairs:
        for side, name in enumerate(pair.first):
            found, some = _profile(run, encodings[name], layers, heads, bins)
            total[side] += np.where(some, found, 0.0)
            count[side] += some
    values = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return Profiles(values, bins, len(pairs))


def _profile(
    run: Any,
    encoding: Encoding,
    layers: Sequence[int],
    heads: Sequence[int],
    bins: Sequence[tuple[int, int]],
) -> tuple[Float[np.ndarray, "layer head bin"], np.ndarray]:
    """Return the mean weight per bin of one record, and which bins it has; a layer at a time."""
    means = []
    order, starts, sizes = np.empty(0, int), np.empty(0, int), np.empty(0, int)
    for layer in layers:
        weights = run.weights(encoding.record.id, layer=layer, head=list(heads))
        if not means:
            order, starts, sizes = _by_bin(weights, encoding, bins)
        rows = weights.values[0].reshape(len(heads), -1)
        sums = np.zeros((len(heads), len(bins)))
        if len(order):
            sums[:, sizes > 0] = np.add.reduceat(rows[:, order], starts[sizes > 0], axis=1)
        means.append(sums / np.maximum(sizes, 1))
    return np.stack(means), sizes > 0


def _by_bin(
    weights: xr.DataArray, encoding: Encoding, bins: Sequence[tuple[int, int]]
) -> tuple[Int[np.ndarray, " cell"], Int[np.ndarray, " bin"], Int[np.ndarray, " bin"]]:
    """Sort the cells of a map by the bin of their distance: cells, first of each bin, how many."""
    keys, queries = weights["key"].values, weights["query"].values
    counts = seen_keys(weights) & ~np.isin(keys, encoding.sinks) & (keys <= queries[:, None])
    counts &= np.isin(queries, encoding.step_queries)[:, None]
    distance = queries[:, None] - keys
    place = np.searchsorted([last for _, last in bins], distance.clip(0))
    place = np.where(counts, place, len(bins)).ravel()
    order = np.argsort(place, kind="stable")[: int(counts.sum())]
    sizes = np.bincount(place, minlength=len(bins) + 1)[: len(bins)]
    return order, np.cumsum(sizes) - sizes, sizes
