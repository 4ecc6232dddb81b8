"""What an edit of attention is: which edges to cut or outputs to replace, in one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool

from attnprobe.attention.calls import Place
from attnprobe.attention.passes import Layout
from attnprobe.errors import SelectionError

Numbers = int | Sequence[int] | None
"""Layers or heads; None for all."""
Reach = tuple[int, int | None]
"""Half-open range of positions, counted without padding; a stop of None is the end of the text,
however far it grows."""


class Edge(NamedTuple):
    """Attention from some queries to some keys."""

    layers: Numbers
    """Layers; None for all."""
    heads: Numbers
    """Query heads; None for all."""
    queries: Reach
    """The rows that shall not look."""
    keys: Reach
    """What they shall not look at."""


@dataclass(slots=True)
class Window:
    """Where one forward pass lies in the text."""

    layout: Layout
    """Where the tokens of each example lie, this pass included."""
    offset: int
    """Query columns of earlier passes."""
    n_virtual: int = 0
    """Keys before all others that are no tokens."""
    may_have_virtual: bool = False
    """Whether the first call may still show such keys."""
    cuts: dict[Any, torch.Tensor] = field(default_factory=dict)
    """What was worked out for a layer of this pass, for the layers that share it."""

    @property
    def n_queries(self) -> int:
        """Queries of the pass."""
        return self.layout.width - self.offset

    @property
    def n_keys(self) -> int:
        """Key columns there are so far."""
        return self.layout.width + self.n_virtual

    def notice(self, n_keys: int) -> None:
        """Notice keys that are no tokens, at the first call of the first pass without a cache."""
        if self.may_have_virtual:
            self.may_have_virtual = False
            self.n_virtual = max(0, n_keys - self.layout.width)

    def columns(self, reach: Reach, example: int) -> tuple[int, int]:
        """Turn positions of an example into columns of the text as laid out so far."""
        first, length = int(self.layout.first[example]), int(self.layout.length[example])
        start, stop = reach
        return first + start, first + (length if stop is None else min(stop, length))

    def rows(self, reach: Reach, example: int) -> slice:
        """Return which queries of this pass a range holds."""
        start, stop = self.columns(reach, example)
        return _inside(start - self.offset, stop - self.offset, self.n_queries)

    def keys(self, reach: Reach, example: int, n_keys: int) -> slice:
        """Return which of a call's keys a range holds: a sliding cache gives the last ones only."""
        start, stop = self.columns(reach, example)
        shift = self.n_virtual - max(0, self.n_keys - n_keys)
        return _inside(start + shift, stop + shift, n_keys)


def _inside(start: int, stop: int, length: int) -> slice:
    return slice(min(max(start, 0), length), min(max(stop, 0), length))


@runtime_checkable
class Editor(Protocol):
    """Decides what is changed in a layer's attention."""

    @property
    def layers(self) -> frozenset[int] | None:
        """The layers it changes; None for all."""
        ...

    @property
    def needs_outputs(self) -> bool:
        """Whether it must see what the heads give, and not only where they look."""
        ...

    def check(self, window: Window) -> None:
        """Refuse a text that is too short for what shall be changed, once its length is known."""
        ...

    def cut(self, place: Place, n_heads: int, n_keys: int, window: Window) -> torch.Tensor | None:
        """Return the edges to cut, True in [batch, head or 1, query, key]; None for none."""
        ...

    def replace(self, place: Place, output: torch.Tensor, window: Window) -> torch.Tensor | None:
        """Return what the model goes on with instead of [batch, query, head, size]; None: as is."""
        ...


def without(
    mask: torch.Tensor | None,
    causal: bool,
    cut: Bool[torch.Tensor, "batch head query key"],
    additive: torch.dtype | None = None,
) -> torch.Tensor:
    """Put cut edges into a mask: −∞ where it is added to the scores, False where it is boolean.

    Args:
        mask: Boolean (True = visible) or additive, [batch or 1, head or 1, query or 1, key or
            more]; None: `causal`.
        causal: Whether, without a mask, a query sees only the keys up to itself.
        cut: The edges to cut.
        additive: Number format of the mask, where it must be one to add.

    Returns:
        The mask without them, [batch, head or 1, query, key].
    """
    n_queries, n_keys = cut.shape[-2:]
    if mask is None:
        sees = torch.ones(n_queries, n_keys, dtype=torch.bool, device=cut.device)
        mask = (sees.tril() if causal and n_queries > 1 else sees)[None, None]
    mask = mask[..., :n_keys]
    if mask.dtype != torch.bool:
        return mask.masked_fill(cut, -torch.inf)
    kept = mask & ~cut
    if additive is None:
        return kept
    lowest = torch.zeros_like(kept, dtype=additive).masked_fill_(~mask, torch.finfo(additive).min)
    return lowest.masked_fill_(cut, -torch.inf)


def check_rows_left(
    mask: torch.Tensor | None,
    causal: bool,
    cut: Bool[torch.Tensor, "batch head query key"],
    place: Place,
    window: Window,
) -> None:
    """Refuse to leave a row without any key: its softmax would be no probabilities.

    Raises:
        SelectionError: Naming the row.
    """
    touched = cut.any(-1)
    left = without(mask, causal, cut)
    if left.dtype != torch.bool:
        left = left > torch.finfo(left.dtype).min / 2
    empty = (touched & ~left.any(-1)).nonzero()
    if len(empty):
        example, head, row = empty[0].tolist()
        position = window.offset + row - int(window.layout.first[example])
        heads = "every head" if cut.shape[1] == 1 else f"head {head}"
        raise SelectionError(
            "a row would be left without any key to look at",
            where=f"layer {place[1]}, {heads}, example {example}, query {position}",
            got="every key that it can see is knocked out",
            fix="leave it a key, such as the first token or the query itself",
        )
