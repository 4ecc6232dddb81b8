"""Exact attention rows of chosen queries, and sums over key spans, on the model's device."""

import torch
from jaxtyping import Bool, Float, Int

from attnprobe.attention.compat import AttentionCall

BLOCK_WEIGHTS = 2**25
"""Weights held at once where rows are computed only to be summed (128 MB in float32)."""

Columns = Int[torch.Tensor, "batch query"]
Edges = Int[torch.Tensor, "batch edge"]
"""Start and stop of each span, one pair after the other."""


def visible_keys(call: AttentionCall, columns: Columns) -> Bool[torch.Tensor, "batch query key"]:
    """Read off the real mask which keys each chosen query can see.

    Args:
        call: The attention call; the mask may be boolean, additive or absent.
        columns: Chosen queries, counted from the call's first.

    Returns:
        True where visible, to any head.
    """
    n_queries, n_keys = call.query.shape[2], call.key.shape[2]
    if call.mask is None:
        keys = torch.arange(n_keys, device=columns.device)
        if not call.causal or n_queries == 1:
            return (keys >= 0).expand(*columns.shape, n_keys)
        return keys <= columns[..., None]  # SDPA's own triangle begins at the upper left
    return pick_queries(_as_boolean(call), columns).any(1)


def count_visible(call: AttentionCall, edges: Edges) -> Int[torch.Tensor, "batch query span"]:
    """Count the keys of each span that the mask leaves visible, for every query of the call.

    Args:
        call: The attention call.
        edges: Spans, counted from the call's first key.

    Returns:
        Counts, in the layout of the batch (rows of pads mean nothing).
    """
    start, stop = edges[:, None, 0::2], edges[:, None, 1::2]
    n_queries, n_keys = call.query.shape[2], call.key.shape[2]
    queries = torch.arange(n_queries, device=edges.device)
    if call.mask is None:
        sees_all = not call.causal or n_queries == 1
        reach = queries * 0 + n_keys if sees_all else queries + 1
        return (reach[None, :, None].minimum(stop) - start).clamp_min(0)
    visible = _as_boolean(call).any(1)
    running = torch.nn.functional.pad(visible.int().cumsum(-1), (1, 0))
    at_edges = running.gather(-1, edges[:, None].expand(-1, n_queries, -1))
    return at_edges[..., 1::2] - at_edges[..., 0::2]


