"""Paired differences, put together to the units that a test may exchange."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int

from attnprobe.contrasts.inference import Inference
from attnprobe.contrasts.inputs import task_names
from attnprobe.errors import ContrastError


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """Paired differences of whole units, cell by cell (a cell is a head, a layer, a span pair)."""

    values: Float64[np.ndarray, "unit cell"]
    """Difference of each unit; NaN where a cell has none."""
    tasks: np.ndarray
    """Task of each unit."""
    n_items: Int[np.ndarray, " cell"]
    """Items with a value on both sides."""
    n_tasks: Int[np.ndarray, " cell"]
    """Tasks with such an item."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def present(self) -> Int[np.ndarray, " cell"]:
        """Units with a value, per cell."""
        return (~np.isnan(self.values)).sum(axis=0)


def paired_units(
    a: Float[np.ndarray, "item *cell"],
    b: Float[np.ndarray, "item *cell"],
    tasks: Sequence[str] | np.ndarray,
    inference: Inference,
) -> Units:
    """Pair values item by item and average them within each unit.

    On the scale `difference`, a unit is the mean of a − b over its items; on `log-ratio` it is the
    log2 of the mean of a over the mean of b, so that an item with next to nothing does not decide.

    Args:
        a: Values on one side; NaN where a cell has none.
        b: Values of the same items on the other side.
        tasks: Task of each item.
        inference: The unit and the scale.

    Returns:
        Units in the order of the tasks' names, or of the items.

    Raises:
        ContrastError: If shapes do not match, values are infinite, some items have no task, nothing
            pairs, or a ratio is asked of values that have none.
    """
    _check(a, b, tasks)
    n_cells = math.prod(a.shape[1:])
    flat_a, flat_b = (side.astype(np.float64).reshape(len(side), n_cells) for side in (a, b))
    paired = ~np.isnan(flat_a - flat_b)
    kept = paired.any(axis=1)
    if not kept.any():
        raise ContrastError(
            "there is no pair to compare",
            got=f"{len(a)} items, each without a value in one of the two",
            expected="items with a value in both",
        )
    flat_a, flat_b, paired = flat_a[kept], flat_b[kept], paired[kept]
    names, codes = np.unique(task_names(tasks)[kept], return_inverse=True)
    groups = codes if inference.by == "task" else np.arange(len(codes))
    _, in_task = group_means(np.where(paired, 0.0, np.nan), codes, len(names))
    values = _on_scale(
        np.where(paired, flat_a, np.nan), np.where(paired, flat_b, np.nan), groups, inference.scale
    )
    return Units(
        values=values,
        tasks=names if inference.by == "task" else names[codes],
        n_items=paired.sum(axis=0),
        n_tasks=(in_task > 0).sum(axis=0),
    )


def _check(a: np.ndarray, b: np.ndarray, tasks: Sequence[str] | np.ndarray) -> None:
    if a.shape != b.shape or len(tasks) != len(a):
        raise ContrastError(
            "pairs and tasks must match item by item",
            got=f"a {a.shape}, b {b.shape}, {len(tasks)} tasks",
            expected="a and b of one shape (item, layer, head), and a task per item",
        )
    for name, side in (("a", a), ("b", b)):
        if n_infinite := int(np.isinf(side).sum()):
            raise ContrastError(
                "infinite values cannot be averaged",
                got=f"{n_infinite} of {side.size} values of {name}",
                expected="finite values, and NaN where there is none",
            )


def _on_scale(
    a: Float64[np.ndarray, "item cell"],
    b: Float64[np.ndarray, "item cell"],
    groups: np.ndarray,
    scale: str,
) -> Float64[np.ndarray, "unit cell"]:
    n_groups = int(groups.max()) + 1
    if scale == "difference":
        return group_means(a - b, groups, n_groups)[0]
    lowest = min(float(np.nanmin(a)), float(np.nanmin(b)))
    means = [group_means(side, groups, n_groups)[0] for side in (a, b)]
    n_zero = sum(int((mean == 0).sum()) for mean in means)
    if lowest < 0 or n_zero:
        raise ContrastError(
            "a ratio needs values above 0",
            got=f"values down to {lowest:.3g}" if lowest < 0 else f"{n_zero} means of 0",
            expected="a measure of amounts, such as mass or density",
            fix="compare on the scale 'difference' (enrichment is a log-ratio already)",
        )
    return np.log2(means[0] / means[1])


def group_means(
    values: Float64[np.ndarray, "item cell"], groups: np.ndarray, n_groups: int
) -> tuple[Float64[np.ndarray, "group cell"], Float64[np.ndarray, "group cell"]]:
    """Average items within groups, leaving NaN out; also return how many items each mean has."""
    present = ~np.isnan(values)
    filled = np.where(present, values, 0.0)
    if n_groups == len(values) and np.array_equal(groups, np.arange(n_groups)):
        return values, present.astype(float)
    member = np.zeros((n_groups, len(values)))
    member[groups, np.arange(len(values))] = 1.0
    sizes = member @ present.astype(float)
    sums = member @ filled
    return np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=sizes > 0), sizes
