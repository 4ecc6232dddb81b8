"""Load causal language models: folders, GGUF files, adapters, hub ids."""

from attnprobe.models.adapters import Adapter
from attnprobe.models.compat import pads_by_itself, runs_remote_code
from attnprobe.models.devices import (
    choose_device,
    choose_dtype,
    free_cached_memory,
    free_memory,
    is_out_of_memory,
)
from attnprobe.models.fingerprints import fingerprint
from attnprobe.models.inner import forward_arguments, transformers_model
from attnprobe.models.loading import LoadedModel, load_model
from attnprobe.models.reference import NAME as REFERENCE
from attnprobe.models.smollm2 import cache_folder
from attnprobe.models.sources import KNOWN

__all__ = [
    "KNOWN",
    "REFERENCE",
    "Adapter",
    "LoadedModel",
    "cache_folder",
    "choose_device",
    "choose_dtype",
    "fingerprint",
    "forward_arguments",
    "free_cached_memory",
    "free_memory",
    "is_out_of_memory",
    "load_model",
    "pads_by_itself",
    "runs_remote_code",
    "transformers_model",
]  # fmt: skip
