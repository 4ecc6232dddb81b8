"""AUROC within tasks, for many heads at once: estimate, interval, permutation test."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy.special import gammaln
from scipy.stats import norm, rankdata

from attnprobe.contrasts.flips import FlipTest, reached, spread

_BATCH = 1000
_HALVINGS = 60


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """Where records stand among those of their task, head by head; no outcome is looked at."""

    centred: Float64[np.ndarray, "record head"]
    """Rank, ties sharing their mean, less the mean rank; 0 for a record without a value."""
    present: Bool[np.ndarray, "record head"]
    """Whether a record has a value."""
    task: Int[np.ndarray, " record"]
    """Task of each record, numbered from 0."""
    n_tasks: int


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """How many pairs of a passed and a failed record there are, and what they say."""

    wins: Float64[np.ndarray, "task head"]
    """By task: pairs in which the passed record is higher, ties counting half, less half of all."""
    count: Float64[np.ndarray, "task head"]
    """By task: pairs."""
    spread: Float64[np.ndarray, "task head"]
    """By task: mean number of passed and failed records, less 1, which the variance grows with."""


def ranks_within_tasks(
    values: Float64[np.ndarray, "record head"], task: Int[np.ndarray, " record"]
) -> Ranks:
    """Rank records among those of their task.

    Args:
        values: One column per head; NaN where a record has none.
        task: Task of each record, numbered from 0 without gaps.

    Returns:
        The ranks.
    """
    present = ~np.isnan(values)
    filled = np.where(present, values, np.inf)
    centred = np.zeros_like(filled)
    n_tasks = int(task.max()) + 1
    for number in range(n_tasks):
        own = task == number
        middle = (present[own].sum(axis=0) + 1) / 2
        centred[own] = np.where(present[own], rankdata(filled[own], axis=0) - middle, 0.0)
    return Ranks(centred, present, task, n_tasks)


def pairs_of(ranks: Ranks, passed: Bool[np.ndarray, " record"]) -> Pairs:
    """Count pairs, and how often the passed record is the higher one (Mann & Whitney 1947)."""
    member = np.zeros((ranks.n_tasks, len(passed)))
    member[ranks.task, np.arange(len(passed))] = 1.0
    present = ranks.present.astype(float)
    n_passed = member @ np.where(passed[:, None], present, 0.0)
    n_all = member @ present
    wins = member @ np.where(passed[:, None], ranks.centred, 0.0)
    return Pairs(wins, n_passed * (n_all - n_passed), n_all / 2 - 1)


def auroc(pairs: Pairs) -> Float64[np.ndarray, " head"]:
    """Return the share of pairs in which the passed record is higher; NaN without pairs."""
    count = pairs.count.sum(axis=0)
    share = np.divide(
        pairs.wins.sum(axis=0), count, out=np.full(count.shape, np.nan), where=count > 0
    )
    return 0.5 + share


def auroc_by_task(pairs: Pairs) -> Float64[np.ndarray, "task head"]:
    """Return the AUROC of each task; NaN where a task has no pairs."""
    blank = np.full(pairs.count.shape, np.nan)
    return 0.5 + np.divide(pairs.wins, pairs.count, out=blank, where=pairs.count > 0)


def auroc_interval(
    pairs: Pairs, confidence: float
) -> tuple[Float64[np.ndarray, " head"], Float64[np.ndarray, " head"]]:
    """Interval of the AUROC by inverting a score test (Newcombe 2006, method 5), over tasks.

    It holds the values θ with |A − θ| ≤ z·√V(θ), where V is the variance of Hanley & McNeil
    (1982) with both group sizes at their mean, summed over tasks as their pairs weigh. It stays
    within 0 and 1 and keeps its width where all pairs agree, unlike DeLong's. With many ties it is
    too wide.

    Args:
        pairs: From `pairs_of`.
        confidence: Coverage in (0, 1).

    Returns:
        Lower and upper bound; NaN without pairs.
    """
    estimate = auroc(pairs)
    z = float(norm.ppf((1 + confidence) / 2))
    total = pairs.count.sum(axis=0)
    weighted = (pairs.count * pairs.spread).sum(axis=0)
    bounds = []
    for end in (0.0, 1.0):
        outside, inside = np.full(estimate.shape, end), estimate.copy()
        for _ in range(_HALVINGS):
            middle = (outside + inside) / 2
            shape = (1 - middle) / (2 - middle) + middle / (1 + middle)
            variance = np.divide(
                middle * (1 - middle) * (total + weighted * shape), total**2,
                out=np.full(estimate.shape, np.nan), where=total > 0,
            )  # fmt: skip
            beyond = np.abs(estimate - middle) > z * np.sqrt(variance)
            outside, inside = np.where(beyond, middle, outside), np.where(beyond, inside, middle)
        bounds.append(np.where(total > 0, (outside + inside) / 2, np.nan))
    return bounds[0], bounds[1]


def permutation_test(
    ranks: Ranks, passed: Bool[np.ndarray, " record"], n_permutations: int,
    rng: np.random.Generator,
) -> FlipTest:  # fmt: skip
    """Test each head's AUROC against 0.5 by permuting outcomes within tasks.

    If passing has to do with no head within any task, each task's outcomes could as well have
    fallen on its records in another order. So nothing that only tells tasks apart is found. The
    statistic is the sum of the passed records' ranks over its exact standard deviation under
    permutation, ties included; its maximum over heads gives p-values that hold for all together,
    however heads depend on each other (Westfall & Young 1993).

    Args:
        ranks: From `ranks_within_tasks`.
        passed: Outcome of each record.
        n_permutations: How many to draw.
        rng: Source of the draws.

    Returns:
        p-values that count the order observed, and so are never 0. The smallest attainable one is
        that of values without ties, of which the reverse order is as extreme.
    """
    tested = np.asarray(pairs_of(ranks, passed).count.sum(axis=0) > 0)
    scaled = scaled_ranks(ranks, passed)[:, tested]
    observed = np.abs(passed @ scaled)
    orders = permuted(passed, ranks, n_permutations, rng)
    drawn = (np.abs(labels @ scaled) for labels in orders)
    alone, together, n_seen = reached(observed, chain([observed[None]], drawn))
    return FlipTest(
        p=spread(alone, tested),
        p_adjusted=spread(together, tested),
        p_smallest=max(1 / n_seen, 2 * float(np.exp(-log_orders(passed, ranks)))),
        n_flips=n_seen,
        exact=False,
    )


def scaled_ranks(
    ranks: Ranks, passed: Bool[np.ndarray, " record"]
) -> Float64[np.ndarray, "record head"]:
    """Scale ranks so that their sum over passed records has variance 1 under permutation."""
    variance = np.zeros(ranks.centred.shape[1])
    for number in range(ranks.n_tasks):
        own = ranks.task == number
        n_all, n_passed = int(own.sum()), int(passed[own].sum())
        if n_all > 1:
            share = n_passed * (n_all - n_passed) / (n_all * (n_all - 1))
            variance += share * (ranks.centred[own] ** 2).sum(axis=0)
    deviation = np.sqrt(variance)
    blank = np.zeros_like(ranks.centred)
    return np.divide(ranks.centred, deviation, out=blank, where=deviation > 0)


def permuted(
    passed: Bool[np.ndarray, " record"], ranks: Ranks, n_permutations: int,
    rng: np.random.Generator,
) -> Iterator[Float64[np.ndarray, "permutation record"]]:  # fmt: skip
    """Yield outcomes (1 for passed) in random order within tasks, many orders at once."""
    for start in range(0, n_permutations, _BATCH):
        labels = np.zeros((min(_BATCH, n_permutations - start), len(passed)))
        labels[:] = passed
        for number in range(ranks.n_tasks):
            own = np.flatnonzero(ranks.task == number)
            labels[:, own] = rng.permuted(labels[:, own], axis=1)
        yield labels


def log_orders(passed: Bool[np.ndarray, " record"], ranks: Ranks) -> float:
    """Return the logarithm of how many orders of the outcomes differ."""
    n_all = np.bincount(ranks.task, minlength=ranks.n_tasks).astype(float)
    n_passed = np.bincount(ranks.task[passed], minlength=ranks.n_tasks).astype(float)
    choices = gammaln(n_all + 1) - gammaln(n_passed + 1) - gammaln(n_all - n_passed + 1)
    return float(choices.sum())
