"""Permuted labels: whether a paired difference is another in one group of units than in another."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float64

from attnprobe.contrasts.flips import FlipTest, bootstrap_means, interval, reached, spread
from attnprobe.contrasts.inference import ALPHA

_BATCH = 1000


def smallest_p(n_first: int, n_second: int) -> float:
    """Return the smallest two-sided p-value that permuting these labels can give."""
    n_ways = math.comb(n_first + n_second, n_first)
    # With groups of one size, swapping them all is another labelling with the same statistic.
    return (2 if n_first == n_second else 1) / n_ways


def label_test(
    units: Float64[np.ndarray, "unit head"],
    is_first: Bool[np.ndarray, " unit"],
    n_permutations: int,
    rng: np.random.Generator,
) -> FlipTest:
    """Test whether two groups of units have the same mean, by permuting which unit is in which.

    If groups do not matter, every way to hand the labels out is equally likely, in all heads at
    once. The statistic is R = √(SS_between / SS_total) of a head's units. SS_total does not move
    under permutation, so R orders permutations exactly as the pooled two-sample |t| does
    (t² = (n−2)·R² / (1−R²)), and it stays finite where all units of a group agree. The maximum of
    R over heads, stepping down, gives p-values that hold for all heads together.

    The null hypothesis is that the units are exchangeable. Groups that differ in spread, and are
    of unequal size, break it too.

    Args:
        units: Differences, one row per unit; NaN where a head has none.
        is_first: Whether a unit belongs to the first group.
        n_permutations: All are enumerated where there are no more than this, else so many drawn.
        rng: Source of the drawn ones.

    Returns:
        p-values that count the identity; NaN for heads in which no permutation could give less
        than 0.05.
    """
    present = ~np.isnan(units)
    n_present = present.sum(axis=0)
    n_first = present[is_first].sum(axis=0)
    tested = np.array(
        [
            0 < first < total and smallest_p(int(first), int(total - first)) < ALPHA
            for first, total in zip(n_first, n_present, strict=True)
        ],
        dtype=bool,
    )
    scaled, n_present = _scaled(units[:, tested]), n_present[tested]
    counted = present[:, tested].astype(float)
    counted = counted[:, :1] if counted.all() else counted

    def statistic(labels: Float64[np.ndarray, "permutation unit"]) -> np.ndarray:
        sizes = labels @ counted
        product = sizes * (n_present[: sizes.shape[1]] - sizes)
        n_all = np.broadcast_to(n_present[: sizes.shape[1]], sizes.shape)
        share = np.divide(n_all, product, out=np.zeros_like(sizes), where=product > 0)
        return np.abs(labels @ scaled) * np.sqrt(share)

    n_units, n_chosen = len(units), int(is_first.sum())
    exact = math.comb(n_units, n_chosen) <= n_permutations
    labels = (
        _all_labels(n_units, n_chosen) if exact else _drawn_labels(is_first, n_permutations, rng)
    )
    observed = statistic(is_first[None].astype(float))[0]
    alone, together, n_seen = reached(observed, map(statistic, labels))
    smallest = smallest_p(n_chosen, n_units - n_chosen)
    return FlipTest(
        p=spread(alone, tested),
        p_adjusted=spread(together, tested),
        p_smallest=smallest if exact else max(smallest, 1 / n_seen),
        n_flips=n_seen,
        exact=exact,
    )


def _scaled(units: Float64[np.ndarray, "unit head"]) -> Float64[np.ndarray, "unit head"]:
    """Centre each head and give it length 1; NaN becomes 0."""
    present = ~np.isnan(units)
    sizes = np.maximum(present.sum(axis=0), 1)
    centre = np.where(present, units, 0.0).sum(axis=0) / sizes
    centred = np.where(present, units - centre, 0.0)
    length = np.sqrt((centred**2).sum(axis=0))
    # Rounding leaves a tiny spread where all units agree; it must not be blown up to length 1.
    varies = length > 1e-12 * np.abs(centre) * np.sqrt(sizes)
    return np.divide(centred, length, out=np.zeros_like(centred), where=varies & (length > 0))


def _all_labels(n_units: int, n_chosen: int) -> Iterator[Float64[np.ndarray, "permutation unit"]]:
    ways = itertools.combinations(range(n_units), n_chosen)
    while some := list(itertools.islice(ways, _BATCH)):
        labels = np.zeros((len(some), n_units))
        labels[np.arange(len(some))[:, None], np.array(some)] = 1.0
        yield labels


def _drawn_labels(
    is_first: Bool[np.ndarray, " unit"], n_permutations: int, rng: np.random.Generator
) -> Iterator[Float64[np.ndarray, "permutation unit"]]:
    """Yield the identity, then random permutations."""
    identity = is_first[None].astype(float)
    yield identity
    for start in range(0, n_permutations, _BATCH):
        n_rows = min(_BATCH, n_permutations - start)
        yield rng.permuted(np.repeat(identity, n_rows, axis=0), axis=1)


def group_interval(
    units: Float64[np.ndarray, "unit head"],
    is_first: Bool[np.ndarray, " unit"],
    n_bootstrap: int,
    confidence: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of the difference of two groups' means, resampling within each group."""
    first = bootstrap_means(units[is_first], n_bootstrap, rng)
    return interval(first - bootstrap_means(units[~is_first], n_bootstrap, rng), confidence)
