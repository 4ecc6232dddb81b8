"""Influence that goes by way of other tokens: over the steps of a head, and over layers."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from attnprobe.errors import MeasureError
from attnprobe.measures.arrays import divide, enrichment
from attnprobe.measures.rows import StepRows


def total_influence(rows: StepRows) -> Float[np.ndarray, "layer head asked key_role"]:
    """How much a step looks at a span, directly or by way of the tokens predicted before.

    With A the head's rows of the steps, N what of them falls on tokens predicted before (strictly
    lower triangular) and B the rest, the prompt: total = (I − N)⁻¹ B, pooled to spans. It is a
    walk that begins at a step, goes to a key by the weights of its row, goes on by the row that
    predicted that key if it is a predicted token, and ends in the prompt: the absorbing chain of
    Kemeny & Snell (1960, ch. 3), whose fundamental matrix is (I − N)⁻¹. So over the prompt the
    totals of a step sum to what its rows sum to, 1. On spans of the target it is the expected
    number of the span's tokens that the walk passes, which may exceed 1.

    Each head of each layer is a chain of its own, as if it alone carried what is predicted on.
    That keeps one value per head, to be compared with `mass`, the direct influence; a chain that
    changes heads at every hop is not seen by it. `rollout` follows layers instead, all heads mixed.

    It misleads as weights do: that a step looks at a token does not say that it takes up what the
    token was predicted from.
    """
    direct = np.einsum("lhsk,kr->lhsr", rows.weights, rows.members.astype(rows.weights.dtype))
    return _carried(rows, direct)[:, :, rows.asked]


def total_enrichment(rows: StepRows) -> Float[np.ndarray, "layer head asked key_role"]:
    """Enrichment of `total_influence` among the tokens of the prompt that are no sinks, in bits.

    log2 of a span's share of the total over its share of the prompt's visible keys, smoothed like
    `enrichment`; 0 where each step spreads evenly over what it sees of the prompt. NaN for spans
    outside the prompt, and where the sinks take everything.
    """
    in_prompt = ~rows.apart & (np.arange(len(rows.apart)) <= rows.queries[0])
    members = rows.members & in_prompt[:, None]
    columns = np.concatenate([members, in_prompt[:, None]], axis=1).astype(rows.weights.dtype)
    total = _carried(rows, np.einsum("lhsk,kr->lhsr", rows.weights, columns))[:, :, rows.asked]
    # What a step can reach in the prompt is what it and the steps before it see.
    seen = np.logical_or.accumulate(rows.visible, axis=1)[:, rows.asked].astype(np.float32)
    n_keys = np.einsum("lsk,kr->lsr", seen, columns.astype(np.float32))[:, None]
    share = divide(*np.broadcast_arrays(total[..., :-1], total[..., -1:]))
    return enrichment(share, n_keys[..., :-1], n_keys[..., -1:])


def _carried(
    rows: StepRows, direct: Float[np.ndarray, "layer head step column"]
) -> Float[np.ndarray, "layer head step column"]:
    """Solve (I − N) total = direct, layer by layer."""
    n_steps = len(rows.queries)
    first = int(rows.queries[0]) + 1 if n_steps else 0
    total = np.empty(direct.shape, np.float64)
    for layer, weights in enumerate(rows.weights):
        total[layer] = solve_steps(weights[..., first : first + n_steps], direct[layer])
    return total.astype(direct.dtype)


def solve_steps(
    among: Float[np.ndarray, "*batch step step"], direct: Float[np.ndarray, "*batch step column"]
) -> Float[np.ndarray, "*batch step column"]:
    """Return (I − N)⁻¹ B.

    Args:
        among: N, what steps pay to the tokens of other steps; strictly lower triangular.
        direct: B, what steps pay to everything that is followed to.

    Returns:
        The total, in float64.

    Raises:
        MeasureError: If a step pays to its own token, or to a later one.
    """
    if np.triu(among).any():
        raise MeasureError(
            "a step looks at a token that is not predicted yet",
            expected="weights among steps that are strictly lower triangular",
        )
    return np.linalg.solve(np.eye(among.shape[-1]) - among, direct.astype(np.float64))


@dataclass(frozen=True, slots=True, eq=False)
class LayerMaps:
    """Every row of one record, layer by layer, and which steps are asked for."""

    maps: Iterator[Float[np.ndarray, "key key"]]
    """The mean weights over heads of each layer, from the first layer on; read when wanted."""
    n_layers: int
    kept: Int[np.ndarray, " layer"]
    """Places, among these layers, whose values are asked for."""
    queries: Int[np.ndarray, " asked"]
    """Position of the row of each step asked for."""
    members: Bool[np.ndarray, "key key_role"]
    """Which keys make up each key role."""


def rollout(maps: LayerMaps) -> Float[np.ndarray, "layer 1 asked key_role"]:
    """How much of a span reaches a step's position, following attention through the layers.

    Source: Abnar & Zuidema 2020 (arXiv 2005.00928), eq. 1: the product over layers of
    ½ (mean weights of the heads) + ½ (identity, for the residual stream). The value at layer l is
    that of the layers up to l; the last is the whole model's. Over all keys it sums to 1.

    It misleads as the weights do that it multiplies: what values hold does not enter, half and half
    for the residual stream is a guess, and in deep models everything tends to the first tokens.
    """
    found = np.empty((maps.n_layers, 1, len(maps.queries), maps.members.shape[1]), np.float32)
    flow: np.ndarray | None = None
    for layer, mean in enumerate(maps.maps):
        mixed = (mean.astype(np.float64) + np.eye(len(mean))) / 2
        flow = mixed if flow is None else mixed @ flow
        found[layer, 0] = flow[maps.queries] @ maps.members
    return found[maps.kept]
