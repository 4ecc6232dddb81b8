"""Keys that an adapter puts before every text."""

from typing import Any

import torch

PREFIX_TUNING = "PREFIX_TUNING"
"""The one type of PEFT's whose learned tokens are keys and values alone; those of the others go
through the layers as a text's tokens do."""


def stated_virtual(model: Any) -> int:
    """Return how many keys a prefix-tuned adapter puts before the text; 0 without such an adapter.

    Models may have a prefix of their own that nothing states; only running them tells.
    """
    config = getattr(model, "active_peft_config", None)
    kind = getattr(config, "peft_type", None)
    is_prefix = getattr(kind, "value", kind) == PREFIX_TUNING
    return int(config.num_virtual_tokens) if config is not None and is_prefix else 0


@torch.no_grad()
def prefix_misfit(wrapped: Any, n_heads: int | None) -> str | None:
    """Hold a prefix against the cache of the model it is put into; PEFT does not compare them.

    Args:
        wrapped: What PEFT made of a model and a prefix-tuned adapter.
        n_heads: Heads of the keys that the adapter was made with; None if it does not say.

    Returns:
        What differs, in words; None if the prefix has keys of the right size for every layer.
    """
    token = torch.zeros(1, 1, dtype=torch.long, device=wrapped.device)
    own = wrapped.get_base_model()(input_ids=token, use_cache=True).past_key_values
    there, given = _key_sizes(own), _key_sizes(wrapped.get_prompt(1))
    if len(there) != len(given):
        return f"keys for {len(given)} layers, expected {len(there)}"
    heads = {heads for heads, _ in there} | ({n_heads} if n_heads else set())
    if there != given or len(heads) > 1:
        return f"keys of {n_heads or given[0][0]} heads, expected {there[0][0]}"
    return None


def _key_sizes(cache: Any) -> list[tuple[int, int]]:
    """Return heads and head size of each layer's keys."""
    return [(layer.keys.shape[1], layer.keys.shape[-1]) for layer in cache.layers]
