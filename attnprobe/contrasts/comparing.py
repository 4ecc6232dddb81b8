"""`compare`: paired differences on plain arrays."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr
from jaxtyping import Float, Float64
from scipy.special import gammaln
from scipy.stats import false_discovery_control

from attnprobe.contrasts.flips import bootstrap_interval, sign_flip_test
from attnprobe.errors import ContrastError

MIN_UNITS = 6
"""Fewer units cannot give p < 0.05: with five, the smallest two-sided p is 2/2⁵ = 0.0625."""
MIN_UNITS_FOR_SCREENING = 12
"""From so many units on, single p-values are fine enough to screen heads by."""
_SCOPE = {"task": "new tasks like these", "item": "on these tasks only"}


def compare(
    a: Float[np.ndarray, "item layer head"],
    b: Float[np.ndarray, "item layer head"],
    tasks: Sequence[str] | np.ndarray,
    *,
    by: Literal["task", "item"] = "task",
    n_flips: int = 10_000,
    rng: int | np.random.Generator = 0,
    n_bootstrap: int = 2000,
    confidence: float = 0.95,
) -> xr.Dataset:
    """Compare two paired sets of values, head by head.

    Items of one task are not independent, so a claim about new tasks rests on the task:
    differences are averaged within each task, and the estimate is the mean of those task means,
    each task counting once however many items it has. Test, interval and effect size are all of
    this same mean. With `by="item"` the estimate is the mean over items, and the claim is about
    these tasks only.

    The percentile interval resamples the same units as the test flips. With few tasks it is
    narrower than its name says (0.95 covers 0.86 with 6 tasks, 0.91 with 12), and it is of one
    head, not of all together; decide by `p_adjusted`.

    Args:
        a: Values in one style; NaN where a head has none.
        b: Values of the same items in the other style.
        tasks: Task of each item.
        by: `task` flips whole tasks; `item` flips items.
        n_flips: Sign flips; all are enumerated where there are no more than this.
        rng: Seed or generator of flips and resamples.
        n_bootstrap: Resamples of the interval.
        confidence: Coverage of the interval.

    Returns:
        Over (layer, head): `estimate` of a − b, `low`, `high`; `p`, two-sided by sign flips, and
        `p_adjusted` for all heads together (maximum statistic); `q`, Benjamini–Hochberg for
        screening, NaN below 12 units; `g_z`, the mean over the standard deviation of the units
        with Hedges' correction, NaN where they do not vary; `n_items`, `n_tasks`. A head with
        fewer than 6 units is estimated but not tested (p is NaN). One whose differences are all 0
        has p = 1; one whose units all agree has the smallest p there is. Attributes: `by`,
        `scope`, `p_smallest`, `n_units`, `n_tested`, `n_flips`, `exact` and the settings.

    Raises:
        ContrastError: If shapes do not match, there is no pair, or there are fewer than 6 units.
    """
    _check(a, b, tasks, by, confidence, n_flips, n_bootstrap)
    differences = (a.astype(np.float64) - b.astype(np.float64)).reshape(len(a), -1)
    paired = ~np.isnan(differences)
    kept = paired.any(axis=1)
    if not kept.any():
        raise ContrastError(
            "there is no pair to compare",
            got=f"{len(a)} items, each without a value in one of the two",
            expected="items with a value in both",
        )
    differences, paired = differences[kept], paired[kept]
    names, codes = np.unique(np.asarray(tasks).astype(str)[kept], return_inverse=True)
    task_means, task_sizes = _group_means(differences, codes, len(names))
    units = task_means if by == "task" else differences
    _require_units(units, names, by)
    n_units = (~np.isnan(units)).sum(axis=0)
    estimate, g_z = _effects(units, n_units)
    generator = np.random.default_rng(rng)
    low, high = bootstrap_interval(units, n_bootstrap, confidence, generator)
    tested = np.where(n_units >= MIN_UNITS, units, np.nan)
    test = sign_flip_test(tested, n_flips, generator)
    columns = {
        "estimate": estimate,
        "low": low,
        "high": high,
        "p": test.p,
        "p_adjusted": test.p_adjusted,
        "q": _screen(test.p, len(units)),
        "g_z": g_z,
        "n_items": paired.sum(axis=0),
        "n_tasks": (task_sizes > 0).sum(axis=0),
    }
    _, n_layers, n_heads = a.shape
    return xr.Dataset(
        {
            name: (("layer", "head"), column.reshape(n_layers, n_heads))
            for name, column in columns.items()
        },
        coords={"layer": np.arange(n_layers), "head": np.arange(n_heads)},
        attrs={
            "by": by,
            "scope": _SCOPE[by],
            "n_units": len(units),
            "n_tested": int((~np.isnan(test.p)).sum()),
            "p_smallest": test.p_smallest,
            "n_flips": test.n_flips,
            "exact": int(test.exact),
            "n_bootstrap": n_bootstrap,
            "confidence": confidence,
            "seed": rng if isinstance(rng, int) else "generator",
        },
    )


def _check(
    a: np.ndarray,
    b: np.ndarray,
    tasks: Sequence[str] | np.ndarray,
    by: str,
    confidence: float,
    n_flips: int,
    n_bootstrap: int,
) -> None:
    if a.shape != b.shape or len(tasks) != len(a):
        raise ContrastError(
            "pairs and tasks must match item by item",
            got=f"a {a.shape}, b {b.shape}, {len(tasks)} tasks",
            expected="a and b of one shape (item, layer, head), and a task per item",
        )
    if by not in _SCOPE:
        raise ContrastError("no such unit of inference", got=f"by='{by}'", expected="task or item")
    if not 0 < confidence < 1 or n_flips < 1 or n_bootstrap < 1:
        raise ContrastError(
            "the settings of the test make no sense",
            got=f"confidence={confidence}, n_flips={n_flips}, n_bootstrap={n_bootstrap}",
            expected="confidence between 0 and 1, and at least one flip and one resample",
        )


def _require_units(units: np.ndarray, tasks: np.ndarray, by: str) -> None:
    if len(units) >= MIN_UNITS:
        return
    smallest = 0.5 ** (len(units) - 1)
    if by == "task":
        shown = ", ".join(f"'{task}'" for task in tasks)
        raise ContrastError(
            f"{len(units)} task{'s' * (len(units) > 1)} cannot carry a claim about new tasks: no "
            f"flip of their signs can give a p-value below {smallest:.4g}",
            got=f"{len(units)} ({shown})",
            expected=f"at least {MIN_UNITS} tasks with pairs",
            fix="add task families, or compare by item (by='item', --by item), which speaks of "
            "these tasks only",
        )
    raise ContrastError(
        f"{len(units)} pair{'s' * (len(units) > 1)} cannot be tested: no flip of their signs can "
        f"give a p-value below {smallest:.4g}",
        got=len(units),
        expected=f"at least {MIN_UNITS} pairs",
        fix="add items that are there in both styles",
    )


def _group_means(
    values: Float64[np.ndarray, "item head"], codes: np.ndarray, n_groups: int
) -> tuple[Float64[np.ndarray, "group head"], Float64[np.ndarray, "group head"]]:
    """Average items within groups, leaving NaN out; also return how many items each mean has."""
    member = np.zeros((n_groups, len(values)))
    member[codes, np.arange(len(values))] = 1.0
    present = ~np.isnan(values)
    sizes = member @ present.astype(float)
    sums = member @ np.where(present, values, 0.0)
    return np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=sizes > 0), sizes


def _effects(
    units: Float64[np.ndarray, "unit head"], n_units: np.ndarray
) -> tuple[Float64[np.ndarray, " head"], Float64[np.ndarray, " head"]]:
    """Mean, and mean over standard deviation with Hedges' exact small-sample correction."""
    centre = np.full(units.shape[1], np.nan)
    spread = np.full(units.shape[1], np.nan)
    centre[n_units > 0] = np.nanmean(units[:, n_units > 0], axis=0)
    enough = n_units > 2
    spread[enough] = np.nanstd(units[:, enough], axis=0, ddof=1)
    # Rounding leaves a tiny spread where all units agree; an effect size of 1e15 says nothing.
    spread[spread <= 1e-12 * np.abs(centre)] = np.nan
    spread[spread == 0] = np.nan
    freedom = np.where(enough, n_units - 1.0, np.nan)
    correction = np.exp(gammaln(freedom / 2) - gammaln((freedom - 1) / 2)) * np.sqrt(2 / freedom)
    return centre, correction * centre / spread


def _screen(p: Float64[np.ndarray, " head"], n_units: int) -> Float64[np.ndarray, " head"]:
    screened = np.full(len(p), math.nan)
    tested = ~np.isnan(p)
    if n_units >= MIN_UNITS_FOR_SCREENING and tested.any():
        screened[tested] = false_discovery_control(p[tested])
    return screened
