"""Load a causal language model and its tokenizer, whatever its name stands for."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from attnprobe.errors import ModelError
from attnprobe.models.adapters import Adapter, load_adapter
from attnprobe.models.checkpoints import Loading, check_vocabulary, load_checkpoint, n_embedded
from attnprobe.models.compat import runs_remote_code
from attnprobe.models.devices import choose_device, choose_dtype
from attnprobe.models.fingerprints import fingerprint
from attnprobe.models.inner import forward_arguments, transformers_model
from attnprobe.models.sources import Source, find_source
from attnprobe.models.virtual import stated_virtual

_N_LAYERS = "num_hidden_layers", "num_layers", "n_layer"
_N_KV_HEADS = "num_key_value_heads", "multi_query_group_num"
_MAX_TOKENS = "max_position_embeddings", "seq_length", "max_sequence_length"
"""How configs call a number, ChatGLM's among them."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, with what a run must know about it."""

    model: Any
    """A `transformers.PreTrainedModel` in eval mode, or a `peft.PeftModel` around one."""
    tokenizer: Any
    """Its tokenizer."""
    name: str
    """As the user called it."""
    adapter: Adapter | None = None
    """The adapter on it, if there is one."""

    @property
    def config(self) -> Any:
        """The text model's config."""
        return transformers_model(self.model).config.get_text_config(decoder=True)

    @property
    def n_layers(self) -> int:
        """Hidden layers."""
        if (number := _stated(self.config, _N_LAYERS)) is None:
            raise ModelError(
                "the config does not say how many layers there are", where=self.name,
                expected=f"one of {', '.join(_N_LAYERS)}", fix="add it to config.json",
            )  # fmt: skip
        return number

    @property
    def n_heads(self) -> int:
        """Query heads per layer."""
        return int(self.config.num_attention_heads)

    @property
    def max_tokens(self) -> int | None:
        """Context length, without the keys of a prefix; None where the config states none."""
        whole = _stated(self.config, _MAX_TOKENS)
        return None if whole is None else whole - stated_virtual(self.model)

    @property
    def n_kv_heads(self) -> int:
        """Heads of keys and values per layer."""
        shared = getattr(self.config, "multi_query_attention", True)
        return (_stated(self.config, _N_KV_HEADS) if shared else None) or self.n_heads

    @property
    def n_ids(self) -> int:
        """How many token ids it knows: the rows of its embedding."""
        return n_embedded(transformers_model(self.model))

    @property
    def pad_id(self) -> int:
        """A token to pad with: any that it knows will do, because pads are masked."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None and 0 <= pad < self.n_ids else 0

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
        return argument in forward_arguments(transformers_model(self.model))

    def identity(self) -> dict[str, Any]:
        """Describe the model for a run's manifest (JSON values)."""
        inner = transformers_model(self.model)
        described = {
            "name": self.name,
            "architecture": type(inner).__name__,
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_kv_heads,
            "dtype": str(self.dtype).removeprefix("torch."),
            "fingerprint": fingerprint(self.model),
        }
        if runs_remote_code(inner):
            described["remote_code"] = True
        if any(name.endswith(".sinks") for name, _ in inner.named_parameters()):
            described["softmax_sinks"] = True  # gpt-oss: columns of the softmax that are no keys
        return described if self.adapter is None else described | {"adapter": asdict(self.adapter)}


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    base: str | None = None,
    merge_adapter: bool = False,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a model and its tokenizer.

    Args:
        name: `smollm2-135m-instruct`, a folder in transformers' format, a `.gguf` file, a folder
            with a PEFT adapter, or a hub id. Only `org/name` is ever looked up on the hub, and
            not where `HF_HUB_OFFLINE` is set.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `auto`, `float32`, `bfloat16`, `float16`.
        base: Of an adapter: the model it belongs on; None for the one it names.
        merge_adapter: Add an adapter into the weights of its base, instead of keeping it apart.
        trust_remote_code: Run the code that comes with a checkpoint.

    Returns:
        The model in eval mode on its device, with its own fast attention.

    Raises:
        ModelError: If it cannot be found or loaded as a whole: what was looked for, and how to get
            it.
    """
    where = choose_device(device)
    loading = Loading(choose_dtype(dtype, where), trust_remote_code)
    source = find_source(name)
    adapter = None
    if source.kind == "adapter":
        model, tokenizer, adapter = load_adapter(source, loading, base, merge_adapter)
    else:
        _refuse_adapter_options(source, base, merge_adapter)
        model, tokenizer = load_checkpoint(source, loading)
    check_vocabulary(transformers_model(model), tokenizer, name)
    model.eval()
    model.to(where)
    return LoadedModel(model, tokenizer, name, adapter)


def _stated(config: Any, names: Sequence[str]) -> int | None:
    """Return a number of a config by the first of these names that it has."""
    given = (getattr(config, name, None) for name in names)
    return next((int(value) for value in given if value), None)


def _refuse_adapter_options(source: Source, base: str | None, merge_adapter: bool) -> None:
    for option, given in (("--base", base), ("--merge-adapter", merge_adapter)):
        if given:
            raise ModelError(
                "this option is of adapters only", where=option,
                got=f"{source.name}, which is no adapter",
                expected="a folder with adapter_config.json", fix="leave it out",
            )  # fmt: skip
