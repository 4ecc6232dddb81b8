"""Where the tokens of a batch lie, and which rows one forward pass must give."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int

from attnprobe.attention.calls import Call, WeighedCall
from attnprobe.attention.certificate import N_PROBES
from attnprobe.attention.rows import count_visible, visible_keys
from attnprobe.errors import ModelError

Positions = Sequence[Sequence[int]]
Ranges = Sequence[Sequence[tuple[int, int]]]


@dataclass(slots=True)
class Layout:
    """Where the real tokens of each example lie in a padded batch, which may grow."""

    first: Int[torch.Tensor, " batch"]
    """Column of each example's first token."""
    length: Int[torch.Tensor, " batch"]
    """Real tokens of each example."""
    width: int
    """Columns of the batch."""

    def grow(self, n_columns: int) -> None:
        """Add columns, real for every example, as generation does."""
        self.length = self.length + n_columns
        self.width += n_columns

    @property
    def pads(self) -> Bool[torch.Tensor, "batch column"]:
        """True where a column is padding."""
        at = torch.arange(self.width, device=self.first.device)
        return (at < self.first[:, None]) | (at >= (self.first + self.length)[:, None])

    def lengths(self) -> list[int]:
        """Real tokens of each example, as plain numbers."""
        return self.length.tolist()


def layout_of(mask: Any, batch: int, width: int, device: torch.device) -> Layout:
    """Read where the tokens lie from whatever mask a model was given.

    Args:
        mask: None, [batch, column], the [batch, 1, query, key] that generation prepares for a
            static cache (boolean or additive), or a dict of those. Remote code's own masks may be
            boolean with True for masked.
        batch: Examples.
        width: Columns.
        device: Of the inputs.

    Returns:
        The layout.

    Raises:
        ModelError: If the mask has another shape, or padding in the midst of an example.
    """
    if isinstance(mask, dict):
        mask = next(iter(mask.values()), None)
    if mask is None:
        real = torch.ones(batch, width, dtype=torch.bool, device=device)
    elif mask.ndim in (3, 4):
        real = _own_columns(mask)[:, :width]
    else:
        real = mask.bool()
    if real.shape != (batch, width):
        raise ModelError(
            "the attention mask does not match the input ids", got=str(tuple(real.shape)),
            expected=str((batch, width)),
        )  # fmt: skip
    layout = Layout(real.int().argmax(1), real.sum(1), width)
    if not torch.equal(~layout.pads, real) or not bool(layout.length.all()):
        raise ModelError(
            "an example has padding in its midst, or no tokens at all",
            expected="real tokens in one piece, padding at one side",
        )
    return layout


def without_virtual(mask: Any, n_virtual: int, n_queries: int) -> Any:
    """Leave out the columns that a first pass's mask has for keys before the text, if it has any.

    A model that puts its prefix there itself is given a mask of the text alone.
    """
    if isinstance(mask, dict):
        return {name: without_virtual(one, n_virtual, n_queries) for name, one in mask.items()}
    if mask is None or mask.shape[-1] < n_virtual + n_queries:
        return mask
    return mask[..., n_virtual:]


def _own_columns(mask: torch.Tensor) -> torch.Tensor:
    """Read off a mask of queries and keys which columns any query sees.

    A token sees itself, and a text never sees more of what follows than of what came before; if a
    boolean mask says otherwise, it says True for masked. (Where all of a text is seen by all of it,
    as ChatGLM-6B's prompts are, only the longest text of a batch tells.)
    """
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    if mask.dtype == torch.bool:
        sees_itself = visible.diagonal(dim1=-2, dim2=-1).any(-1)
        if not sees_itself.all() or visible.tril(-1).sum() < visible.triu(1).sum():
            visible = ~visible
    return visible.flatten(1, -2).any(1)


@dataclass(slots=True)
class PassPlan:
    """What one forward pass must give for one kind of attention; the same for all layers.

    Columns are counted from the pass's first query.
    """

    offset: int
    """Query columns that earlier passes covered."""
    n_queries: int
    n_keys: int
    """Key columns there are so far."""
    columns: Int[torch.Tensor, "batch row"]
    """The rows to compute: the chosen ones, then probes that are not among them."""
    n_chosen: int
    """How many of `columns` were asked for."""
    slots: Int[torch.Tensor, "batch chosen"]
    """Which of the example's queries each chosen row is."""
    real: Bool[torch.Tensor, "batch chosen"]
    """False where an example has fewer chosen rows than the most."""
    probes: Int[torch.Tensor, "batch probe"]
    """Which of `columns` are held against the model's output."""
    edges: Int[torch.Tensor, "batch edge"]
    """Span edges, as columns of the batch."""
    pads: Bool[torch.Tensor, "batch query"]
    """True where a query is padding."""
    first: Int[torch.Tensor, " batch"]
    """Column of each example's first token."""
    _seen: list[tuple[torch.Tensor | None, bool, int, torch.Tensor]] = field(default_factory=list)
    _counted: list[tuple[torch.Tensor | None, bool, int, torch.Tensor]] = field(
        default_factory=list
    )

    def add_virtual(self, n_virtual: int) -> None:
        """Put columns before all others, for keys that are no tokens (P-Tuning v2).

        Spans reach them by negative positions: −1 is the last of them.
        """
        is_virtual = self.edges < self.first[:, None]
        self.edges = self.edges + n_virtual - is_virtual * self.first[:, None]
        self.n_keys += n_virtual

    def first_key(self, call: Call) -> int:
        """Return the column of a call's first key: a sliding cache gives the last keys only."""
        return max(0, self.n_keys - call.n_keys)

    def local_edges(self, call: Call) -> Int[torch.Tensor, "batch edge"]:
        """Return span edges counted from the call's first key, cut to the keys there are."""
        return (self.edges - self.first_key(call)).clamp(0, call.n_keys)

    def visible(self, call: Call) -> Bool[torch.Tensor, "batch chosen key"]:
        """Return which keys the chosen rows see; layers that share a mask share the answer."""
        return _shared(
            self._seen, call, lambda: visible_keys(call, self.columns[:, : self.n_chosen])
        )

    def counts(self, call: Call) -> Int[torch.Tensor, "batch query span"]:
        """Return how many keys of each span every query sees, shared likewise."""
        return _shared(self._counted, call, lambda: count_visible(call, self.local_edges(call)))


