"""`compare_groups`: whether a paired difference is another in one group of items than another."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import xarray as xr
from jaxtyping import Float, Float64

from attnprobe.contrasts.comparing import dataset, flip_effects, standardised
from attnprobe.contrasts.inference import ALPHA, MIN_UNITS, Inference
from attnprobe.contrasts.labels import group_interval, label_test, smallest_p
from attnprobe.contrasts.units import Units, paired_units
from attnprobe.errors import ContrastError, nearest


def compare_groups(
    a: Float[np.ndarray, "item layer head"],
    b: Float[np.ndarray, "item layer head"],
    tasks: Sequence[str] | np.ndarray,
    groups: Sequence[str] | np.ndarray,
    levels: tuple[str, str] = ("seen", "unseen"),
    *,
    by: Literal["task", "item"] = "task",
    n_flips: int = 10_000,
    rng: int | np.random.Generator = 0,
    n_bootstrap: int = 2000,
    confidence: float = 0.95,
    screening: str = "bh",
    scale: str = "difference",
) -> xr.Dataset:
    """Ask whether the difference between two styles is another in one group than in another.

    An interaction depends on the scale: a mass that doubles in both groups differs on the scale
    `difference` wherever the groups start apart, and not on `log-ratio`. The scale is part of the
    result.

    Where every task belongs to one group, the labels of the tasks are permuted. Where every task
    has items in both groups, the groups are paired: the difference between them is taken within
    each task, and its sign is flipped. Tasks of both kinds at once are refused, and so are shared
    tasks by item. Where groups are of different tasks, comparing them by item cannot tell the group
    from its tasks.

    Permuted labels take the units of both groups to be alike but for their mean. Where the groups
    differ in spread, differences are found too often, most of all where the smaller one spreads
    more.

    Args:
        a: Values in one style; NaN where a head has none.
        b: Values of the same items in the other style.
        tasks: Task of each item.
        groups: Group of each item, its split for example. Items of other groups are left out.
        levels: The two groups: first minus second.
        by: `task` exchanges whole tasks; `item` exchanges items, on these tasks only.
        n_flips: Permutations; all are enumerated where there are no more than this.
        rng: Seed or generator.
        n_bootstrap: Resamples of the interval, within each group.
        confidence: Coverage of the interval.
        screening: `bh` or `by`.
        scale: `difference` or `log-ratio`.

    Returns:
        As `compare`; `estimate` is (a − b) in the first group minus (a − b) in the second. Where
        labels are permuted, `g_s` takes the place of `g_z`: the difference over the groups' pooled
        standard deviation, with Hedges' correction.

    Raises:
        ContrastError: If a group is empty, tasks cannot be told apart, or no permutation could
            give a p-value below 0.05.
    """
    inference = Inference(by, n_flips, n_bootstrap, confidence, screening, scale, rng)
    _, n_layers, n_heads = a.shape
    coords = {"layer": np.arange(n_layers), "head": np.arange(n_heads)}
    return compare_group_cells(a, b, tasks, groups, levels, inference, coords)


def compare_group_cells(
    a: Float[np.ndarray, "item *cell"],
    b: Float[np.ndarray, "item *cell"],
    tasks: Sequence[str] | np.ndarray,
    groups: Sequence[str] | np.ndarray,
    levels: tuple[str, str],
    inference: Inference,
    coords: Mapping[str, np.ndarray],
) -> xr.Dataset:
    """Compare groups over any axes: `compare_groups` with the axes named."""
    labels, tasks = np.asarray(groups).astype(str), np.asarray(tasks).astype(str)
    _require_levels(labels, levels)
    of_level = [labels == level for level in levels]
    sides = [paired_units(a[chosen], b[chosen], tasks[chosen], inference) for chosen in of_level]
    shared = np.intersect1d(sides[0].tasks, sides[1].tasks)
    if len(shared):
        _require_tasks(shared, inference)
        found = _within_tasks(sides, shared, levels, inference, coords)
    else:
        found = _between_tasks(sides, levels, inference, coords)
    return found.assign_attrs(
        level_a=levels[0], level_b=levels[1],
        n_units_a=len(sides[0]), n_units_b=len(sides[1]),
    )  # fmt: skip


def _require_levels(labels: np.ndarray, levels: tuple[str, str]) -> None:
    if levels[0] == levels[1]:
        raise ContrastError("a group does not differ from itself", got=f"'{levels[0]}' twice")
    for level in levels:
        if level not in labels:
            raise ContrastError(
                "no item with a pair is in this group",
                got=f"'{level}'",
                fix=nearest(level, set(labels.tolist())),
            )


def _require_tasks(shared: np.ndarray, inference: Inference) -> None:
    """Refuse to exchange items of groups that share tasks: their tasks would be exchanged too."""
    if inference.by == "item":
        raise ContrastError(
            "groups that share tasks cannot be compared by item: a group with more items of some "
            "tasks would differ for their sake",
            got=f"{len(shared)} tasks with items in both groups ({', '.join(shared[:3])} …)",
            expected="groups of different tasks, or a comparison by task",
            fix="compare by task, which takes the difference between groups within each task",
        )


def _between_tasks(
    sides: Sequence[Units],
    levels: tuple[str, str],
    inference: Inference,
    coords: Mapping[str, np.ndarray],
) -> xr.Dataset:
    """Permute the labels of units that each belong to one group."""
    smallest = smallest_p(len(sides[0]), len(sides[1]))
    if smallest >= ALPHA:
        counted = ", ".join(
            f"{len(side)} in '{level}'" for side, level in zip(sides, levels, strict=True)
        )
        raise ContrastError(
            f"too few {inference.units} to tell groups apart: no permutation of their labels can "
            f"give a p-value below {smallest:.4g}",
            got=counted,
            expected=f"for example 3 and 4 {inference.units}, which can give 0.029",
            fix="add task families"
            + (", or compare by item, which speaks of these tasks only" * (inference.by == "task")),
        )
    units = Units(
        values=np.concatenate([side.values for side in sides]),
        tasks=np.concatenate([side.tasks for side in sides]),
        n_items=sides[0].n_items + sides[1].n_items,
        n_tasks=sides[0].n_tasks + sides[1].n_tasks,
    )
    is_first = np.arange(len(units)) < len(sides[0])
    estimate, g_s = _group_effects(sides)
    generator = np.random.default_rng(inference.rng)
    low, high = group_interval(
        units.values, is_first, inference.n_bootstrap, inference.confidence, generator
    )
    test = label_test(units.values, is_first, inference.n_flips, generator)
    columns = {"estimate": estimate, "low": low, "high": high, "g_s": g_s}
    return dataset(columns, units, test, inference, coords).assign_attrs(test="permuted labels")


def _group_effects(
    sides: Sequence[Units],
) -> tuple[Float64[np.ndarray, " cell"], Float64[np.ndarray, " cell"]]:
    """Difference of the groups' means, and the same over their pooled standard deviation."""
    sizes = [side.present for side in sides]
    means, squares = [], []
    for side, size in zip(sides, sizes, strict=True):
        present = ~np.isnan(side.values)
        total = np.where(present, side.values, 0.0).sum(axis=0)
        mean = np.divide(total, size, out=np.full(len(size), np.nan), where=size > 0)
        means.append(mean)
        squares.append(np.where(present, (side.values - mean) ** 2, 0.0).sum(axis=0))
    freedom = (sizes[0] + sizes[1] - 2).astype(float)
    freedom[freedom < 2] = np.nan
    pooled = np.sqrt((squares[0] + squares[1]) / freedom)
    difference = means[0] - means[1]
    return difference, standardised(difference, pooled, freedom)


