"""Pairs: the records of one item on two sides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from attnprobe.errors import ContrastError, SelectionError, nearest


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Values of the same items on two sides."""

    first: Float[np.ndarray, "item *rest"]
    second: Float[np.ndarray, "item *rest"]
    items: np.ndarray
    """Name of each item."""
    tasks: np.ndarray
    """Task of each item."""
    dropped: dict[str, int]
    """Items left out, by reason."""


def pair_items(
    values: xr.DataArray, a: str, b: str
) -> tuple[
    Float[np.ndarray, "item *rest"], Float[np.ndarray, "item *rest"], np.ndarray, dict[str, int]
]:
    """Pair the records of two styles by item.

    Several records of one item and style (repeated samples, say) are averaged.

    Args:
        values: A measure; `record` first, with coords item, style and task.
        a: One style.
        b: The other.

    Returns:
        Values in `a`, values in `b`, task of each item, and how many items were left out, by
        reason.

    Raises:
        ContrastError: If no item has both styles, or an item has two tasks.
    """
    pairs = pair_styles(values, a, b)
    return pairs.first, pairs.second, pairs.tasks, pairs.dropped


def pair_styles(values: xr.DataArray, a: str, b: str) -> Pairs:
    """Pair the records of two styles by item; see `pair_items`."""
    return pair_sides(by_item(values, a), by_item(values, b), (a, b), "style")


def pair_sides(
    in_a: dict[str, tuple[str, np.ndarray]],
    in_b: dict[str, tuple[str, np.ndarray]],
    names: tuple[str, str],
    kind: str,
) -> Pairs:
    """Pair what two sides have of the same items.

    Args:
        in_a: Item → task and values, on one side.
        in_b: The same of the other side.
        names: What the sides are called.
        kind: What they are: `style` or `run`.

    Returns:
        The pairs that have a value anywhere.

    Raises:
        ContrastError: If no item is on both sides, or an item has two tasks.
    """
    a, b = names
    both = [item for item in in_a if item in in_b]
    if not both:
        raise ContrastError(
            f"no item has both {kind}s",
            got=f"{len(in_a)} items in '{a}', {len(in_b)} in '{b}'",
            expected="records of the same item in both",
            fix="give records that belong together the same 'item'",
        )
    for item in both:
        if in_a[item][0] != in_b[item][0]:
            raise ContrastError(
                "one item belongs to two tasks",
                where=f"item '{item}'",
                got=f"'{in_a[item][0]}' in '{a}', '{in_b[item][0]}' in '{b}'",
                expected=f"the same task in every {kind}",
            )
    first = np.stack([in_a[item][1] for item in both])
    second = np.stack([in_b[item][1] for item in both])
    defined = ~np.isnan(first - second).reshape(len(both), -1).all(axis=1)
    dropped = {
        f"only in {a}": len(in_a) - len(both),
        f"only in {b}": len(in_b) - len(both),
        f"without a value in one {kind}": int((~defined).sum()),
    }
    tasks = np.array([in_a[item][0] for item in both])
    return Pairs(first[defined], second[defined], np.array(both)[defined], tasks[defined], dropped)


def by_item(values: xr.DataArray, style: str) -> dict[str, tuple[str, np.ndarray]]:
    """Map each item of a style to its task and its values."""
    items, tasks = values["item"].values, values["task"].values
    places: dict[str, list[int]] = {}
    for place in np.flatnonzero(values["style"].values == style):
        places.setdefault(str(items[place]), []).append(int(place))
    for item, found in places.items():
        if len(named := dict.fromkeys(map(str, tasks[found]))) > 1:
            raise ContrastError(
                "one item belongs to two tasks", where=f"item '{item}'",
                got=" and ".join(f"'{task}'" for task in named) + f" in '{style}'",
                expected="the same task in every record",
            )  # fmt: skip
    return {
        item: (str(tasks[found[0]]), _mean(values.values[found])) for item, found in places.items()
    }


def _mean(records: Float[np.ndarray, "record *rest"]) -> Float[np.ndarray, "*rest"]:
    if len(records) == 1:
        return np.asarray(records[0])
    present = ~np.isnan(records)
    sums, sizes = np.where(present, records, 0).sum(axis=0), present.sum(axis=0)
    means = np.where(sizes > 0, sums / np.maximum(sizes, 1), np.nan)
    return np.asarray(means).astype(records.dtype)


def groups_of(run: Any, items: np.ndarray, column: str) -> np.ndarray:
    """Find the group of each item in a column of the table of records.

    Args:
        run: An open run.
        items: Names of items.
        column: `split`, or any other column.

    Returns:
        Group of each item, as text.

    Raises:
        SelectionError: If there is no such column.
        ContrastError: If records of one item are in different groups.
    """
    table = run.records
    if column not in table.columns:
        raise SelectionError(
            "the table of records has no such column", got=f"'{column}'",
            fix=nearest(column, map(str, table.columns)),
        )  # fmt: skip
    group: dict[str, str] = {}
    for item, value in zip(table["item"], table[column].astype(str), strict=True):
        if group.setdefault(str(item), value) != value:
            raise ContrastError(
                f"the records of one item differ in '{column}'",
                where=f"item '{item}'",
                got=f"'{group[str(item)]}' and '{value}'",
                expected="one group per item",
            )
    return np.array([group[str(item)] for item in items])


def select_styles(run: Any, styles: Sequence[str], ids: Sequence[str] | None) -> list[str]:
    """List the ids of the records of some styles.

    Args:
        run: An open run.
        styles: One, or two that differ.
        ids: Records to choose among; None for all.

    Returns:
        Ids, in the order of the run.

    Raises:
        SelectionError: If there is no such style.
        ContrastError: If both are the same.
    """
    by_id = run.records["style"]
    for style in styles:
        if style not in set(by_id):
            raise SelectionError(
                "the run has no such style", got=f"'{style}'", fix=nearest(style, set(by_id))
            )
    if len(styles) > len(set(styles)):
        raise ContrastError("a style does not differ from itself", got=f"'{styles[0]}' twice")
    wanted = None if ids is None else set(ids)
    return [
        record_id
        for record_id, style in by_id.items()
        if style in styles and (wanted is None or record_id in wanted)
    ]
