"""The items of a run that are shown: those that have a record in each of the styles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Pair:
    """One item, with the records it has in each of the styles that are shown (one style or two)."""

    item: str
    records: tuple[tuple[str, ...], ...]
    """Ids by style; more than one where an item was sampled several times."""

    @property
    def first(self) -> tuple[str, ...]:
        """The first record in each style."""
        return tuple(ids[0] for ids in self.records)

    @property
    def ids(self) -> tuple[str, ...]:
        """Every record."""
        return tuple(name for ids in self.records for name in ids)


def paired(table: Any, styles: Sequence[str]) -> tuple[Pair, ...]:
    """List the items that have every style, in the order of the run.

    Args:
        table: `Run.records`.
        styles: One style or two.
    """
    found: dict[str, tuple[list[str], ...]] = {}
    for record_id, item, style in zip(table.index, table["item"], table["style"], strict=True):
        if style in styles:
            lists = found.setdefault(str(item), tuple([] for _ in styles))
            lists[list(styles).index(style)].append(str(record_id))
    return tuple(
        Pair(item, tuple(map(tuple, lists))) for item, lists in found.items() if all(lists)
    )


def spread(pairs: Sequence[Pair], count: int) -> tuple[Pair, ...]:
    """Choose some of many evenly, first and last among them."""
    if len(pairs) <= count:
        return tuple(pairs)
    chosen = np.unique(np.linspace(0, len(pairs) - 1, count).round().astype(int))
    return tuple(pairs[place] for place in chosen)
