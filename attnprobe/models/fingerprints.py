"""Telling one set of weights from another in a second."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch

_SAMPLED = 64
"""Values of each weight that enter its fingerprint."""


def fingerprint(model: Any, rounded: torch.dtype | None = None) -> str:
    """Hash a sample of every weight, to tell one checkpoint from another in a second.

    Args:
        model: A torch module.
        rounded: A number format to round to first.

    Returns:
        SHA-256 over names, shapes and 64 evenly spaced values of each parameter.
    """
    return fingerprint_of(model.named_parameters(), rounded)


def fingerprint_of(
    weights: Iterable[tuple[str, torch.Tensor]], rounded: torch.dtype | None = None
) -> str:
    """Hash a sample of named weights; see `fingerprint`."""
    digest = hashlib.sha256()
    for name, weight in weights:
        flat = weight.detach().reshape(-1)
        stride = max(1, len(flat) // _SAMPLED)
        sample = flat[::stride][:_SAMPLED]
        sample = sample if rounded is None else sample.to(rounded)
        values = sample.float().cpu().numpy()
        digest.update(f"{name} {tuple(weight.shape)}".encode() + values.tobytes())
    return digest.hexdigest()
