"""The only place that knows private names of transformers, PEFT and the hub for loading."""

import functools
import inspect
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
_PROMPT = "prompt_embeddings"
"""Weights of a prefix, which PEFT loads apart from all others, and strictly."""

_CAUSAL = "AutoModelForCausalLM"

_FORMER_SETTINGS = {"use_cache": True}
_LENT_SETTINGS = {"max_length": 20}
"""What every config had before transformers 5, with its default; lent while a model is made."""

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
    return is_remote(type(model))


@contextmanager
def as_once(config: Any, path: str, local_only: bool) -> Iterator[None]:
    """Let code that came with a checkpoint make its model as the transformers of its day did.

    Inside the block its config has the settings that all configs once had, and its class does
    what transformers now expects of the end of `__init__`.

    Args:
        config: Of the checkpoint; nothing is done if it is one of transformers' own.
        path: Of the checkpoint.
        local_only: Whether its code may not be looked up on the hub.
    """
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    kind = type(config)
    if not is_remote(kind):
        yield
        return
    auto_map = config.auto_map
    if not config.is_encoder_decoder:  # ChatGLM-6B calls itself a sequence-to-sequence model only
        auto_map.setdefault(_CAUSAL, auto_map.get("AutoModelForSeq2SeqLM"))
    if auto_map[_CAUSAL]:
        made: Any = get_class_from_dynamic_module(
            auto_map[_CAUSAL], path, local_files_only=local_only
        )
        _finish_init(made)
    else:
        del auto_map[_CAUSAL]
    for name in _FORMER_SETTINGS.keys() - vars(config).keys():
        setattr(kind, name, _FORMER_SETTINGS[name])
    lent = [name for name in _LENT_SETTINGS if not hasattr(config, name)]
    for name in lent:
        setattr(kind, name, _LENT_SETTINGS[name])
    try:
        yield
    finally:
        for name in lent:
            delattr(kind, name)


def is_remote(kind: type) -> bool:
    """Whether a class came with a checkpoint."""
    return kind.__module__.split(".")[0] == _REMOTE_MODULES


def _finish_init(kind: Any) -> None:
    """Call `post_init` at the end of a model's `__init__`, which once was left out unpunished."""
    original = kind.__init__
    if getattr(original, "ends_in_post_init", False):
        return

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if not hasattr(self, "all_tied_weights_keys"):
            self.post_init()

    init.ends_in_post_init = True  # pyright: ignore
    kind.__init__ = init


def mend_padding(tokenizer: Any) -> None:
    """Let a tokenizer's own padding, written for an earlier transformers, be called by today's.

    transformers names the side to pad on since version 4.45.
    """
    kind = type(tokenizer)
    own: Any = vars(kind).get("_pad")
    if own is None or not is_remote(kind):
        return
    known = inspect.signature(own).parameters
    if "padding_side" in known or any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return

    @functools.wraps(own)
    def pad(self: Any, *args: Any, padding_side: str | None = None, **kwargs: Any) -> Any:
        return own(self, *args, **kwargs)

    kind._pad = pad


def pads_by_itself(tokenizer: Any) -> bool:
    """Whether the code of a tokenizer that came with a checkpoint pads in its own way."""
    kind = type(tokenizer)
    return is_remote(kind) and "_pad" in vars(kind)


def forget_quantization(model: Any) -> None:
    """Make a model whose weights were dequantised on loading an ordinary one."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False  # Trainer and PEFT train no quantised weights


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
    from peft import PeftConfig, PeftModel, PeftModelForCausalLM

    with _quiet():
        config: Any = PeftConfig.from_pretrained(folder)
        config.inference_mode = True
        kind = PeftModelForCausalLM if config.is_prompt_learning else PeftModel
        wrapped: Any = kind(model, config, _ADAPTER)
        found = wrapped.load_adapter(folder, _ADAPTER, is_trainable=False, torch_device="cpu")
    apart = {_PROMPT} if config.is_prompt_learning else set()
    return wrapped, sorted({*found.missing_keys, *found.unexpected_keys} - apart)


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
