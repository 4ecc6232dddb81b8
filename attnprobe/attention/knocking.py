"""`knockout`: attention edges cut before the softmax."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from attnprobe.attention.calls import Place
from attnprobe.attention.editing import edited
from attnprobe.attention.edits import Edge, Numbers, Reach, Window
from attnprobe.errors import SelectionError

Edges = Sequence[Edge | tuple[Numbers, Numbers, Reach, Reach]]
"""Each (layers, heads, range of queries, range of keys)."""


@contextmanager
def knockout(
    model: torch.nn.Module, edges: Edges = (), *, per_example: Sequence[Edges] | None = None
) -> Iterator[None]:
    """Cut attention edges of a model inside the block: −∞ before the softmax.

    What a row loses, its other keys gain: the row still sums to 1 (Geva et al. 2023, "Dissecting
    recall of factual associations"). A knockout cuts the direct path only. What a query takes from
    the keys by way of other tokens, or in layers that are not named, goes on; and a model that
    never met such rows may fail for that reason alone, so hold it against cutting as many other
    edges.

    It works on every model that can be recorded, in single passes, batches and `generate`, alone
    or together with `record`, which then shows the attention without the edges. Knockouts add up
    when nested. The model leaves as it came, also after an exception.

    Args:
        model: A model that `record` can record.
        edges: `(layers, heads, queries, keys)`: numbers or None for all of them, and half-open
            ranges of positions, counted without padding. A stop of None is the end of the text,
            generated tokens included. Position i as a query gives what is predicted at i + 1.
        per_example: Instead, edges for each example of a batch.

    Raises:
        SelectionError: If an edge is outside of the model or the text, or if a row would be left
            without any key.
        ModelError: If the model's attention cannot be reached.
    """
    if per_example is not None and edges:
        raise SelectionError("edges are given twice", where="knockout", fix="edges or per_example")
    given = [edges] if per_example is None else per_example
    checked = [[_checked(Edge(*edge)) for edge in some] for some in given]
    if not any(checked):
        yield
        return
    with edited(model, _Knockout(checked, is_per_example=per_example is not None)):
        yield


class _Knockout:
    """Cuts edges."""

    needs_outputs = False

    def __init__(self, edges: Sequence[Sequence[Edge]], *, is_per_example: bool) -> None:
        self._edges, self._is_per_example = edges, is_per_example
        every = [edge for some in edges for edge in some]
        self._by_head = any(edge.heads is not None for edge in every)
        named = frozenset(layer for edge in every for layer in _numbers(edge.layers) or ())
        self.layers = None if any(edge.layers is None for edge in every) else named

    def check(self, window: Window) -> None:
        """Refuse edges outside of a text whose length is known.

        Raises:
            SelectionError: Naming the edge.
        """
        for example, length in enumerate(window.layout.lengths()):
            for edge in self._of(example, window):
                for what, (start, stop) in (("queries", edge.queries), ("keys", edge.keys)):
                    if start >= length or (stop is not None and stop > length):
                        raise SelectionError(
                            f"the {what} of an edge lie outside the text",
                            where=f"example {example}", got=f"{start} to {stop}",
                            expected=f"[start, stop) within 0 to {length}",
                        )  # fmt: skip

    def cut(self, place: Place, n_heads: int, n_keys: int, window: Window) -> torch.Tensor | None:
        """Return the edges to cut; layers that cut the same share the answer."""
        batch = len(window.layout.first)
        chosen = [
            [edge for edge in self._of(example, window) if _holds(edge.layers, place[1])]
            for example in range(batch)
        ]
        key = n_heads, n_keys, tuple(tuple(some) for some in chosen)
        if key not in window.cuts:
            window.cuts[key] = self._built(chosen, n_heads, n_keys, window)
        cut = window.cuts[key]
        return cut if cut.numel() else None

    def replace(self, place: Place, output: torch.Tensor, window: Window) -> torch.Tensor | None:
        """Replace nothing."""

    def _built(
        self, chosen: Sequence[Sequence[Edge]], n_heads: int, n_keys: int, window: Window
    ) -> torch.Tensor:
        shape = (len(chosen), n_heads if self._by_head else 1, window.n_queries, n_keys)
        cut = torch.zeros(shape, dtype=torch.bool)
        for example, edges in enumerate(chosen):
            for edge in edges:
                heads = _numbers(edge.heads)
                if heads is not None and max(heads) >= n_heads:
                    raise SelectionError(
                        "the model has no such head", where="knockout", got=max(heads),
                        expected=f"0 to {n_heads - 1}",
                    )  # fmt: skip
                rows = window.rows(edge.queries, example)
                keys = window.keys(edge.keys, example, n_keys)
                for head in range(shape[1]) if heads is None else heads:
                    cut[example, head, rows, keys] = True
        nothing = not bool(cut.any())
        return cut[:0] if nothing else cut.to(window.layout.first.device)

    def _of(self, example: int, window: Window) -> Sequence[Edge]:
        if not self._is_per_example:
            return self._edges[0]
        batch = len(window.layout.first)
        if len(self._edges) != batch:
            raise SelectionError(
                "edges are given per example", where="knockout", got=f"{len(self._edges)} of them",
                expected=f"{batch}, as many as the batch has examples",
            )  # fmt: skip
        return self._edges[example]


def _numbers(numbers: Numbers) -> tuple[int, ...] | None:
    if numbers is None:
        return None
    return (numbers,) if isinstance(numbers, int) else tuple(numbers)


def _holds(numbers: Numbers, number: int) -> bool:
    chosen = _numbers(numbers)
    return chosen is None or number in chosen


def _checked(edge: Edge) -> Edge:
    """Check what can be checked without a model.

    Raises:
        SelectionError: If a range is empty, or there is no layer or head.
    """
    for what, (start, stop) in (("queries", edge.queries), ("keys", edge.keys)):
        if start < 0 or (stop is not None and stop <= start):
            raise SelectionError(
                f"the {what} of an edge are no range", where="knockout", got=f"{start} to {stop}",
                expected="[start, stop) with 0 ≤ start < stop, or a stop of None",
            )  # fmt: skip
    for what, numbers in (("layers", _numbers(edge.layers)), ("heads", _numbers(edge.heads))):
        if numbers is not None and (not numbers or min(numbers) < 0):
            raise SelectionError(
                f"the {what} of an edge are none", where="knockout", got=str(numbers),
                expected="numbers from 0 on, or None for all",
            )  # fmt: skip
    return Edge(_numbers(edge.layers), _numbers(edge.heads), edge.queries, edge.keys)
