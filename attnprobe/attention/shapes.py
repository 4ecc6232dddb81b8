"""Which axis of a model's own attention tensors is the example, the head, the query and the key."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Rearrange = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Shape:
    """How [lead …, query, x] becomes [batch, head, query, x], without a copy where possible."""

    rearrange: Rearrange
    n_heads: int
    is_fused: bool = False
    """Whether examples and heads share an axis, so that their order must be proven."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of the pass."""

    batch: int
    n_queries: int
    n_heads: int | None = None
    """Of the config."""


def weights_shape(shape: Sequence[int], expected: Expected) -> Shape | None:
    """Understand the shape of weights whose last axis is the key.

    Args:
        shape: [batch, head, query, key] in whatever order of the first three; batch and head may
            share an axis, heads may have two (groups of query heads).
        expected: What is known of the pass.

    Returns:
        The shape, that with the config's number of heads first; None if it fits none.
    """
    found = [*product_shapes(shape, expected), *_query_earlier(shape, expected)]
    return _best(found, expected)


def product_shape(shape: Sequence[int], expected: Expected, n_heads: int) -> Shape | None:
    """Understand the shape of the first factor [lead …, query, key] of weights · values.

    Args:
        shape: As it is multiplied.
        expected: What is known of the pass.
        n_heads: Heads of the softmax that it came from.
    """
    found = product_shapes(shape, expected)
    batch, queries = expected.batch, expected.n_queries
    if tuple(shape[:-1]) == (batch, queries * n_heads):  # one KV head: heads beside the queries
        found.append(Shape(_unfolded(batch, queries, n_heads), n_heads))
    return next((one for one in found if one.n_heads == n_heads), None)


def product_shapes(shape: Sequence[int], expected: Expected) -> list[Shape]:
    """List what a shape [lead …, query, key] can mean, the usual first."""
    *lead, n_queries, _ = shape
    batch = expected.batch
    if n_queries != expected.n_queries:
        return []
    match lead:
        case [] if batch == 1:
            return [Shape(lambda t: t[None, None], 1)]
        case [both] if both % batch == 0:
            heads = both // batch
            split = _split(batch, heads)
            return [Shape(split, heads, is_fused=batch > 1 and heads > 1)]
        case [first, heads] if first == batch:
            return [Shape(lambda t: t, heads)]
        case [heads, second] if second == batch:
            return [Shape(lambda t: t.transpose(0, 1), heads)]
        case [first, groups, each] if first == batch:
            return [Shape(lambda t: t.flatten(1, 2), groups * each)]
        case _:
            return []


def _query_earlier(shape: Sequence[int], expected: Expected) -> list[Shape]:
    """List what it can mean where the query does not come right before the key."""
    lead = tuple(shape[:-1])
    batch, queries = expected.batch, expected.n_queries
    found = []
    if len(lead) == 2 and lead[0] == queries and lead[1] % batch == 0:
        split = _split(batch, lead[1] // batch)
        heads = lead[1] // batch
        found.append(Shape(lambda t: split(t.transpose(0, 1)), heads, batch > 1 and heads > 1))
    if len(lead) == 3 and lead[:2] == (batch, queries):
        found.append(Shape(lambda t: t.transpose(1, 2), lead[2]))
    if len(lead) == 3 and lead[:2] == (queries, batch):
        found.append(Shape(lambda t: t.permute(1, 2, 0, 3), lead[2]))
    if len(lead) == 4 and lead[:2] == (batch, queries):
        found.append(Shape(lambda t: t.flatten(2, 3).transpose(1, 2), lead[2] * lead[3]))
    return found


def _best(found: list[Shape], expected: Expected) -> Shape | None:
    as_stated = [shape for shape in found if shape.n_heads == expected.n_heads]
    return next(iter([*as_stated, *found]), None)


def _split(batch: int, heads: int) -> Rearrange:
    return lambda t: t.unflatten(0, (batch, heads))


def _unfolded(batch: int, queries: int, heads: int) -> Rearrange:
    def rearrange(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[1] != queries * heads:  # values: one for all heads
            return tensor[:, None]
        return tensor.unflatten(1, (queries, heads)).transpose(1, 2)

    return rearrange
