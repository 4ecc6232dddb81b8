"""How long the vectors are that heads fetch: each key's value, moved through the output matrix."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float

from attnprobe.attention.calls import SELF, Call
from attnprobe.attention.certificate import tolerance
from attnprobe.errors import ModelError


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    """A layer's values and heads' outputs, until the matrix comes that takes the latter."""

    value: torch.Tensor
    """[batch, KV head, key, value size]"""
    mixed: torch.Tensor
    """[batch, query, head, value size]"""


class ValueNorms:
    """Takes attention calls, finds the output matrix of each layer, and measures.

    The output matrix is the module that is given the outputs of all heads, as they are, right after
    the attention. It is proven: it must add up over heads.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: dict[int, Float[torch.Tensor, "batch head key"]] = {}
        """Norms by layer, float32."""
        self._pending: dict[int, _Pending] = {}

    def take(self, call: Call, output: torch.Tensor | None) -> None:
        """Take a call of the attention of one layer."""
        if call.kind == SELF and call.value is not None and output is not None:
            self._pending[call.layer] = _Pending(call.value.detach(), output.detach())

    def notice(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """See whether a module that is about to run is the output matrix that is waited for."""
        if not self._pending or len(args) != 1 or kwargs or not isinstance(args[0], torch.Tensor):
            return
        for layer, pending in list(self._pending.items()):
            if _is_same(args[0], pending.mixed):
                del self._pending[layer]
                norms = _norms(module, pending)
                if norms is not None:
                    self.found[layer] = norms

    def check(self, layers: list[int]) -> None:
        """Refuse a model of which not every layer could be measured.

        Raises:
            ModelError: Naming the layers.
        """
        missing = [layer for layer in layers if layer not in self.found]
        if missing:
            raise ModelError(
                "the lengths of moved values cannot be measured", where=self.name,
                got=f"no matrix over the outputs of all heads in layers {missing}"[:200],
                expected="attention whose heads' outputs go into one matrix, as they are",
                fix="leave value_norms out of --keep",
            )  # fmt: skip


@contextmanager
def measured_values(model: torch.nn.Module, name: str) -> Iterator[ValueNorms]:
    """Measure values in the pass inside the block; give `take` to the recording."""
    norms = ValueNorms(name)
    with ExitStack() as stack:
        for module in model.modules():
            hook = module.register_forward_pre_hook(norms.notice, with_kwargs=True)
            stack.callback(hook.remove)
        yield norms


def _is_same(given: torch.Tensor, mixed: torch.Tensor) -> bool:
    """Whether a module is given the heads' outputs, one after another, in any usual layout."""
    batch, n_queries, n_heads, size = mixed.shape
    if given.shape[-1] != n_heads * size or given.numel() != mixed.numel():
        return False
    flat = mixed.reshape(batch, n_queries, -1)
    if given.shape[:-1] == (n_queries, batch) and batch != 1:
        given = given.transpose(0, 1)
    return torch.equal(given.reshape(flat.shape), flat)


@torch.no_grad()
def _norms(
    module: torch.nn.Module, pending: _Pending
) -> Float[torch.Tensor, "batch head key"] | None:
    """Measure, head by head; None if the module does not add up over heads."""
    batch, _, n_heads, size = pending.mixed.shape
    shared = n_heads // pending.value.shape[1]
    lengths = []
    last = pending.mixed[:, -1:]  # of every example: pads are on the left
    bias = module(last.new_zeros(batch, 1, n_heads * size))
    total = bias.float().clone()
    for head in range(n_heads):
        value = pending.value[:, head // shared]
        if type(module) is torch.nn.Linear:
            part = module.weight[:, head * size : (head + 1) * size].float()
            lengths.append((value.float() @ part.T).norm(dim=-1))
            total += last[:, :, head].float() @ part.T
            continue
        alone = value.new_zeros(*value.shape[:2], n_heads * size)
        alone[..., head * size : (head + 1) * size] = value
        lengths.append((module(alone).float() - bias.float()).norm(dim=-1))
        one = torch.zeros_like(last)
        one[:, :, head] = last[:, :, head]
        total += module(one.flatten(2)).float() - bias.float()
    real = module(last.flatten(2)).float()
    error = (total - real).norm(dim=-1)
    if not bool((error <= tolerance(last.dtype) * real.norm(dim=-1).clamp_min(1e-6)).all()):
        return None
    return torch.stack(lengths, dim=1)
