"""The transformers model inside whatever wraps it."""

import inspect
from typing import Any

import torch

from attnprobe.errors import ModelError


def transformers_model(model: torch.nn.Module) -> Any:
    """Find the transformers model in `model`: itself, or inside a wrapper such as PEFT's.

    Returns:
        A `transformers.PreTrainedModel`.

    Raises:
        ModelError: If there is none.
    """
    from transformers import PreTrainedModel

    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise ModelError(
        "this is no transformers model", got=type(model).__name__, expected="a PreTrainedModel"
    )


def forward_arguments(model: torch.nn.Module) -> list[str]:
    """Name the arguments of a model's forward pass, in their order.

    A class whose own forward passes on whatever it is given (`*args, **kwargs`), as code that comes
    with a checkpoint does, has the arguments of the class it is built on.

    Returns:
        The names.
    """
    for kind in type(model).__mro__:
        forward = kind.__dict__.get("forward")
        names = list(inspect.signature(forward).parameters)[1:] if callable(forward) else []
        if "input_ids" in names:
            return names
    return list(inspect.signature(model.forward).parameters)