def softmax_rows(
    call: AttentionCall, columns: Columns
) -> Float[torch.Tensor, "batch head query key"]:
    """Compute the softmax of chosen queries' scores, in float32.

    Args:
        call: The attention call.
        columns: Chosen queries, counted from the call's first.

    Returns:
        Probabilities; invisible keys are exactly 0. With a sink column (gpt-oss) the rest of each
        row's mass lies there. A query that sees nothing is all NaN.
    """
    query = pick_queries(call.query, columns).float()
    batch, heads, chosen, size = query.shape
    kv_heads = call.key.shape[1]
    packed = query.reshape(batch, kv_heads, heads // kv_heads * chosen, size) * call.scaling
    scores = (packed @ call.key.float().transpose(2, 3)).view(batch, heads, chosen, -1)
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    if call.bias is not None:
        scores = scores + _rows_of(call.bias, call, columns).float()
    if call.mask is not None and call.mask.dtype != torch.bool:
        scores = scores + _rows_of(call.mask, call, columns).float()
    if call.mask is None:
        scores.masked_fill_(~visible_keys(call, columns)[:, None], -torch.inf)
    else:
        scores.masked_fill_(~pick_queries(_as_boolean(call), columns), -torch.inf)
    if call.sinks is None:
        return scores.softmax(-1)
    sink = call.sinks.float().view(1, -1, 1, 1).expand(batch, -1, chosen, 1)
    return torch.cat([scores, sink], -1).softmax(-1)[..., :-1]


def rows_times_values(
    weights: Float[torch.Tensor, "batch head query key"], call: AttentionCall
) -> Float[torch.Tensor, "batch head query size"]:
    """Multiply rows with the call's values, each query head with its KV head's."""
    batch, heads, chosen, n_keys = weights.shape
    kv_heads = call.value.shape[1]
    packed = weights.reshape(batch, kv_heads, heads // kv_heads * chosen, n_keys)
    return (packed @ call.value.float()).view(batch, heads, chosen, -1)


def sum_over_spans(
    weights: Float[torch.Tensor, "batch head query key"], edges: Edges
) -> Float[torch.Tensor, "batch head query span"]:
    """Sum rows over spans, by differences of the running sum.

    Args:
        weights: Rows.
        edges: Spans, counted from the rows' first key.

    Returns:
        Mass per span.
    """
    running = torch.nn.functional.pad(weights.double().cumsum(-1), (1, 0))
    at_edges = running.gather(-1, edges[:, None, None].expand(*weights.shape[:3], -1))
    return (at_edges[..., 1::2] - at_edges[..., 0::2]).float()


def indicators(call: AttentionCall, edges: Edges) -> Float[torch.Tensor, "batch key span"]:
    """Build one column per span, 1 at its keys, in the values' number format."""
    keys = torch.arange(call.key.shape[2], device=edges.device)[None, :, None]
    member = (keys >= edges[:, None, 0::2]) & (keys < edges[:, None, 1::2])
    return member.to(call.value.dtype)


def pooled_masses(
    call: AttentionCall, edges: Edges
) -> Float[torch.Tensor, "batch head query span"]:
    """Get the mass on every span for every query.

    A fused kernel computes softmax(q Kᵀ) V without ever holding the weights; with span indicators
    for V, its output is the masses. A kernel is fastest at exactly the model's own value size, so
    spans beyond it go into further passes. Without a fused kernel, rows are computed and summed
    block by block.

    Args:
        call: The attention call.
        edges: Spans, counted from the call's first key.

    Returns:
        Masses, in the layout of the batch (rows of pads mean nothing).
    """
    members = indicators(call, edges)
    if not call.fused:
        return _pooled_in_blocks(call, members.float())
    size, kv_heads = call.value.shape[-1], call.value.shape[1]
    parts = []
    for part in members.split(size, dim=-1):
        values = torch.nn.functional.pad(part, (0, size - part.shape[-1]))
        masses = call.run(values[:, None].expand(-1, kv_heads, -1, -1))
        parts.append(masses.transpose(1, 2)[..., : part.shape[-1]])
    return torch.cat(parts, dim=-1).float()


def _pooled_in_blocks(
    call: AttentionCall, members: Float[torch.Tensor, "batch key span"]
) -> Float[torch.Tensor, "batch head query span"]:
    batch, heads, n_queries, _ = call.query.shape
    rows = max(1, BLOCK_WEIGHTS // (batch * heads * call.key.shape[2]))
    every = torch.arange(n_queries, device=members.device).expand(batch, -1)
    blocks = [softmax_rows(call, block) @ members[:, None] for block in every.split(rows, dim=1)]
    return torch.cat(blocks, dim=2)


def pick_queries(tensor: torch.Tensor, columns: Columns) -> torch.Tensor:
    """Pick query rows per example: [batch, head, query, …] at `columns` [batch, chosen query]."""
    if len(columns) == 1:
        return tensor[:, :, columns[0]]
    examples = torch.arange(len(columns), device=columns.device)[:, None]
    return tensor[examples, :, columns].transpose(1, 2)


def _as_boolean(call: AttentionCall) -> Bool[torch.Tensor, "batch any query key"]:
    """Return the mask as True where visible, one per example, cut to the keys there are."""
    mask = call.mask
    if mask is None:
        raise ValueError("a call without a mask")
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return visible[..., : call.key.shape[2]].expand(len(call.query), -1, -1, -1)


def _rows_of(additive: torch.Tensor, call: AttentionCall, columns: Columns) -> torch.Tensor:
    """Pick the rows of something that is added to the scores."""
    whole = additive[..., : call.key.shape[2]].expand(len(call.query), -1, -1, -1)
    return pick_queries(whole, columns)
