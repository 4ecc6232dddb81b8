"""Load a causal language model and its tokenizer: a known name, a folder, or a hub id."""

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attnprobe.errors import ModelError, nearest
from attnprobe.models import smollm2
from attnprobe.models.devices import choose_device, choose_dtype
from attnprobe.models.inner import transformers_model

KNOWN: dict[str, Callable[[], Path]] = {smollm2.NAME: smollm2.smollm2_folder}
"""Names that stand for a model folder made on the spot."""

_SAMPLED = 64
"""Values of each weight that enter its fingerprint."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, with what a run must know about it."""

    model: Any
    """A `transformers.PreTrainedModel` in eval mode."""
    tokenizer: Any
    """Its tokenizer."""
    name: str
    """As the user called it."""

    @property
    def config(self) -> Any:
        """The text model's config."""
        return self.model.config.get_text_config(decoder=True)

    @property
    def n_layers(self) -> int:
        """Hidden layers."""
        return int(self.config.num_hidden_layers)

    @property
    def n_heads(self) -> int:
        """Query heads per layer."""
        return int(self.config.num_attention_heads)

    @property
    def max_tokens(self) -> int | None:
        """Context length; None where the config states none."""
        value = getattr(self.config, "max_position_embeddings", None)
        return int(value) if value else None

    @property
    def device(self) -> torch.device:
        """Where its inputs go."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The number format it computes in."""
        return next(self.model.parameters()).dtype

    def accepts(self, argument: str) -> bool:
        """Whether the model's forward pass names this argument."""
        return argument in inspect.signature(transformers_model(self.model).forward).parameters

    def identity(self) -> dict[str, Any]:
        """Describe the model for a run's manifest (JSON values)."""
        return {
            "name": self.name,
            "architecture": type(self.model).__name__,
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "n_kv_heads": int(getattr(self.config, "num_key_value_heads", None) or self.n_heads),
            "dtype": str(self.dtype).removeprefix("torch."),
            "fingerprint": fingerprint(self.model),
        }


def load_model(name: str, *, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """Load a model and its tokenizer.

    Args:
        name: `smollm2-135m-instruct`, a folder in transformers' format, or a hub id.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `auto`, `float32`, `bfloat16`, `float16`.

    Returns:
        The model in eval mode on its device, with its own fast attention.

    Raises:
        ModelError: If it cannot be found or loaded: what was looked for and how to get it.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = choose_device(device)
    source = _source(name)
    local = {"local_files_only": True} if Path(source).is_dir() else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **local)
        model: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=choose_dtype(dtype, where), **local
        )
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded(name, error) from error
    model.eval()
    model.to(where)
    return LoadedModel(model, tokenizer, name)


def fingerprint(model: Any) -> str:
    """Hash a sample of every weight, to tell one checkpoint from another in a second.

    Args:
        model: A torch module.

    Returns:
        SHA-256 over names, shapes and 64 evenly spaced values of each parameter.
    """
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        flat = weight.detach().reshape(-1)
        stride = max(1, len(flat) // _SAMPLED)
        sample = flat[::stride][:_SAMPLED].float().cpu().numpy()
        digest.update(f"{name} {tuple(weight.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()


def _source(name: str) -> str:
    if name in KNOWN:
        return str(KNOWN[name]())
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                "this folder is no model", where=name, got="no config.json in it",
                expected="a folder written by save_pretrained",
            )  # fmt: skip
        return str(path)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(
            "no model folder there", where=name, expected=_EXPECTED, fix=nearest(name, KNOWN)
        )
    return name


_EXPECTED = "a known name, a model folder, or a hub id such as org/name"


def _not_loaded(name: str, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())
    return ModelError(
        "cannot load this model", where=name,
        got=reason[:300] + ("…" if len(reason) > 300 else ""), expected=_EXPECTED,
        fix=f"check the spelling, or download it first and pass the folder; {nearest(name, KNOWN)}",
    )  # fmt: skip
