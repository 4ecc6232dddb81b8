"""The product of weights and values, read from the call of whatever function computes it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_letters
from typing import Any

import torch

_MATMULS = {"matmul", "__matmul__", "bmm"}
_REVERSED = {"__rmatmul__"}


@dataclass(frozen=True, slots=True)
class Product:
    """Weights [lead …, query, key] · values [lead …, key, size] = output [lead …, query, size]."""

    weights: torch.Tensor
    values: torch.Tensor
    output: torch.Tensor

    @property
    def full_values(self) -> torch.Tensor:
        """The values with as many leading axes as the weights, each as long."""
        lead = self.weights.shape[:-2]
        if len(lead) + 2 < self.values.dim():
            return self.values
        return self.values.expand(*lead, *self.values.shape[-2:])


def read_product(
    func: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    output: Any,
    carries: Callable[[Any], bool],
    n_queries: int,
) -> Product | None:
    """Read a product off a function call.

    Args:
        func: What was called.
        args: Its positional arguments.
        kwargs: Its other arguments.
        output: What it returned.
        carries: Whether a tensor holds the weights.
        n_queries: Queries of the pass.

    Returns:
        The product; None if the call is none, or not with the weights.
    """
    if not isinstance(output, torch.Tensor):
        return None
    name = getattr(func, "__name__", "")
    if name == "einsum":
        return _einsum(args, output, carries, n_queries)
    if name in _MATMULS | _REVERSED:
        factors = [*args, *kwargs.values()][:2]
        if name in _REVERSED:
            factors.reverse()
    elif name == "baddbmm":
        factors = [kwargs.get("batch1"), kwargs.get("batch2")] if "batch2" in kwargs else args[1:3]
    else:
        return None
    tensors = [factor for factor in factors if isinstance(factor, torch.Tensor)]
    if len(tensors) != 2 or min(tensor.dim() for tensor in tensors) < 2:
        return None
    first, second = tensors
    if carries(first):
        return Product(first, second, output)
    return Product(second.mT, first.mT, output.mT) if carries(second) else None


def _einsum(
    args: Sequence[Any], output: torch.Tensor, carries: Callable[[Any], bool], n_queries: int
) -> Product | None:
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = list(operands[0])
    if not isinstance(equation, str) or len(operands) != 2 or "->" not in equation:
        return None
    left, result = equation.replace(" ", "").split("->")
    names = left.split(",")
    if not carries(operands[0]):
        operands.reverse()
        names.reverse()
    if not carries(operands[0]):
        return None
    weights, values = operands
    in_weights, in_values, in_output = _without_dots(
        [*names, result], [weights.dim(), values.dim(), output.dim()]
    )
    keys = [c for c in in_weights if c in in_values and c not in in_output]
    queries = [c for c in in_weights if c in in_output and c not in in_values]
    sizes = [c for c in in_values if c in in_output and c not in in_weights]
    if len(keys) != 1 or len(sizes) != 1 or not queries:
        return None
    sized = [c for c in queries if weights.shape[in_weights.index(c)] == n_queries]
    query = max(sized or queries, key=in_weights.index)
    lead = [c for c in in_weights if c not in (query, *keys)]
    return Product(
        _ordered(weights, in_weights, [*lead, query, *keys]),
        _ordered(values, in_values, [*lead, *keys, *sizes]),
        _ordered(output, in_output, [*lead, query, *sizes]),
    )


def _ordered(tensor: torch.Tensor, names: str, wanted: list[str]) -> torch.Tensor:
    """Put axes into the order wanted; one that a tensor does not have gets size 1."""
    there = [name for name in wanted if name in names]
    tensor = tensor.permute([names.index(name) for name in there])
    for place, name in enumerate(wanted):
        if name not in names:
            tensor = tensor.unsqueeze(place)
    return tensor


def _without_dots(names: list[str], dims: list[int]) -> list[str]:
    """Write the axes that `...` stands for as letters."""
    free = [letter for letter in ascii_letters if letter not in "".join(names)]
    written = []
    for name, n_dims in zip(names, dims, strict=True):
        n_more = n_dims - len(name.replace("...", ""))
        written.append(name.replace("...", "".join(free[len(free) - n_more :]) if n_more else ""))
    return written
