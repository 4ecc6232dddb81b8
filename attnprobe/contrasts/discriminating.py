"""`discriminate`: which heads tell passed from failed items, on plain arrays."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Shaped

from attnprobe.contrasts.auroc import (
    Pairs,
    auroc,
    auroc_by_task,
    auroc_interval,
    log_orders,
    pairs_of,
    permutation_test,
    ranks_within_tasks,
)
from attnprobe.contrasts.flips import sign_flip_test
from attnprobe.contrasts.inference import ALPHA, MIN_UNITS
from attnprobe.contrasts.inputs import outcomes_of, require_items_of_heads, task_names
from attnprobe.errors import ContrastError

ON_THESE_TASKS = "these tasks only"


def discriminate(
    values: Float[np.ndarray, "item layer head"],
    passed: Shaped[np.ndarray, " item"],
    tasks: Sequence[str] | np.ndarray,
    *,
    n_permutations: int = 10_000,
    confidence: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> xr.Dataset:
    """Say how well each head's value tells passed from failed items of the same task.

    The AUROC is the share of pairs, one passed and one failed item of one task, in which the
    passed one has the higher value, ties counting half; 0.5 is none, 0 as telling as 1. Items of
    different tasks are never held against each other: a head that only tells easy tasks from hard
    ones has 0.5. `auroc_pooled` does so, and is there to show the difference.

    Args:
        values: A measure of each head; NaN where an item has none.
        passed: Outcome of each item: truth values, or 1 and 0.
        tasks: Task of each item.
        n_permutations: Permutations of the outcomes within tasks.
        confidence: Coverage of the interval.
        rng: Seed or generator of the permutations.

    Returns:
        Over (layer, head): `auroc`, `low`, `high` (score interval, Newcombe 2006, of one head);
        `p`, two-sided, and `p_adjusted` for all heads together (maximum statistic), by permuting
        outcomes within tasks: of these tasks only; `p_tasks`, adjusted likewise, by flipping whole
        tasks around 0.5: of new tasks, NaN below 6; `auroc_pooled`; `n_pairs`, `n_tasks` (with
        both outcomes), `n_tasks_above` 0.5. Attributes: `n_passed`, `n_failed`, `p_smallest`,
        `n_tested` and the settings.

    Raises:
        ContrastError: If shapes do not match, all items passed, none did, no task has both, or
            there are too few items for any p-value below 0.05; if an outcome or a task is missing.
    """
    require_items_of_heads(values=values)
    _check(values, passed, tasks, n_permutations, confidence)
    kept = ~np.isnan(values).all(axis=(1, 2))
    flat = values[kept].reshape(int(kept.sum()), values[0].size).astype(np.float64)
    outcome = outcomes_of(passed)[kept]
    names, task = np.unique(task_names(tasks)[kept], return_inverse=True)
    _require_both(outcome)
    ranks = ranks_within_tasks(flat, task)
    pairs = pairs_of(ranks, outcome)
    n_orders = float(np.exp(min(log_orders(outcome, ranks), 700.0)))
    _require_orders(outcome, pairs, names, n_orders)
    generator = np.random.default_rng(rng)
    test = permutation_test(ranks, outcome, n_permutations, generator)
    by_task = auroc_by_task(pairs)
    low, high = auroc_interval(pairs, confidence)
    columns = {
        "auroc": auroc(pairs), "low": low, "high": high, "p": test.p,
        "p_adjusted": test.p_adjusted, "p_tasks": _p_tasks(by_task, n_permutations, generator),
        "auroc_pooled": auroc(pairs_of(ranks_within_tasks(flat, np.zeros_like(task)), outcome)),
        "n_pairs": pairs.count.sum(axis=0).astype(int),
        "n_tasks": (pairs.count > 0).sum(axis=0),
        "n_tasks_above": (by_task > 0.5).sum(axis=0),
    }  # fmt: skip
    _, n_layers, n_heads = values.shape
    return xr.Dataset(
        {
            name: (("layer", "head"), column.reshape(n_layers, n_heads))
            for name, column in columns.items()
        },
        coords={"layer": np.arange(n_layers), "head": np.arange(n_heads)},
        attrs={
            "n_passed": int(outcome.sum()), "n_failed": int((~outcome).sum()),
            "n_tasks": int((pairs.count > 0).any(axis=1).sum()),
            "n_tested": int((~np.isnan(test.p)).sum()), "p_smallest": test.p_smallest,
            "n_permutations": n_permutations, "confidence": confidence, "scope": ON_THESE_TASKS,
            "seed": rng if isinstance(rng, int) else "generator",
        },
    )  # fmt: skip


def _p_tasks(
    by_task: Float[np.ndarray, "task head"], n_flips: int, rng: np.random.Generator
) -> Float[np.ndarray, " head"]:
    """Test the mean of the tasks' AUROCs against 0.5 by flipping whole tasks around it."""
    enough = (~np.isnan(by_task)).sum(axis=0) >= MIN_UNITS
    if not enough.any():
        return np.full(by_task.shape[1], np.nan)
    units = np.where(enough, by_task - 0.5, np.nan)
    return sign_flip_test(units[~np.isnan(units).all(axis=1)], n_flips, rng).p_adjusted