def _shared(known: list[Any], call: Call, compute: Any) -> torch.Tensor:
    if isinstance(call, WeighedCall):
        answer = compute()
        same = (a for *_, a in known if a.shape == answer.shape and torch.equal(a, answer))
        if (first := next(same, None)) is not None:
            return first
        known.append((None, False, call.n_keys, answer))
        return answer
    for mask, causal, n_keys, answer in known:
        if mask is call.mask and causal == call.causal and n_keys == call.n_keys:
            return answer
    answer = compute()
    known.append((call.mask, call.causal, call.n_keys, answer))
    return answer


def plan_pass(
    queries: Layout,
    keys: Layout,
    offset: int,
    chosen: Positions | None,
    spans: Ranges | None,
) -> PassPlan:
    """Plan one forward pass over the columns from `offset` on.

    Args:
        queries: Where the query tokens lie, this pass included.
        keys: Where the key tokens lie (the same, but for cross attention).
        offset: Query columns of earlier passes.
        chosen: Positions of the rows to keep, per example; None for every column.
        spans: Key ranges, per example; None for none.

    Returns:
        The plan.
    """
    n_queries = queries.width - offset
    device = queries.first.device
    pads = queries.pads[:, offset:]
    if chosen is None:
        columns = torch.arange(n_queries, device=device).expand(len(pads), -1)
        slots, real = columns + offset, ~pads
        n_chosen = n_queries
        real_columns = [row.nonzero()[:, 0].tolist() or [n_queries - 1] for row in real]
        probes = [[row[at] for at in _spread(len(row))] for row in real_columns]
    else:
        firsts = queries.first.tolist()
        inside = [
            [(slot, first + position - offset) for slot, position in enumerate(row)
             if 0 <= first + position - offset < n_queries]
            for row, first in zip(chosen, firsts, strict=True)
        ]  # fmt: skip
        n_chosen = max(len(row) for row in inside)
        slots = _filled([[slot for slot, _ in row] for row in inside], n_chosen, device)
        real = _filled([[1] * len(row) for row in inside], n_chosen, device).bool()
        wanted = [[column for _, column in row] for row in inside]
        probes = [_spread(len(row)) for row in wanted]
        if min(len(row) for row in wanted) < N_PROBES:
            real_columns = [row.nonzero()[:, 0].tolist() or [n_queries - 1] for row in ~pads]
            extra = [[row[at] for at in _spread(len(row))] for row in real_columns]
            wanted = [row + [0] * (n_chosen - len(row)) + more for row, more in
                      zip(wanted, extra, strict=True)]  # fmt: skip
            probes = [list(range(n_chosen, n_chosen + N_PROBES))] * len(wanted)
        columns = _filled(wanted, max(len(row) for row in wanted), device)
    return PassPlan(
        offset=offset,
        n_queries=n_queries,
        n_keys=keys.width,
        columns=columns,
        n_chosen=n_chosen,
        slots=slots,
        real=real,
        probes=torch.tensor(probes, device=device),
        edges=_edges(spans, queries),
        pads=pads,
        first=queries.first,
    )


def _edges(spans: Ranges | None, layout: Layout) -> Int[torch.Tensor, "batch edge"]:
    """Turn spans into columns; a span that an example does not have is empty."""
    rows = [[edge for span in row for edge in span] for row in spans or [[]] * len(layout.first)]
    most = max(len(row) for row in rows)
    return _filled(rows, most, layout.first.device) + layout.first[:, None]


def _filled(
    rows: Sequence[Sequence[int]], width: int, device: torch.device
) -> Int[torch.Tensor, "batch entry"]:
    """Turn ragged rows into a tensor, 0 where a row is shorter."""
    full = [[*row, *[0] * (width - len(row))] for row in rows]
    return torch.tensor(full, dtype=torch.long, device=device).view(len(rows), width)


def _spread(length: int) -> list[int]:
    """Spread the probes over a range, the last of it among them, its start not."""
    return [round(length - 1 - i * (length - 1) / N_PROBES) for i in range(N_PROBES)]
