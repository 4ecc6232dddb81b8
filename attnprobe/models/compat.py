"""The only place that knows private names of transformers, PEFT and the hub for loading."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_REMOTE_MODULES = "transformers_modules"
"""Package under which transformers runs code that came with a checkpoint."""

_NEEDS_CODE = "trust_remote_code"
_WRONG_KIND = "Unrecognized configuration class"

_ADAPTER = "default"

_PLAIN_FILES = ["*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja"]


def hub_is_off() -> bool:
    """Whether the environment forbids hub look-ups (`HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`)."""
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


def adapter_of_hub(name: str, config: str, local_only: bool) -> tuple[str | None, bool]:
    """Ask whether an id on the hub, or in its cache, is an adapter.

    Args:
        name: The id.
        config: File that only adapters have.
        local_only: Whether to look into the cache alone.

    Returns:
        The adapter's folder, None if the id is no adapter; and whether the hub could be reached.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = hf_hub_download(name, config, local_files_only=local_only)
        if local_only:
            return str(Path(found).parent), False
        return snapshot_download(name, allow_patterns=_PLAIN_FILES), True
    except LocalEntryNotFoundError:
        return None, False
    except (OSError, ValueError):  # no such file, or no such id: loading says which
        return None, True


def needs_code(error: Exception) -> bool:
    """Whether transformers refused to run code that came with a checkpoint."""
    return _NEEDS_CODE in str(error)


def is_no_decoder(error: Exception) -> bool:
    """Whether transformers has no causal language model for this kind of checkpoint."""
    return _WRONG_KIND in str(error)


def runs_remote_code(model: Any) -> bool:
    """Whether a model's class came with its checkpoint."""
    return type(model).__module__.split(".")[0] == _REMOTE_MODULES


def forget_quantization(model: Any) -> None:
    """Make a model whose weights were dequantised on loading an ordinary one."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None


def known_gguf_splits() -> set[str]:
    """Return the ways of splitting text before byte-pair merges that transformers knows by name."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    return set(GGUF_PRE_TOKENIZER_SPLITS)


def attach_adapter(model: Any, folder: str) -> tuple[Any, list[str]]:
    """Put an adapter on a model, in float32 where the model is in half precision.

    Args:
        model: A `transformers.PreTrainedModel`; its layers are wrapped in place.
        folder: Of the adapter.

    Returns:
        The `peft.PeftModel`, and the names of weights that only one of model and adapter has.
    """
    from peft import PeftConfig, PeftModel

    with _quiet():
        config: Any = PeftConfig.from_pretrained(folder)
        config.inference_mode = True
        wrapped = PeftModel(model, config, _ADAPTER)
        found = wrapped.load_adapter(folder, _ADAPTER, is_trainable=False, torch_device="cpu")
    return wrapped, sorted({*found.missing_keys, *found.unexpected_keys})


def adapter_weights(wrapped: Any) -> dict[str, torch.Tensor]:
    """Return the weights that an adapter adds, as they stand in its file."""
    from peft import get_peft_model_state_dict

    with _quiet():
        return dict(get_peft_model_state_dict(wrapped, save_embedding_layers=False))


def merge(wrapped: Any) -> Any:
    """Add an adapter into the weights of its base; return the base.

    Raises:
        ValueError: If an adapter of this kind cannot be added to this model.
        NotImplementedError: Likewise.
    """
    with _quiet():
        return wrapped.merge_and_unload(progressbar=False, safe_merge=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """PEFT warns of its own deprecations and of defaults; what matters is checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