def _check(
    values: np.ndarray, passed: np.ndarray, tasks: Sequence[str] | np.ndarray,
    n_permutations: int, confidence: float,
) -> None:  # fmt: skip
    if len(values) != len(passed) or len(tasks) != len(values):
        raise ContrastError(
            "values, outcomes and tasks must match item by item",
            got=f"values {values.shape}, {len(passed)} outcomes, {len(tasks)} tasks",
            expected="values (item, layer, head), an outcome and a task per item",
        )
    if np.isinf(values).any():
        raise ContrastError(
            "infinite values say nothing about how much a head looks",
            got=f"{int(np.isinf(values).sum())} of {values.size} values",
            expected="finite values, and NaN where there is none",
        )
    if n_permutations < 1 or not 0 < confidence < 1:
        raise ContrastError(
            "the settings of the test make no sense",
            got=f"n_permutations={n_permutations}, confidence={confidence}",
            expected="at least one permutation, and confidence between 0 and 1",
        )


def _require_both(passed: Bool[np.ndarray, " item"]) -> None:
    if not len(passed):
        raise ContrastError("no item has a value", expected="items with a value and an outcome")
    if passed.all() or not passed.any():
        raise ContrastError(
            f"{'all' if passed.all() else 'none'} of the items passed, so there is nothing to "
            "tell apart",
            got=f"{int(passed.sum())} passed, {int((~passed).sum())} failed",
            expected="items of both kinds",
            fix="take items that are harder or easier for the model, or another style",
        )


def _require_orders(
    passed: Bool[np.ndarray, " item"], pairs: Pairs, tasks: np.ndarray, n_orders: float
) -> None:
    """Refuse outcomes whose most extreme orders, two of all, are too many."""
    if not pairs.count.any():
        raise ContrastError(
            "no task has both passed and failed items, so that passing cannot be told from the "
            "task",
            got=f"{len(tasks)} task{'s' * (len(tasks) > 1)}, {int(passed.sum())} items passed, "
            f"{int((~passed).sum())} failed",
            expected="tasks that the model neither always nor never gets right",
            fix="take more items of each task",
        )
    if n_orders < (1 - 1e-9) * 2 / ALPHA:
        raise ContrastError(
            "too few items to test: no permutation of their outcomes within tasks can give a "
            f"p-value below {2 / n_orders:.3g}",
            got=f"{int(passed.sum())} passed and {int((~passed).sum())} failed items, "
            f"{n_orders:.0f} orders",
            expected=f"at least {2 / ALPHA:.0f} orders, of which two are as extreme as any",
            fix="take more items of each task",
        )
