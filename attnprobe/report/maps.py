"""Which token maps a report holds: what shows the most comes first, as far as the size allows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from attnprobe.report.findings import Notice
from attnprobe.report.page import embedded
from attnprobe.report.pairs import spread
from attnprobe.report.payload import Payload
from attnprobe.report.rows import attention_rows, has_rows, layer_rows


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of a run a report holds. Sizes are of the elements in the page, in bytes."""

    tables: int = 3_000_000
    """For tables and texts."""
    maps: int = 7_000_000
    """For token maps: attention and attributions."""
    mean_pairs: int = 100
    """Items whose maps are there as the mean over heads."""
    every_pairs: int = 5
    """Items whose maps are there for every head."""
    strong_heads: int = 8
    """Heads whose best examples are there."""
    examples: int = 3
    """Examples of each of them."""


MEAN_SHARE, CREDIT_SHARE, EXAMPLE_SHARE = 0.45, 0.6, 0.75
"""Share of the maps' budget that may be used up after the means, the attributions, and the
examples; what is left is for every head of a few items."""


@dataclass(slots=True)
class Maps:
    """Maps as elements of the page, and where each lies."""

    elements: dict[str, str] = field(default_factory=dict)
    index: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    """record id → `attention` or `attribution` → head (`mean`, `3.5`) or method → number."""
    size: int = 0

    def add(
        self, kind: str, record_id: str, name: str, piece: Callable[[], Any], limit: float
    ) -> bool:
        """Add a map unless it is there; tell whether there is room for another."""
        there = self.index.get(record_id, {}).get(kind, {})
        if name in there:
            return True
        number = len(self.elements)
        text = embedded(f"map-{number}", piece(), packed=False)
        if self.size + len(text) > limit:
            return False
        self.elements[f"map-{number}"] = text
        self.index.setdefault(record_id, {}).setdefault(kind, {})[name] = number
        self.size += len(text)
        return True

    def count(self, kind: str, name: str | None = None) -> int:
        """Count the maps of a kind, or the records that have one of that name."""
        found = [there[kind] for there in self.index.values() if kind in there]
        return sum(name in names if name else len(names) for names in found)

    def full(self, n_heads: int) -> int:
        """Count the records that have the map of every head."""
        found = (there.get("attention", {}) for there in self.index.values())
        return sum(len(names.keys() - {"mean"}) == n_heads for names in found)


def strongest(payload: Payload, count: int) -> list[tuple[int, int]]:
    """List the heads that show the contrast most: smallest p, then the largest effect."""
    grid, found = payload.grid, payload.findings.contrast
    if grid is None:
        return []
    difference = grid.difference
    size = np.abs(difference if difference is not None else grid.means()[0])
    p = np.full(size.shape, np.nan)
    if found is not None:
        effects = found.effects.transpose("layer", "head")
        p, size = effects["p_adjusted"].values, np.abs(effects["g_z"].values)
    order = np.lexsort((-np.nan_to_num(size, nan=-1.0).ravel(), np.nan_to_num(p, nan=2.0).ravel()))
    rows, columns = np.unravel_index(order[:count], size.shape)
    return [
        (grid.layers[row], grid.heads[column]) for row, column in zip(rows, columns, strict=True)
    ]


def choose_maps(
    payload: Payload, budget: Budget, on_progress: Callable[[int, int], None]
) -> tuple[Maps, list[Notice]]:
    """Collect token maps, the most telling first, until the budget is used up.

    Means over heads come first, then attributions, then the best examples of the strongest heads,
    then every head of a few items.

    Returns:
        The maps, and what had to be left out.
    """
    maps, run = Maps(), payload.run
    examples = list(_examples(payload, budget))
    by_item = {pair.item: pair for pair in payload.pairs}
    first = list(dict.fromkeys(item for item, _, _ in examples))
    order = [by_item[item] for item in first] + list(spread(payload.pairs, budget.mean_pairs))
    pairs = list(dict.fromkeys(order))[: budget.mean_pairs]
    means = [name for pair in pairs for name in pair.first]
    limit = MEAN_SHARE * budget.maps
    for done, name in enumerate(means if has_rows(run) else (), 1):
        on_progress(done, len(means))
        if not maps.add("attention", name, "mean", partial(attention_rows, run, name), limit):
            break
    _add_attributions(maps, payload, means, CREDIT_SHARE * budget.maps)
    if has_rows(run):
        wanted = [(name, *head) for _, head, names in examples for name in names]
        _add_heads(maps, run, wanted, EXAMPLE_SHARE * budget.maps)
        every = [name for pair in pairs[: budget.every_pairs] for name in pair.first]
        _add_every(maps, run, every, float(budget.maps))
    return maps, _left_out(maps, payload)


def _examples(
    payload: Payload, budget: Budget
) -> Iterator[tuple[str, tuple[int, int], Sequence[str]]]:
    """Yield item, head and records of the examples, the best of every strong head first."""
    heads = strongest(payload, budget.strong_heads)
    lists = [
        payload.grid.examples(*head, budget.examples) if payload.grid else [] for head in heads
    ]
    for place in range(budget.examples):
        for head, found in zip(heads, lists, strict=True):
            if place < len(found):
                yield found[place]["item"], head, found[place]["records"]


def _add_attributions(maps: Maps, payload: Payload, records: Sequence[str], limit: float) -> None:
    for name in records:
        for method in payload.run.attributions:
            if not maps.add(
                "attribution", name, method, partial(payload.attribution, name, method), limit
            ):
                return


def _add_heads(maps: Maps, run: Any, wanted: Sequence[tuple[str, int, int]], limit: float) -> None:
    for name, layer, head in wanted:
        if not maps.add(
            "attention", name, f"{layer}.{head}",
            partial(attention_rows, run, name, layer, head), limit,
        ):  # fmt: skip
            return


def _add_every(maps: Maps, run: Any, names: Sequence[str], limit: float) -> None:
    for name in names:
        for layer in run.layers:
            for head, piece in layer_rows(run, name, layer).items():
                if not maps.add("attention", name, f"{layer}.{head}", partial(dict, piece), limit):
                    return


def _left_out(maps: Maps, payload: Payload) -> list[Notice]:
    run, n_records = payload.run, len(payload.run.records)
    n_heads = len(run.layers) * len(run.heads)
    notices = []
    full, mean = maps.full(n_heads), maps.count("attention", "mean")
    if has_rows(run) and full < n_records:
        some = maps.count("attention") - mean - full * n_heads
        counts = {"mean": mean, "records": n_records, "every": full, "some": some}
        notices.append(Notice("thinned_maps", counts))
    n_credits = n_records * len(run.attributions)
    if maps.count("attribution") < n_credits:
        counts = {"shown": maps.count("attribution"), "all": n_credits}
        notices.append(Notice("thinned_attributions", counts))
    return notices
