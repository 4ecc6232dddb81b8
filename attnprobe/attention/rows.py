"""Exact attention rows of chosen queries, and sums over key spans, on the model's device."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int

from attnprobe.attention.compat import AttentionCall


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the real tokens of each example lie in a padded batch."""

    first: Int[torch.Tensor, " batch"]
    """Column of each example's first token."""
    length: Int[torch.Tensor, " batch"]
    """Real tokens of each example."""
    width: int
    """Columns of the batch."""

    def columns(
        self, positions: Sequence[Sequence[int]]
    ) -> tuple[Int[torch.Tensor, "batch query"], Bool[torch.Tensor, "batch query"]]:
        """Turn unpadded positions into columns.

        Args:
            positions: Per example, ragged.

        Returns:
            Columns (0 where an example has fewer positions) and which of them are real.
        """
        device = self.first.device
        most = max(len(row) for row in positions)
        columns = torch.zeros(len(positions), most, dtype=torch.long, device=device)
        real = torch.zeros(len(positions), most, dtype=torch.bool, device=device)
        for index, row in enumerate(positions):
            columns[index, : len(row)] = torch.as_tensor(list(row), dtype=torch.long, device=device)
            real[index, : len(row)] = True
        return (columns + self.first[:, None]) * real, real


def visible_keys(
    call: AttentionCall, columns: Int[torch.Tensor, "batch query"]
) -> Bool[torch.Tensor, "batch any query key"]:
    """Read off the real mask which keys each chosen query can see.

    Args:
        call: The attention call; the mask may be boolean, additive or absent.
        columns: Chosen queries.

    Returns:
        True where visible; the second dim is 1, or the heads if the mask differs between them.
    """
    n_keys = call.key.shape[2]
    if call.mask is None:
        keys = torch.arange(n_keys, device=columns.device)
        if not call.causal or call.query.shape[2] == 1:
            return torch.ones(*columns.shape, n_keys, dtype=torch.bool, device=columns.device)[
                :, None
            ]
        return (keys <= columns[..., None])[:, None]
    mask = call.mask[..., :n_keys]
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return pick_queries(visible.expand(len(columns), -1, -1, -1), columns)


def count_visible(
    call: AttentionCall,
    edges: Int[torch.Tensor, "batch edge"],
) -> Int[torch.Tensor, "batch query span"]:
    """Count the keys of each span that the mask leaves visible, for every query of the batch.

    Args:
        call: The attention call.
        edges: Start and stop columns of each span, one pair after the other.

    Returns:
        Counts, in the layout of the batch (rows of pads mean nothing).
    """
    start, stop = edges[:, None, 0::2], edges[:, None, 1::2]
    queries = torch.arange(call.query.shape[2], device=edges.device)
    if call.mask is None:
        reach = queries + 1 if call.causal else queries * 0 + call.key.shape[2]
        return (reach[None, :, None].minimum(stop) - start).clamp_min(0)
    visible = visible_keys(call, queries.expand(len(edges), -1))[:, 0]
    running = torch.nn.functional.pad(visible.int().cumsum(-1), (1, 0))
    at_edges = running.gather(-1, edges[:, None].expand(-1, len(queries), -1))
    return at_edges[..., 1::2] - at_edges[..., 0::2]


