"""Sign flips: the null distribution of a paired difference, over many heads at once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

_TOLERANCE = 1e-9
"""Flips that tie with what was observed count as reaching it, whatever the rounding."""
_BATCH = 1000


@dataclass(frozen=True, slots=True, eq=False)
class FlipTest:
    """What sign flips, or permuted labels, say about each head."""

    p: Float64[np.ndarray, " head"]
    """Two-sided, of each head by itself; NaN for heads without a value."""
    p_adjusted: Float64[np.ndarray, " head"]
    """Adjusted for all heads together by the maximum statistic."""
    p_smallest: float
    """The smallest p-value that this many units and flips can give."""
    n_flips: int
    """Flips or permutations looked at, the identity included."""
    exact: bool
    """Whether these are all there are."""


def sign_flip_test(
    units: Float64[np.ndarray, "unit head"],
    n_flips: int,
    rng: np.random.Generator,
    *,
    step_down: bool = True,
) -> FlipTest:
    """Test each head's mean against 0 by flipping the signs of whole units.

    If nothing differs, a unit's difference is as likely to point the other way, in all heads at
    once. The statistic is U = |Σ x| / √(Σ x²) over a head's units. Σ x² does not move under flips,
    so U orders them exactly as the studentised |t| does (t² = (n−1)·U² / (n−U²)), and it stays
    finite where all units agree. The maximum of U over heads, stepping down, gives p-values that
    hold for all heads together, however they depend on each other (Westfall & Young 1993;
    Nichols & Holmes 2002).

    A head whose differences are all 0 has U = 0 and p = 1.

    Args:
        units: Paired differences, one row per exchangeable unit; NaN where a head has none.
        n_flips: All flips are enumerated where there are no more than this, else this many drawn.
        rng: Source of the drawn flips.
        step_down: See `reached`.

    Returns:
        p-values that count the identity, and so are never 0.
    """
    present = ~np.isnan(units)
    tested = np.asarray(present.any(axis=0))
    values = np.where(present, units, 0.0)[:, tested]
    length = np.sqrt((values**2).sum(axis=0))
    scaled = np.divide(values, length, out=np.zeros_like(values), where=length > 0)
    n_units = len(units)
    exact = 2**n_units <= n_flips
    flips = _all_signs(n_units) if exact else _drawn_signs(n_units, n_flips, rng)
    alone, together, n_seen = reached(
        np.abs(scaled.sum(axis=0)),
        (np.abs(signs @ scaled) for signs in flips),
        step_down=step_down,
    )
    # A flip and its mirror image have the same |sum|, so at most half the flips differ.
    p_smallest = 1 / n_seen if exact else max(1 / n_seen, 0.5 ** (n_units - 1))
    return FlipTest(
        p=spread(alone, tested),
        p_adjusted=spread(together, tested),
        p_smallest=p_smallest,
        n_flips=2 * n_seen if exact else n_seen,
        exact=exact,
    )


def reached(
    observed: Float64[np.ndarray, " head"],
    resampled: Iterable[Float64[np.ndarray, "flip head"]],
    *,
    step_down: bool = True,
) -> tuple[Float64[np.ndarray, " head"], Float64[np.ndarray, " head"], int]:
    """Count how often resampled statistics reach the observed ones.

    Stepping down, a head is held against the maximum over itself and the heads below it, not over
    all: what heads that are found already do under flips no longer hides the others (Westfall &
    Young 1993, algorithm 4.1; Romano & Wolf 2005). The largest head's p-value is that of the
    maximum over all, and p-values never fall from a head to the next below it.

    Args:
        observed: Statistic of each head.
        resampled: Batches of the same statistics under the null hypothesis, the identity included.
        step_down: Whether to step down; if not, every head is held against all.

    Returns:
        Share of resamples in which the head itself reaches what it had, share in which any head
        that counts does (the maximum statistic), and the number of resamples.
    """
    order = np.argsort(observed, kind="stable")
    needed = observed - _TOLERANCE
    alone, together = np.zeros(len(observed)), np.zeros(len(observed))
    n_seen = 0
    for statistic in resampled:
        alone += (statistic >= needed).sum(axis=0)
        highest = np.maximum.accumulate(statistic[:, order], axis=1)
        if not step_down:
            highest = highest[:, -1:]
        together += (highest >= needed[order]).sum(axis=0)
        n_seen += len(statistic)
    adjusted = np.empty(len(observed))
    adjusted[order[::-1]] = np.maximum.accumulate(together[::-1])
    return alone / n_seen, adjusted / n_seen, n_seen


def spread(values: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """Put the values of the tested heads where they stand among all; NaN for the others."""
    among_all = np.full(len(tested), np.nan)
    among_all[tested] = values
    return among_all


def _all_signs(n_units: int) -> Iterator[Float64[np.ndarray, "flip unit"]]:
    """Enumerate the flips that leave the first unit alone; the others mirror them."""
    codes = np.arange(2 ** (n_units - 1))
    for start in range(0, len(codes), _BATCH):
        bits = codes[start : start + _BATCH, None] >> np.arange(n_units - 1) & 1
        yield np.hstack([np.ones((len(bits), 1)), 1.0 - 2.0 * bits])


def _drawn_signs(
    n_units: int, n_flips: int, rng: np.random.Generator
) -> Iterator[Float64[np.ndarray, "flip unit"]]:
    """Yield the identity, then random flips."""
    yield np.ones((1, n_units))
    for start in range(0, n_flips, _BATCH):
        n_rows = min(_BATCH, n_flips - start)
        yield 1.0 - 2.0 * rng.integers(0, 2, size=(n_rows, n_units))


def bootstrap_interval(
    units: Float64[np.ndarray, "unit head"],
    n_bootstrap: int,
    confidence: float,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, " head"], Float[np.ndarray, " head"]]:
    """Percentile interval of each head's mean, resampling whole units.

    The draws are those of `scipy.stats.bootstrap(..., method="percentile")`, kept as counts per
    unit instead of [head, draw, unit] copies, and with NaN left out.

    Args:
        units: One row per unit; NaN where a head has none.
        n_bootstrap: How many draws.
        confidence: Coverage in (0, 1).
        rng: Source of the draws.

    Returns:
        Lower and upper bound; NaN for heads without a value.
    """
    return interval(bootstrap_means(units, n_bootstrap, rng), confidence)


def bootstrap_means(
    units: Float64[np.ndarray, "unit head"], n_bootstrap: int, rng: np.random.Generator
) -> Float64[np.ndarray, "draw head"]:
    """Average each head over resampled units; NaN where a draw has none of a head."""
    n_units = len(units)
    counts = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=n_bootstrap).astype(float)
    present = ~np.isnan(units)
    sums = counts @ np.where(present, units, 0.0)
    if present.all():
        return sums / n_units
    sizes = counts @ present.astype(float)
    return np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=sizes > 0)


def interval(
    means: Float64[np.ndarray, "draw head"], confidence: float
) -> tuple[Float[np.ndarray, " head"], Float[np.ndarray, " head"]]:
    """Take the percentiles of resampled means; NaN for heads without a value."""
    bounds = np.full((2, means.shape[1]), np.nan)
    some = ~np.isnan(means).all(axis=0)
    tail = (1 - confidence) / 2
    quantile = np.nanquantile if np.isnan(means[:, some]).any() else np.quantile
    bounds[:, some] = quantile(means[:, some], [tail, 1 - tail], axis=0)
    return bounds[0], bounds[1]
