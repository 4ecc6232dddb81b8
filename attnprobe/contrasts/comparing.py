"""`compare`: paired differences on plain arrays."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import xarray as xr
from jaxtyping import Float, Float64
from scipy.special import gammaln
from scipy.stats import false_discovery_control

from attnprobe.contrasts.flips import FlipTest, bootstrap_interval, sign_flip_test
from attnprobe.contrasts.inference import MIN_UNITS, MIN_UNITS_FOR_SCREENING, Inference
from attnprobe.contrasts.inputs import require_items_of_heads
from attnprobe.contrasts.units import Units, paired_units
from attnprobe.errors import ContrastError


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
    screening: str = "bh",
    scale: str = "difference",
) -> xr.Dataset:
    """Compare two paired sets of values, head by head.

    Items of one task are not independent, so a claim about new tasks rests on the task:
    differences are averaged within each task, and the estimate is the mean of those task means,
    each task counting once however many items it has. Test, interval and effect size are all of
    this same mean. With `by="item"` the estimate is the mean over items, and the claim is about
    these tasks only.

    The flips take differences that mean nothing to be as likely above 0 as below, by any amount.
    Where tasks differ in a skewed way (most a little below 0, a few far above), so that only their
    mean is 0, heads are found too often.

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
        screening: False discovery rate of `q`: `bh`, or `by` for any dependence.
        scale: `difference`, or `log-ratio`: log2 of the ratio of each unit's means.

    Returns:
        Over (layer, head): `estimate` of a − b, `low`, `high`; `p`, two-sided by sign flips, and
        `p_adjusted` for all heads together (step-down maximum statistic); `q`, the false discovery
        rate for screening, NaN below 12 units; `g_z`, the mean over the standard deviation of the
        units with Hedges' correction, NaN where they do not vary; `n_items`, `n_tasks`. A head
        with fewer than 6 units is estimated but not tested (p is NaN). One whose differences are
        all 0 has p = 1; one whose units all agree has the smallest p there is. Attributes: `by`,
        `scope`, `p_smallest`, `n_units`, `n_tested`, `n_flips`, `exact` and the settings.

    Raises:
        ContrastError: If shapes do not match, there is no pair, values are infinite, some items
            have no task, or there are fewer than 6 units.
    """
    inference = Inference(by, n_flips, n_bootstrap, confidence, screening, scale, rng)
    require_items_of_heads(a=a, b=b)
    _, n_layers, n_heads = a.shape
    coords = {"layer": np.arange(n_layers), "head": np.arange(n_heads)}
    return compare_cells(a, b, tasks, inference, coords)


def compare_cells(
    a: Float[np.ndarray, "item *cell"],
    b: Float[np.ndarray, "item *cell"],
    tasks: Sequence[str] | np.ndarray,
    inference: Inference,
    coords: Mapping[str, np.ndarray],
) -> xr.Dataset:
    """Compare two paired sets of values over any axes: `compare` with the axes named.

    Args:
        a: Values on one side, items first.
        b: Values of the same items on the other side.
        tasks: Task of each item.
        inference: The settings.
        coords: Name and labels of each axis after the first; one family for all of them.

    Returns:
        As `compare`, over these axes.

    Raises:
        ContrastError: As `compare` does.
    """
    units = paired_units(a, b, tasks, inference)
    _require_units(units, inference.by)
    return flip_effects(units, inference, coords)


def flip_effects(
    units: Units, inference: Inference, coords: Mapping[str, np.ndarray]
) -> xr.Dataset:
    """Test and estimate the mean of units whose signs may be flipped."""
    n_units = units.present
    estimate, g_z = _effects(units.values, n_units)
    generator = np.random.default_rng(inference.rng)
    low, high = bootstrap_interval(
        units.values, inference.n_bootstrap, inference.confidence, generator
    )
    tested = np.where(n_units >= MIN_UNITS, units.values, np.nan)
    test = sign_flip_test(tested, inference.n_flips, generator)
    columns = {"estimate": estimate, "low": low, "high": high, "g_z": g_z}
    return dataset(columns, units, test, inference, coords).assign_attrs(test="sign flips")


def dataset(
    columns: Mapping[str, Float64[np.ndarray, " cell"]],
    units: Units,
    test: FlipTest,
    inference: Inference,
    coords: Mapping[str, np.ndarray],
) -> xr.Dataset:
    """Lay the columns of a comparison out over its axes, with everything about the test."""
    shape = [len(labels) for labels in coords.values()]
    ordered = {
        **{name: columns[name] for name in ("estimate", "low", "high")},
        "p": test.p,
        "p_adjusted": test.p_adjusted,
        "q": _screen(test.p, len(units), inference.screening),
        **{name: column for name, column in columns.items() if name.startswith("g_")},
        "n_items": units.n_items,
        "n_tasks": units.n_tasks,
    }
    return xr.Dataset(
        {name: (tuple(coords), column.reshape(shape)) for name, column in ordered.items()},
        coords=dict(coords),
        attrs={
            **inference.to_attrs(),
            "n_units": len(units),
            "n_tested": int((~np.isnan(test.p)).sum()),
            "p_smallest": test.p_smallest,
            "n_flips": test.n_flips,
            "exact": int(test.exact),
        },
    )


def _require_units(units: Units, by: str) -> None:
    if len(units) >= MIN_UNITS:
        return
    smallest = 0.5 ** (len(units) - 1)
    if by == "task":
        shown = ", ".join(f"'{task}'" for task in units.tasks)
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


def _effects(
    units: Float64[np.ndarray, "unit cell"], n_units: np.ndarray
) -> tuple[Float64[np.ndarray, " cell"], Float64[np.ndarray, " cell"]]:
    """Mean, and mean over standard deviation with Hedges' exact small-sample correction."""
    centre = np.full(units.shape[1], np.nan)
    spread = np.full(units.shape[1], np.nan)
    centre[n_units > 0] = np.nanmean(units[:, n_units > 0], axis=0)
    enough = n_units > 2
    spread[enough] = np.nanstd(units[:, enough], axis=0, ddof=1)
    freedom = np.where(enough, n_units - 1.0, np.nan)
    return centre, standardised(centre, spread, freedom)


def standardised(
    difference: Float64[np.ndarray, " cell"],
    spread: Float64[np.ndarray, " cell"],
    freedom: Float64[np.ndarray, " cell"],
) -> Float64[np.ndarray, " cell"]:
    """Divide by the standard deviation, with Hedges' exact small-sample correction."""
    # Rounding leaves a tiny spread where all units agree; an effect size of 1e15 says nothing.
    varies = (spread > 1e-12 * np.abs(difference)) & (spread > 0)
    correction = np.exp(gammaln(freedom / 2) - gammaln((freedom - 1) / 2)) * np.sqrt(2 / freedom)
    return correction * difference / np.where(varies, spread, np.nan)


def _screen(
    p: Float64[np.ndarray, " cell"], n_units: int, screening: str
) -> Float64[np.ndarray, " cell"]:
    screened = np.full(len(p), math.nan)
    tested = ~np.isnan(p)
    if n_units >= MIN_UNITS_FOR_SCREENING and tested.any():
        method = "by" if screening == "by" else "bh"
        screened[tested] = false_discovery_control(p[tested], method=method)
    return screened
