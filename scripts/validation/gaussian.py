"""Worlds of plain numbers: task effects, items, heads; nothing to find, or a known effect.

A paired difference of an item is its task's effect (sd 0, 0.15 or 0.3, one per head) plus noise of
sd 1. The tests by task see means over the items of a task and nothing else, so with equal numbers
of items these means are drawn as such: N(0, sd² + 1/items) is exact. Tests by item draw all items.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
from scipy.stats import false_discovery_control

from attnprobe.contrasts.flips import FlipTest, sign_flip_test
from attnprobe.contrasts.labels import label_test
from validation.study import (
    ALPHA,
    N_HEADS,
    N_ITEMS,
    N_TASKS,
    Outcome,
    Study,
    at_most,
    fails,
    fwer,
    power,
)

TASK_SDS = (0.0, 0.15, 0.3)
N_PLANTED = 45
N_LAYERS = 28
FLIPS = 10_000
FLIPS_BY_ITEM = 999


def normal(rng: np.random.Generator, n_units: int, correlated: bool = False) -> np.ndarray:
    """Draw [unit, head]; correlated heads share half their variance within a layer."""
    own = rng.normal(size=(n_units, N_HEADS))
    if not correlated:
        return own
    shared = np.repeat(rng.normal(size=(n_units, N_LAYERS)), N_HEADS // N_LAYERS, axis=1)
    return np.sqrt(0.5) * (own + shared)


def task_means(
    rng: np.random.Generator, sd: float, n_tasks: int, n_items: int, correlated: bool = False
) -> np.ndarray:
    """Draw the mean difference of each task: exact, without drawing the items."""
    effects = sd * normal(rng, n_tasks, correlated)
    return effects + normal(rng, n_tasks, correlated) / np.sqrt(n_items)


def rejections(test: FlipTest, planted: np.ndarray | None = None) -> Outcome:
    """Say whether anything was rejected; and of planted heads, how many, and how many others."""
    bh, by = (false_discovery_control(test.p, method=kind) < ALPHA for kind in ("bh", "by"))
    found = test.p_adjusted < ALPHA
    if planted is None:
        return {"max-T": found.any(), "BH": bh.any(), "BY": by.any()}
    return {
        "max-T power": found[planted].mean(),
        "max-T false": found[~planted].any(),
        "BH power": bh[planted].mean(),
        "BH FDR": bh[~planted].sum() / max(1, bh.sum()),
        "BY power": by[planted].mean(),
        "BY FDR": by[~planted].sum() / max(1, by.sum()),
    }


def null_by_task(sd: float, correlated: bool, rng: np.random.Generator) -> Outcome:
    """Test where nothing differs, by task."""
    units = task_means(rng, sd, N_TASKS, N_ITEMS, correlated)
    return rejections(sign_flip_test(units, FLIPS, rng))


def null_by_item(sd: float, rng: np.random.Generator) -> Outcome:
    """Test where nothing differs, by item, as if items were independent."""
    effects = np.repeat(sd * normal(rng, N_TASKS), N_ITEMS, axis=0)
    units = effects + normal(rng, N_TASKS * N_ITEMS)
    test = sign_flip_test(units, FLIPS_BY_ITEM, rng)
    return {"max-T": (test.p_adjusted < ALPHA).any()}


def planted_heads() -> np.ndarray:
    """Mark the heads that differ."""
    return np.arange(N_HEADS) < N_PLANTED


def planted(d: float, sd: float, n_tasks: int, n_items: int, rng: np.random.Generator) -> Outcome:
    """Test where 45 of 896 heads differ by d standard deviations of an item."""
    units = task_means(rng, sd, n_tasks, n_items)
    units[:, planted_heads()] += d
    return rejections(sign_flip_test(units, FLIPS, rng), planted_heads())


def interaction(
    d: float, common: float, n_first: int, n_second: int, rng: np.random.Generator
) -> Outcome:
    """Test labels where 45 heads differ by d more in the first group, and all by `common`."""
    units = task_means(rng, 0.15, n_first + n_second, N_ITEMS) + common
    first = np.arange(n_first + n_second) < n_first
    units[np.ix_(first, planted_heads())] += d
    test = label_test(units, first, FLIPS, rng)
    if d == 0:
        return {"max-T": (test.p_adjusted < ALPHA).any()}
    return rejections(test, planted_heads())


def unequal(rng: np.random.Generator, by_item: bool = False) -> Outcome:
    """Tasks of 2 to 200 items, with effects of their own."""
    sizes = np.geomspace(2, 200, N_TASKS).round().astype(int)
    effects = 0.3 * normal(rng, N_TASKS)
    if by_item:
        units = np.repeat(effects, sizes, axis=0) + normal(rng, int(sizes.sum()))
        return {"max-T": (sign_flip_test(units, FLIPS_BY_ITEM, rng).p_adjusted < ALPHA).any()}
    units = effects + normal(rng, N_TASKS) / np.sqrt(sizes)[:, None]
    return rejections(sign_flip_test(units, FLIPS, rng))


def heavy_tails(rng: np.random.Generator) -> Outcome:
    """Items whose differences have no variance (t with 2 degrees of freedom)."""
    units = rng.standard_t(2, size=(N_TASKS, N_ITEMS, N_HEADS)).mean(axis=1)
    return rejections(sign_flip_test(units, FLIPS, rng))


def missing(rng: np.random.Generator) -> Outcome:
    """A third of the pairs missing at random, and a tenth of the tasks of each head."""
    sizes = rng.binomial(N_ITEMS, 2 / 3, size=(N_TASKS, N_HEADS))
    units = 0.15 * normal(rng, N_TASKS) + normal(rng, N_TASKS) / np.sqrt(np.maximum(sizes, 1))
    units[(sizes == 0) | (rng.random(sizes.shape) < 0.1)] = np.nan
    units[:, (~np.isnan(units)).sum(axis=0) < 6] = np.nan
    test = sign_flip_test(units, FLIPS, rng)
    return {"max-T": (test.p_adjusted < ALPHA).any()}


def studies() -> Iterator[Study]:
    """List the studies of this file."""
    for correlated in (False, True):
        kind = "correlated" if correlated else "independent"
        for sd in TASK_SDS:
            yield Study(
                f"null by task/{kind} heads/task sd {sd:g}",
                "nothing differs; 12 tasks × 50 items × 896 heads, signs flipped by task",
                1000, partial(null_by_task, sd, correlated),
                (fwer("max-T"), at_most("BH"), at_most("BY")),
            )  # fmt: skip
    for sd in TASK_SDS:
        expected = fwer("max-T") if sd == 0 else fails("max-T", "items are not independent")
        yield Study(
            f"null by item/task sd {sd:g}",
            "the same worlds, signs flipped by item",
            200, partial(null_by_item, sd), (expected,),
        )  # fmt: skip
    yield from _confounds()
    yield from _planted()


def _confounds() -> Iterator[Study]:
    null = (fwer("max-T"), at_most("BH"), at_most("BY"))
    yield Study(
        "confound/unequal tasks/by task",
        "tasks of 2 to 200 items, task sd 0.3",
        1000,
        unequal,
        null,
    )
    yield Study(
        "confound/unequal tasks/by item", "the same, signs flipped by item", 200,
        partial(unequal, by_item=True), (fails("max-T", "items are not independent"),),
    )  # fmt: skip
    yield Study(
        "confound/heavy tails", "differences of items have no variance", 300, heavy_tails,
        (fwer("max-T"), at_most("BH"), at_most("BY")),
    )  # fmt: skip
    yield Study(
        "confound/missing pairs", "a third of the pairs and a tenth of the tasks missing", 1000,
        missing, null[:1],
    )  # fmt: skip


def _planted() -> Iterator[Study]:
    conditions = [(sd, N_TASKS, N_ITEMS) for sd in TASK_SDS]
    conditions += [(0.15, n_tasks, N_ITEMS) for n_tasks in (6, 8, 20)]
    conditions += [(0.15, N_TASKS, n_items) for n_items in (10, 200)]
    for sd, n_tasks, n_items in conditions:
        for d in (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8):
            expected = [
                at_most("max-T false"), at_most("BH FDR"), at_most("BY FDR")
            ]  # fmt: skip
            if d == 0.5 and sd <= 0.15 and (n_tasks, n_items) == (N_TASKS, N_ITEMS):
                expected.append(power("max-T power"))
            yield Study(
                f"planted/task sd {sd:g}/{n_tasks} tasks × {n_items} items/d {d:g}",
                "45 of 896 heads differ by d standard deviations of an item",
                100, partial(planted, d, sd, n_tasks, n_items), tuple(expected),
            )  # fmt: skip
    for n_first, n_second in ((6, 6), (10, 10)):
        name = f"interaction/{n_first} + {n_second} tasks"
        yield Study(
            f"{name}/d 0", "all heads differ by 0.5 in both groups: no interaction", 500,
            partial(interaction, 0.0, 0.5, n_first, n_second), (fwer("max-T"),),
        )  # fmt: skip
        for d in (0.3, 0.5, 0.75, 1.0, 1.5):
            expected = [at_most("max-T false")]
            if (d, n_first) in ((1.0, 10), (1.5, 6)):
                expected.append(power("max-T power"))
            yield Study(
                f"{name}/d {d:g}",
                "45 of 896 heads differ by d more in the first group (seen), all by 0.5",
                100, partial(interaction, d, 0.5, n_first, n_second), tuple(expected),
            )  # fmt: skip
