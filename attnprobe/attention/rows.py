"""Exact attention rows of chosen queries, and sums over key spans, on the model's device."""

import torch
from jaxtyping import Bool, Float, Int

from attnprobe.attention.calls import AttentionCall, Call, WeighedCall

BLOCK_WEIGHTS = 2**25
"""Weights held at once where rows are computed only to be summed (128 MB in float32)."""

MASKED_BELOW = 5_000.0
"""How far below its row's largest score a masked one lies, at least: models of their own code mask
by −10,000, by the lowest number there is, or by −∞. No score of a visible key in all heads does."""

Columns = Int[torch.Tensor, "batch query"]
Edges = Int[torch.Tensor, "batch edge"]
"""Start and stop of each span, one pair after the other."""


def visible_keys(call: Call, columns: Columns) -> Bool[torch.Tensor, "batch query key"]:
    """Read off the real mask which keys each chosen query can see.

    Args:
        call: The attention call; the mask may be boolean, additive or absent.
        columns: Chosen queries, counted from the call's first.

    Returns:
        True where visible, to any head.
    """
    if isinstance(call, WeighedCall):
        if call.seen is None:
            return _unmasked(_scores_of(call, columns)[..., call.keys])
        return _pick(call.seen[:, None], call, columns)[:, 0, :, call.keys]
    n_queries, n_keys = call.n_queries, call.n_keys
    if call.mask is None:
        keys = torch.arange(n_keys, device=columns.device)
        if not call.causal or n_queries == 1:
            return (keys >= 0).expand(*columns.shape, n_keys)
        return keys <= columns[..., None]  # SDPA's own triangle begins at the upper left
    return pick_queries(_as_boolean(call), columns).any(1)


def count_visible(call: Call, edges: Edges) -> Int[torch.Tensor, "batch query span"]:
    """Count the keys of each span that the mask leaves visible, for every query of the call.

    Args:
        call: The attention call.
        edges: Spans, counted from the call's first key.

    Returns:
        Counts, in the layout of the batch (rows of pads mean nothing).
    """
    start, stop = edges[:, None, 0::2], edges[:, None, 1::2]
    n_queries, n_keys = call.n_queries, call.n_keys
    queries = torch.arange(n_queries, device=edges.device)
    if isinstance(call, WeighedCall):
        blocks = [_count(visible_keys(call, block), edges) for block in _blocks(call)]
        return torch.cat(blocks, dim=1)
    if call.mask is None:
        sees_all = not call.causal or n_queries == 1
        reach = queries * 0 + n_keys if sees_all else queries + 1
        return (reach[None, :, None].minimum(stop) - start).clamp_min(0)
    return _count(_as_boolean(call).any(1), edges)


def _count(
    visible: Bool[torch.Tensor, "batch query key"], edges: Edges
) -> Int[torch.Tensor, "batch query span"]:
    running = torch.nn.functional.pad(visible.int().cumsum(-1), (1, 0))
    at_edges = running.gather(-1, edges[:, None].expand(-1, visible.shape[1], -1))
    return at_edges[..., 1::2] - at_edges[..., 0::2]


def softmax_rows(call: Call, columns: Columns) -> Float[torch.Tensor, "batch head query key"]:
    """Compute the softmax of chosen queries' scores, in float32.

    Args:
        call: The attention call.
        columns: Chosen queries, counted from the call's first.

    Returns:
        Probabilities; invisible keys are exactly 0. With a sink column (gpt-oss) the rest of each
        row's mass lies there. A query that sees nothing is all NaN.
    """
    if isinstance(call, WeighedCall):
        return _given_rows(call, columns)
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
    weights: Float[torch.Tensor, "batch head query key"], call: Call
) -> Float[torch.Tensor, "batch head query size"]:
    """Multiply rows with the call's values, each query head with its KV head's."""
    if call.value is None:
        raise ValueError("a call without values")
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


