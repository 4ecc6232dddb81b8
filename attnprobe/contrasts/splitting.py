"""Halves of a dataset: heads are chosen on one and judged on the other, and random ones drawn."""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from math import comb, prod

import numpy as np

from attnprobe.contrasts.inference import MIN_UNITS
from attnprobe.errors import ContrastError

Heads = tuple[tuple[int, int], ...]
"""(layer, head) of each."""
SPLITS = ("auto", "task", "item")
"""How items are split: whole tasks, items within tasks, or by task where there are enough."""


def split_unit(tasks: Mapping[str, str], by: str) -> str:
    """Say how items are split: `auto` splits tasks where each half gets six.

    Args:
        tasks: Item → task.
        by: One of `SPLITS`.

    Returns:
        `task` or `item`.

    Raises:
        ContrastError: If there is no such way, or too little for it.
    """
    if by not in SPLITS:
        raise ContrastError("no such split", got=f"by='{by}'", expected=", ".join(SPLITS))
    n_tasks = len(set(tasks.values()))
    if by == "auto":
        by = "task" if n_tasks >= 2 * MIN_UNITS else "item"
    if by == "task" and n_tasks < 2 * MIN_UNITS:
        raise ContrastError(
            "too few tasks to choose heads on one half and test them on the other",
            got=f"{n_tasks} tasks with items in both styles",
            expected=f"at least {2 * MIN_UNITS}, {MIN_UNITS} in each half",
            fix="add task families, or split items within tasks (by='item', --by item), which "
            "speaks of these tasks only",
        )
    if by == "item" and len(tasks) < 2 * MIN_UNITS:
        raise ContrastError(
            "too few items to choose heads on one half and test them on the other",
            got=f"{len(tasks)} items in both styles", expected=f"at least {2 * MIN_UNITS}",
            fix="add items that are there in both styles",
        )  # fmt: skip
    return by


def split_items(
    tasks: Mapping[str, str], by: str, rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Split items into two halves at random.

    Whole tasks, for claims about new tasks: what is odd about a task then shows in one half only.
    Items within each task, for claims about these: the halves share whatever is odd about a task,
    so that a head chosen for it would be confirmed for it.

    Args:
        tasks: Item → task.
        by: `task` or `item`.
        rng: Where chance comes from.

    Returns:
        Items to choose heads on, and items to judge them on; each in the order given.
    """
    names = sorted(set(tasks.values()))
    if by == "task":
        chosen = set(rng.permutation(names)[: len(names) // 2].tolist())
        first = {item for item, task in tasks.items() if task in chosen}
    else:
        first = set()
        for name in rng.permutation(names):
            own = [item for item, task in tasks.items() if task == name]
            # odd ones go where there are fewer so far
            n_first = len(own) // 2 + (len(own) % 2 and 2 * len(first) < _n_before(tasks, first))
            first |= set(rng.permutation(own)[:n_first].tolist())
    return [item for item in tasks if item in first], [item for item in tasks if item not in first]


def _n_before(tasks: Mapping[str, str], first: set[str]) -> int:
    """Count the items of the tasks that were split already."""
    done = {tasks[item] for item in first}
    return sum(task in done for task in tasks.values())


def matched_heads(
    chosen: Heads,
    there: Mapping[int, Sequence[int]],
    n_draws: int,
    rng: np.random.Generator,
) -> list[Heads]:
    """Draw sets of other heads, as many of each layer as were chosen; no set twice.

    Args:
        chosen: What they are the control of.
        there: Layer → heads to draw from, chosen ones included.
        n_draws: How many sets; fewer where there are not so many different ones.
        rng: Where chance comes from.

    Returns:
        The sets.

    Raises:
        ContrastError: If a layer has too few other heads.
    """
    pools: dict[int, tuple[list[int], int]] = {}
    for layer in sorted({layer for layer, _ in chosen}):
        own = [head for at, head in chosen if at == layer]
        others = [int(head) for head in there[layer] if head not in own]
        if len(others) < len(own):
            raise ContrastError(
                "too few other heads to draw a control from", where=f"layer {layer}",
                got=f"{len(own)} heads chosen, {len(others)} others",
                expected="at least as many others as chosen ones in every layer",
                fix="choose fewer heads (--top)",
            )  # fmt: skip
        pools[layer] = others, len(own)
    n_different = prod(comb(len(others), count) for others, count in pools.values())
    if n_different <= n_draws:
        every = product(*(combinations(others, count) for others, count in pools.values()))
        return [_flat(dict(zip(pools, drawn, strict=True))) for drawn in every]
    found: dict[Heads, None] = {}
    while len(found) < n_draws:
        drawn = {
            layer: sorted(rng.choice(others, count, replace=False).tolist())
            for layer, (others, count) in pools.items()
        }
        found[_flat(drawn)] = None
    return list(found)


def _flat(by_layer: Mapping[int, Sequence[int]]) -> Heads:
    return tuple((layer, head) for layer, heads in by_layer.items() for head in heads)
