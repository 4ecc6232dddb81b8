"""Load causal language models."""

from attnprobe.models.devices import (
    choose_device,
    choose_dtype,
    free_cached_memory,
    free_memory,
    is_out_of_memory,
)
from attnprobe.models.inner import transformers_model
from attnprobe.models.loading import KNOWN, LoadedModel, fingerprint, load_model
from attnprobe.models.smollm2 import cache_folder

__all__ = [
    "KNOWN",
    "LoadedModel",
    "cache_folder",
    "choose_device",
    "choose_dtype",
    "fingerprint",
    "free_cached_memory",
    "free_memory",
    "is_out_of_memory",
    "load_model",
    "transformers_model",
]  # fmt: skip
