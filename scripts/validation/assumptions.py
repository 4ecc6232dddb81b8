"""Worlds that break what the tests take for granted, to see how much that matters.

Flips take tasks without an effect to differ symmetrically about 0; permuted labels take the tasks
of two groups to be alike but for their mean; percentile intervals take tasks to be many.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from attnprobe.contrasts.flips import bootstrap_interval, sign_flip_test
from attnprobe.contrasts.labels import label_test
from validation.study import ALPHA, N_HEADS, N_ITEMS, N_TASKS, Expectation, Outcome, Study, fwer

FLIPS = 10_000
TASK_SD = 0.3


def skewed(shape: float, rng: np.random.Generator) -> Outcome:
    """Task effects of mean 0 and skewness 2/√shape, beside the noise of items."""
    effects = (rng.gamma(shape, size=(N_TASKS, N_HEADS)) - shape) / np.sqrt(shape)
    units = TASK_SD * effects + rng.normal(size=effects.shape) / np.sqrt(N_ITEMS)
    return {"max-T": (sign_flip_test(units, FLIPS, rng).p_adjusted < ALPHA).any()}


def unequal_spreads(n_first: int, n_second: int, ratio: float, rng: np.random.Generator) -> Outcome:
    """Two groups of equal means, the tasks of the second spreading `ratio` times as much."""
    first = np.arange(n_first + n_second) < n_first
    units = rng.normal(size=(len(first), N_HEADS)) * np.where(first, 1.0, ratio)[:, None]
    return {"max-T": (label_test(units, first, FLIPS, rng).p_adjusted < ALPHA).any()}


def coverage(n_tasks: int, rng: np.random.Generator) -> Outcome:
    """How often an interval of nominally 95 % holds the mean, which is 0."""
    low, high = bootstrap_interval(rng.normal(size=(n_tasks, N_HEADS)), 2000, 0.95, rng)
    return {"coverage": ((low <= 0) & (high >= 0)).mean()}


def lost(why: str) -> Expectation:
    """Expect more false findings than 0.05, so that one sees what a claim rests on."""
    return Expectation("max-T", why, 0.1, 1.0)


def studies() -> Iterator[Study]:
    """List the studies of this file."""
    for shape, kind in ((1.0, "exponential"), (4.0, "gamma(4)")):
        yield Study(
            f"assumption/skewed tasks/{kind}",
            "task effects of mean 0 that are skewed, sd 0.3; signs flipped by task",
            200, partial(skewed, shape), (lost("flips need symmetry"),),
        )  # fmt: skip
    for sizes in ((9, 6), (12, 12)):
        for ratio in (1.0, 2.0, 3.0):
            equal = ratio == 1.0 or sizes[0] == sizes[1]
            expected = (fwer("max-T"),) if ratio == 1.0 else (lost("labels need equal spreads"),)
            yield Study(
                f"assumption/unequal spreads/{sizes[0]} + {sizes[1]} tasks/sd ratio {ratio:g}",
                "two groups of equal means, the second spreading more; labels permuted",
                200, partial(unequal_spreads, *sizes, ratio),
                () if equal and ratio != 1.0 else expected,
            )  # fmt: skip
    for n_tasks in (6, 8, 12, 15, 20, 30):
        yield Study(
            f"assumption/interval/{n_tasks} tasks",
            "percentile bootstrap of nominally 95 %", 50, partial(coverage, n_tasks),
        )  # fmt: skip
