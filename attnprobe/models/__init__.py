"""Load causal language models."""

from attnprobe.models.devices import choose_device, choose_dtype
from attnprobe.models.loading import KNOWN, LoadedModel, fingerprint, load_model

__all__ = ["KNOWN", "LoadedModel", "choose_device", "choose_dtype", "fingerprint", "load_model"]