def _within_tasks(
    sides: Sequence[Units],
    shared: np.ndarray,
    levels: tuple[str, str],
    inference: Inference,
    coords: Mapping[str, np.ndarray],
) -> xr.Dataset:
    """Flip the sign of the difference between groups within each task that has both."""
    alone = set(sides[0].tasks.tolist()) ^ set(sides[1].tasks.tolist())
    if alone:
        raise ContrastError(
            "some tasks have items in both groups and some in one only, so that labels can be "
            "neither permuted nor flipped",
            got=f"{len(shared)} tasks in both ({', '.join(shared[:3])} …), "
            f"{len(alone)} in one only ({', '.join(sorted(alone)[:3])} …)",
            expected="groups of different tasks, or all tasks in both",
            fix="choose other levels, or take records by their ids",
        )
    if len(shared) < MIN_UNITS:
        raise ContrastError(
            f"{len(shared)} tasks cannot carry a claim about new tasks",
            where=f"{levels[0]} − {levels[1]} within tasks",
            got=len(shared),
            expected=f"at least {MIN_UNITS} tasks with items in both groups",
        )
    paired = Units(
        values=sides[0].values - sides[1].values,
        tasks=shared,
        n_items=sides[0].n_items + sides[1].n_items,
        n_tasks=(~np.isnan(sides[0].values - sides[1].values)).sum(axis=0),
    )
    return flip_effects(paired, inference, coords)
