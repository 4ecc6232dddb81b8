"""Muon in float32: PyTorch's own takes bfloat16, which a CPU without its instructions crawls on."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration (Jordan et al. 2024)."""
N_ITERATIONS = 5
UPDATE_RMS = 0.2
"""Of an update at learning rate 1, as AdamW has it about (Liu et al. 2025)."""


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal (Jordan et al. 2024, "Muon"), with AdamW's size of updates.

    Same steps as `torch.optim.Muon(…, adjust_lr_fn="match_rms_adamw")` with Nesterov momentum, to
    the rounding of bfloat16.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(
            params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        )  # fmt: skip

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Update all matrices."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update(matrix, group)

    def _update(self, matrix: torch.Tensor, group: dict[str, Any]) -> None:
        state, share = self.state[matrix], 1 - group["momentum"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        momentum = state["momentum_buffer"].lerp_(matrix.grad, share)
        direction = orthogonal(matrix.grad.lerp(momentum, group["momentum"]))
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(direction, alpha=-group["lr"] * UPDATE_RMS * max(matrix.shape) ** 0.5)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Bring all singular values near 1, by Newton and Schulz's iteration."""
    a, b, c = COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    found = wide / wide.norm().clamp(min=1e-7)
    for _ in range(N_ITERATIONS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if wide is not matrix else found
