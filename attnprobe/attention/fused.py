"""A call of torch's fused attention function, as a call that rows can be computed from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attnprobe.attention.calls import AttentionCall, Place
from attnprobe.attention.shapes import Expected, Rearrange, Shape, product_shapes


@dataclass(frozen=True, slots=True)
class _Given:
    """The arguments of `scaled_dot_product_attention`."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    attn_mask: torch.Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False


def fused_call(
    place: Place,
    func: Callable[..., torch.Tensor],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    expected: Expected,
) -> tuple[AttentionCall, Shape, Rearrange] | None:
    """Read a call of `scaled_dot_product_attention`.

    Args:
        place: Where it was made.
        func: The function.
        args: Its positional arguments.
        kwargs: Its other arguments.
        expected: What is known of the pass.

    Returns:
        The call, the shape of its leading axes, and what arranges its output as
        [batch, head, query, size]; None if the shape is not understood.
    """
    given = _Given(*args, **kwargs)
    if (packed := _packed(given, expected)) is not None:
        shape, query, mask = packed
    else:
        found = product_shapes((*given.query.shape[:-1], given.key.shape[-2]), expected)
        if not found:
            return None
        shape = found[0]
        query, mask = shape.rearrange(given.query), _mask(given, shape, expected)
    keys, values = (_arranged(given, one, shape) for one in (given.key, given.value))

    def run(replaced: torch.Tensor) -> torch.Tensor:
        lead = given.value.shape[:-2]
        replaced = replaced.reshape(*lead, *replaced.shape[-2:])
        output = func(
            given.query, given.key, replaced, given.attn_mask, 0.0, given.is_causal,
            scale=given.scale, enable_gqa=given.enable_gqa,
        )  # fmt: skip
        return shape.rearrange(output).transpose(1, 2)

    call = AttentionCall(
        *place, query, keys, values, mask,
        scaling=given.query.shape[-1] ** -0.5 if given.scale is None else given.scale,
        causal=given.is_causal,
        run=run,
    )  # fmt: skip
    return call, shape, shape.rearrange


def _packed(
    given: _Given, expected: Expected
) -> tuple[Shape, torch.Tensor, torch.Tensor | None] | None:
    """Understand a single query whose heads lie on the query axis, one group for each KV head."""
    shape, n_heads = given.query.shape, expected.n_heads
    if expected.n_queries != 1 or len(shape) != 4 or shape[2] == 1 or n_heads is None:
        return None
    if shape[1] * shape[2] != n_heads:
        return None

    def rearrange(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.flatten(1, 2).unsqueeze(2)

    mask = given.attn_mask
    if mask is not None and mask.dim() == 4 and mask.shape[2] != 1:
        mask = mask.expand(-1, shape[1], -1, -1).flatten(1, 2).unsqueeze(2)
    return Shape(rearrange, n_heads), rearrange(given.query), mask


def _arranged(given: _Given, tensor: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Arrange keys or values as [batch, KV head, key, size]."""
    if given.query.dim() == 4 and tensor.dim() == 4:
        same_batch = tensor.shape[0] == given.query.shape[0]
        return tensor if same_batch else tensor.expand(len(given.query), -1, -1, -1)
    return shape.rearrange(tensor.expand(*given.query.shape[:-2], *tensor.shape[-2:]))


def _mask(given: _Given, shape: Shape, expected: Expected) -> torch.Tensor | None:
    """Arrange the mask as [batch or 1, head or 1, query, key]."""
    n_queries, n_keys = given.query.shape[-2], given.key.shape[-2]
    mask = given.attn_mask
    if mask is None:
        if given.is_causal and n_queries == 1 < n_keys:  # the triangle begins at the upper left
            only_first = torch.arange(n_keys, device=given.key.device) == 0
            return only_first[None, None, None]
        return None
    mask = mask.expand(*mask.shape[:-2], n_queries, n_keys) if mask.dim() > 1 else mask
    mask = mask.expand(n_queries, n_keys) if mask.dim() < 2 else mask
    if mask.dim() == 2 or mask.shape[:-2].numel() == 1:
        return mask.reshape(1, 1, n_queries, n_keys)
    if mask.dim() == 4 and given.query.dim() == 4:
        return mask
    return shape.rearrange(mask.expand(*given.query.shape[:-2], n_queries, n_keys))
