"""Low-rank matrices beside a model's weights, through PEFT."""

import functools
import warnings
from typing import Any

from attnprobe.errors import FinetuneError
from attnprobe.finetune.settings import FinetuneSettings

SCALE = 2
"""Of what the matrices add, for every rank."""


def check_peft() -> None:
    """Refuse if PEFT is not there.

    Raises:
        FinetuneError: With how to get it.
    """
    try:
        import peft  # noqa: F401  # pyright: ignore
    except ImportError as error:
        raise FinetuneError(
            "adapters need the package peft", got="no such package",
            fix='run: pip install "attnprobe[finetune]", or train all weights with --full',
        ) from error  # fmt: skip


def with_lora(model: Any, settings: FinetuneSettings, base: str) -> Any:
    """Put untrained matrices beside every linear layer but the output layer.

    Args:
        model: A `transformers.PreTrainedModel`; its layers are wrapped in place.
        settings: Rank and dropout.
        base: The name that the adapter gives its base.

    Returns:
        The `peft.PeftModel`.

    Raises:
        FinetuneError: If the model has no layer that can take them.
    """
    from peft import LoraConfig, get_peft_model

    model.name_or_path = base
    # PEFT's class for causal models asks for a method that code of a model's own may lack.
    is_usual = hasattr(model, "prepare_inputs_for_generation")
    config = LoraConfig(
        task_type="CAUSAL_LM" if is_usual else None,
        r=settings.rank, lora_alpha=SCALE * settings.rank,
        lora_dropout=settings.dropout, target_modules="all-linear",
    )  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's own deprecations
            wrapped: Any = get_peft_model(model, config)
    except ValueError as error:
        raise FinetuneError(
            "no adapter can be put on this model", where=base, got=" ".join(str(error).split()),
            fix="train all weights with --full",
        ) from error  # fmt: skip
    # No embedding is trained. PEFT would ask the hub for the base's config to find that out.
    wrapped.save_pretrained = functools.partial(
        wrapped.save_pretrained, save_embedding_layers=False
    )
    return wrapped
