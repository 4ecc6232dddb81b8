"""Norms with their statistics held constant, which makes them linear."""

from dataclasses import dataclass

import torch

from attnprobe.errors import ModelError

_LIKE = 3e-2
"""Relative difference between two rows of one norm that half precision explains."""


def is_norm(module: torch.nn.Module) -> bool:
    """Whether a module is named as norms are."""
    return type(module).__name__.lower().endswith(("norm", "rmsnorm", "layernorm"))


@dataclass(frozen=True, slots=True, eq=False)
class HeldNorm:
    """A norm as what it is at one input: centring (or none), one factor for a row, one per axis."""

    weight: torch.Tensor
    """[size]"""
    bias: torch.Tensor
    """[size]"""
    eps: float
    centres: bool
    """Whether it takes away the mean, as LayerNorm does and RMSNorm does not."""

    def factor(self, x: torch.Tensor) -> torch.Tensor:
        """Return what a norm multiplies the rows of `x` [..., size] with: [..., 1], held."""
        centred = self.centred(x.float())
        return torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.eps).detach()

    def centred(self, x: torch.Tensor) -> torch.Tensor:
        """Take away the mean, if this norm does."""
        return x - x.mean(-1, keepdim=True) if self.centres else x

    def part(self, x: torch.Tensor) -> torch.Tensor:
        """Return what one of several vectors that are normed together becomes, but for `factor`."""
        return self.centred(x) * self.weight

    def back(self, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Carry a gradient at the output for `x` back to its input."""
        return self.centred(gradient.float() * self.weight * self.factor(x))

    def same(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the norm's own output, with the gradient of the norm held."""
        held = (self.part(x.float()) * self.factor(x) + self.bias).to(output.dtype)
        return held + (output - held).detach()


def held_norm(module: torch.nn.Module, size: int, like: torch.Tensor) -> HeldNorm:
    """Find out how a norm works by what it makes of two random vectors, and of 0.

    Args:
        module: The norm.
        size: Of its vectors.
        like: A tensor of the dtype and device it takes.

    Raises:
        ModelError: If it is neither an RMSNorm nor a LayerNorm.
    """
    eps = float(getattr(module, "eps", None) or getattr(module, "variance_epsilon", None) or 0.0)
    probes = torch.randn(2, size, generator=torch.Generator().manual_seed(0)).to(like)
    with torch.no_grad():
        bias = module.forward(torch.zeros_like(probes[:1]))[0].float().nan_to_num()
        output = module.forward(probes).float() - bias
    for centres in (False, True):
        plain = HeldNorm(torch.ones_like(bias), bias, eps, centres)
        weights = output / (plain.centred(probes.float()) * plain.factor(probes))
        if (weights[0] - weights[1]).norm() <= _LIKE * weights[0].norm():
            return HeldNorm(weights.mean(0), bias, eps, centres)
    raise ModelError(
        "this norm is neither an RMSNorm nor a LayerNorm", where=type(module).__name__,
        fix="use a method that does not look inside, such as integrated_gradients or knockout",
    )  # fmt: skip
