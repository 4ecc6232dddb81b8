"""The transformers model inside whatever wraps it."""

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
