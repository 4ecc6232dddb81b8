"""Differentiating with less memory: layers keep what they were given, and compute the rest anew."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def checkpointed(model: torch.nn.Module) -> Iterator[bool]:
    """Let the layers of a model forget what is inside them until a backward pass needs it.

    Every backward pass then runs each layer forward once more; the gradients are the same.

    Yields:
        Whether the model has layers that can do so.
    """
    layers: list[Any] = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(_restored(layer))
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        yield bool(layers)


def _restored(layer: Any) -> Any:
    """Return a function that gives a layer back the forward pass it has now."""
    own = layer.__dict__.get("forward")

    def restore() -> None:
        if own is None:
            del layer.forward
        else:
            layer.forward = own

    return restore