def indicators(n_keys: int, edges: Edges) -> Bool[torch.Tensor, "batch key span"]:
    """Build one column per span, True at its keys."""
    keys = torch.arange(n_keys, device=edges.device)[None, :, None]
    return (keys >= edges[:, None, 0::2]) & (keys < edges[:, None, 1::2])


def pooled_masses(call: Call, edges: Edges) -> Float[torch.Tensor, "batch head query span"]:
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
    members = indicators(call.n_keys, edges)
    if isinstance(call, WeighedCall) or not call.fused:
        return _pooled_in_blocks(call, members.float())
    size, kv_heads = call.value.shape[-1], call.value.shape[1]
    parts = []
    for part in members.to(call.value.dtype).split(size, dim=-1):
        values = torch.nn.functional.pad(part, (0, size - part.shape[-1]))
        masses = call.run(values[:, None].expand(-1, kv_heads, -1, -1))
        parts.append(masses.transpose(1, 2)[..., : part.shape[-1]])
    return torch.cat(parts, dim=-1).float()


def _pooled_in_blocks(
    call: Call, members: Float[torch.Tensor, "batch key span"]
) -> Float[torch.Tensor, "batch head query span"]:
    blocks = [softmax_rows(call, block) @ members[:, None] for block in _blocks(call)]
    return torch.cat(blocks, dim=2)


def _blocks(call: Call) -> list[torch.Tensor]:
    """Divide the queries of a call into blocks whose rows fit into memory."""
    given = call.weights if isinstance(call, WeighedCall) else call.query
    rows = max(1, BLOCK_WEIGHTS // (len(given) * call.n_heads * call.n_keys))
    every = torch.arange(call.n_queries, device=given.device).expand(len(given), -1)
    return list(every.split(rows, dim=1))


def _given_rows(call: WeighedCall, columns: Columns) -> Float[torch.Tensor, "batch head query key"]:
    """Pick rows of what the model's softmax gave; in half precision, make them anew in float32."""
    if call.weights.dtype in (torch.float32, torch.float64) or call.scores is None:
        return _pick(call.weights, call, columns)[..., call.keys].float()
    return pick_queries(call.scores, columns).float().softmax(-1)[..., call.keys]


def _pick(rows: torch.Tensor, call: WeighedCall, columns: Columns) -> torch.Tensor:
    """Pick queries out of [batch, head, row, key] that hold all queries, or some."""
    if call.columns is None:
        return pick_queries(rows, columns)
    where = (columns[:, :, None] == call.columns[:, None]).int().argmax(-1)
    return pick_queries(rows, where)


def _scores_of(call: WeighedCall, columns: Columns) -> torch.Tensor:
    if call.scores is None:
        raise ValueError("a call without scores")
    return pick_queries(call.scores, columns)


def _unmasked(
    scores: Float[torch.Tensor, "batch head query key"],
) -> Bool[torch.Tensor, "batch query key"]:
    """Tell which keys a mask left visible, to any head, from the scores it was put on."""
    return unmasked(scores).any(1)


def unmasked(
    scores: Float[torch.Tensor, "batch head query key"],
) -> Bool[torch.Tensor, "batch head query key"]:
    """Tell which keys a mask left visible to each head, from the scores it was put on.

    A visible key's weight may be exactly 0, where its score is far below the others; so the
    weights would not tell.
    """
    floor = torch.finfo(scores.dtype).min / 2
    lowest = (scores.amax(-1, keepdim=True) - MASKED_BELOW).clamp_min(floor)
    return scores > lowest


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
    return visible[..., : call.n_keys].expand(len(call.query), -1, -1, -1)


def _rows_of(additive: torch.Tensor, call: AttentionCall, columns: Columns) -> torch.Tensor:
    """Pick the rows of something that is added to the scores."""
    whole = additive[..., : call.n_keys].expand(len(call.query), -1, -1, -1)
    return pick_queries(whole, columns)