def softmax_rows(
    call: AttentionCall,
    columns: Int[torch.Tensor, "batch query"],
    visible: Bool[torch.Tensor, "batch any query key"],
) -> Float[torch.Tensor, "batch head query key"]:
    """Compute softmax(q Kᵀ · scaling) for chosen queries, in float32.

    Args:
        call: The attention call.
        columns: Chosen queries.
        visible: Keys they can see.

    Returns:
        Probabilities; invisible keys are exactly 0. A query that sees nothing is all NaN.
    """
    query = pick_queries(call.query, columns).float()
    batch, heads, chosen, size = query.shape
    kv_heads = call.key.shape[1]
    packed = query.reshape(batch, kv_heads, heads // kv_heads * chosen, size) * call.scaling
    scores = (packed @ call.key.float().transpose(2, 3)).view(batch, heads, chosen, -1)
    if call.mask is not None and call.mask.dtype != torch.bool:
        additive = call.mask[..., : scores.shape[-1]].expand(batch, -1, -1, -1)
        scores = scores + pick_queries(additive, columns).float()
    scores.masked_fill_(~visible, -torch.inf)
    return scores.softmax(-1)


def rows_times_values(
    weights: Float[torch.Tensor, "batch head query key"], call: AttentionCall
) -> Float[torch.Tensor, "batch head query size"]:
    """Multiply rows with the call's values, each query head with its KV head's."""
    batch, heads, chosen, n_keys = weights.shape
    kv_heads = call.value.shape[1]
    packed = weights.reshape(batch, kv_heads, heads // kv_heads * chosen, n_keys)
    return (packed @ call.value.float()).view(batch, heads, chosen, -1)


def sum_over_spans(
    weights: Float[torch.Tensor, "batch head query key"],
    edges: Int[torch.Tensor, "batch edge"],
) -> Float[torch.Tensor, "batch head query span"]:
    """Sum rows over spans, by differences of the running sum.

    Args:
        weights: Rows.
        edges: Start and stop columns of each span, one pair after the other.

    Returns:
        Mass per span.
    """
    running = torch.nn.functional.pad(weights.double().cumsum(-1), (1, 0))
    at_edges = running.gather(-1, edges[:, None, None].expand(*weights.shape[:3], -1))
    return (at_edges[..., 1::2] - at_edges[..., 0::2]).float()


def indicator_values(
    call: AttentionCall, edges: Int[torch.Tensor, "batch edge"]
) -> list[Float[torch.Tensor, "batch key size"]]:
    """Build values that make the kernel return span masses instead of contexts.

    One column per span, 1 at its keys. A kernel is fastest at exactly the model's own value size,
    so spans beyond it go into further passes.

    Args:
        call: The attention call, for its value size, dtype and device.
        edges: Start and stop columns of each span, one pair after the other.

    Returns:
        One tensor of values per pass.
    """
    keys = torch.arange(call.key.shape[2], device=edges.device)
    start, stop = edges[:, None, 0::2], edges[:, None, 1::2]
    member = (keys[None, :, None] >= start) & (keys[None, :, None] < stop)
    size = call.value.shape[-1]
    passes = member.to(call.value.dtype).split(size, dim=-1)
    return [torch.nn.functional.pad(part, (0, size - part.shape[-1])) for part in passes]


def pooled_masses(
    call: AttentionCall, edges: Int[torch.Tensor, "batch edge"]
) -> Float[torch.Tensor, "batch head query span"]:
    """Get the mass on every span for every query from the model's own kernel.

    The kernel computes softmax(q Kᵀ) V without ever holding the weights; with span indicators for
    V, its output is the masses.

    Args:
        call: The attention call.
        edges: Start and stop columns of each span, one pair after the other.

    Returns:
        Masses, in the layout of the batch (rows of pads mean nothing).
    """
    kv_heads = call.value.shape[1]
    parts = [
        call.run(values[:, None].expand(-1, kv_heads, -1, -1)).transpose(1, 2).float()
        for values in indicator_values(call, edges)
    ]
    return torch.cat(parts, dim=-1)[..., : edges.shape[1] // 2]


def pick_queries(tensor: torch.Tensor, columns: Int[torch.Tensor, "batch query"]) -> torch.Tensor:
    """Pick query rows per example: [batch, head, query, …] at `columns` [batch, chosen query]."""
    if len(columns) == 1:
        return tensor[:, :, columns[0]]
    examples = torch.arange(len(columns), device=columns.device)[:, None]
    return tensor[examples, :, columns].transpose(1, 2)
