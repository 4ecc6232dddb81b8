"""What each architecture attends to, from transformers' own eager path in float64.

Eager attention is written apart from the fused kernels and from attnprobe, and returns its weights;
in float64 its rounding is far below any tolerance. Of every model here, a left-padded batch agrees
with its examples alone, and decoding from a cache with one pass over the whole text, to 1e-6.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from tests.architectures.zoo import VOCABULARY, ZOO

LENGTHS = (24, 17, 9)
"""Tokens of each example of a batch."""
N_GENERATED = 10
N_DECODED = 7
"""Tokens given to the decoder of an encoder-decoder model."""

Inputs = dict[str, torch.Tensor]
Attentions = dict[int, torch.Tensor]
"""{layer: [batch, head, query, key]}"""


@dataclass(frozen=True)
class Architecture:
    """What a test must know about one architecture."""

    name: str
    build: Callable[[], PreTrainedModel]
    base: Literal["sdpa", "eager"] = "sdpa"
    """The implementation that transformers chooses for it."""
    kind: Literal["decoder", "encoder", "encoder-decoder"] = "decoder"
    attending_layers: tuple[int, ...] = (0, 1, 2)
    """Layers with softmax attention (in the decoder, of an encoder-decoder model)."""
    encoder_layers: tuple[int, ...] = ()
    padding: Literal["left", "right"] = "left"
    """Where pads go so that they change nothing."""
    sums_to_one: bool = True
    """Whether rows sum to 1; not so with a sink column, which eager drops from its weights."""
    fused_only: bool = False
    """Whether its eager path is not what runs, so that the truth is worked out from the arguments
    of its fused calls."""
    needs_position_ids: bool = False
    """Whether a left-padded batch needs `position_ids` to mean what its examples mean alone."""
    notes: str = ""


_FACTS: dict[str, dict[str, Any]] = {
    "mistral-sliding": {"notes": "sliding in every layer; its cache returns the window only"},
    "qwen3_next": {
        "attending_layers": (1,),
        "notes": "gated delta nets elsewhere; the attention output is gated after the interface",
    },
    "gemma2": {"base": "eager", "notes": "softcap= before the mask; scaling from a config scalar"},
    "gpt2": {"needs_position_ids": True},
    "gpt_bigcode": {"needs_position_ids": True, "notes": "one KV head"},
    "biogpt": {"needs_position_ids": True},
    "opt": {
        "notes": "learned positions, worked out from the mask; scaling=1, queries scaled before"
    },
    "ctrl": {"needs_position_ids": True, "notes": "module class is MultiHeadAttention"},
    "gpt_oss": {
        "base": "eager", "sums_to_one": False,
        "notes": "s_aux= is a logit per head in the softmax's denominator; not scaled, not masked",
    },
    "granitemoehybrid": {"attending_layers": (1,), "notes": "mamba elsewhere"},
    "lfm2": {"attending_layers": (1,), "notes": "short convolutions elsewhere"},
    "deepseek_v2": {"notes": "MLA: value size 6, key size 12"},
    "deepseek_v3": {"notes": "MLA: value size 6, key size 12"},
    "minicpm3": {"notes": "MLA: value size 6, key size 12"},
    "llama4_text": {"notes": "chunks are counted from each example's first real token"},
    "diffllama": {
        "notes": "two calls per layer with the same q, k and mask on two halves of the values; "
        "eager returns the weights of the first, and the model mixes heads as A1 − λ·A2 later"
    },
    "jetmoe": {
        "notes": "top_k query heads per KV head, tiled and not interleaved: head h uses KV head "
        "h % n_kv_heads; which expert made a head's query differs from token to token"
    },
    "gpt_neo": {"base": "eager", "needs_position_ids": True, "notes": "scores are not scaled"},
    "gptj": {"base": "eager", "needs_position_ids": True},
    "codegen": {
        "base": "eager", "needs_position_ids": True,
        "notes": "the mask is added before the scaling",
    },
    "bloom": {"base": "eager", "notes": "ALiBi; examples and heads share an axis"},
    "mpt": {"base": "eager", "notes": "ALiBi; the mask is boolean, True = masked"},
    "xglm": {
        "base": "eager", "needs_position_ids": True,
        "notes": "examples and heads share an axis",
    },
    "openai-gpt": {
        "base": "eager", "needs_position_ids": True,
        "notes": "knows no cache; the future is masked by -10,000",
    },
    "falcon-rotary": {"fused_only": True, "notes": "one KV head, broadcast; eager adds a mask of "
                      "truth values to the scores"},
    "falcon-new": {"fused_only": True, "notes": "KV heads broadcast to all query heads"},
    "falcon-alibi": {"fused_only": True, "notes": "eager adds ALiBi twice, sdpa once"},
    "t5": {
        "kind": "encoder-decoder", "encoder_layers": (0, 1, 2),
        "notes": "position_bias=, no scaling; cross attention gets a zero bias",
    },
    "bart": {
        "kind": "encoder-decoder", "encoder_layers": (0, 1), "padding": "right",
        "notes": "learned positions that know no padding",
    },
    "bert": {"kind": "encoder", "needs_position_ids": True, "notes": "sees both ways"},
}  # fmt: skip

ARCHITECTURES: dict[str, Architecture] = {
    name: Architecture(name, build, **_FACTS.get(name, {})) for name, build in ZOO.items()
}
"""{name: architecture}."""


@dataclass(frozen=True)
class Truth:
    """Float64 attention of one pass."""

    own: Attentions
    """Self-attention (of the decoder, where there is one)."""
    encoder: Attentions = field(default_factory=dict)
    cross: Attentions = field(default_factory=dict)


def batch_of(architecture: Architecture) -> Inputs:
    """Make a padded batch of three examples, with 24, 17 and 9 tokens."""
    generator = torch.Generator().manual_seed(5)
    width = max(LENGTHS)
    inputs = {"input_ids": _random_ids(len(LENGTHS), width, generator)}
    at, lengths = torch.arange(width), torch.tensor(LENGTHS)[:, None]
    real = at >= width - lengths if architecture.padding == "left" else at < lengths
    inputs["attention_mask"] = real.long()
    if architecture.needs_position_ids:
        inputs["position_ids"] = _positions(inputs["attention_mask"])
    if architecture.kind == "encoder-decoder":
        inputs["decoder_input_ids"] = _random_ids(len(LENGTHS), N_DECODED, generator)
    return inputs


def example_of(architecture: Architecture, index: int) -> Inputs:
    """Take one example out of the batch, without its pads and without a mask."""
    batch = batch_of(architecture)
    columns = real_columns(architecture, index)
    alone = {"input_ids": batch["input_ids"][index : index + 1, columns]}
    if "decoder_input_ids" in batch:
        alone["decoder_input_ids"] = batch["decoder_input_ids"][index : index + 1]
    return alone


def real_columns(architecture: Architecture, index: int) -> slice:
    """Return the columns of the batch that hold an example's tokens."""
    width, length = max(LENGTHS), LENGTHS[index]
    return slice(width - length, width) if architecture.padding == "left" else slice(0, length)


def prompt_of(inputs: Inputs) -> Inputs:
    """Return what `generate` takes of these inputs."""
    return {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}


def grown(architecture: Architecture, inputs: Inputs, sequences: torch.Tensor) -> Inputs:
    """Make the one pass that sees what generating saw: all tokens but the last.

    Args:
        architecture: Which one.
        inputs: The prompts.
        sequences: What `generate` returned for them.
    """
    if architecture.kind == "encoder-decoder":
        return {**prompt_of(inputs), "decoder_input_ids": sequences[:, :-1]}
    longer = {"input_ids": sequences[:, :-1]}
    if (mask := inputs.get("attention_mask")) is not None:
        longer["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), N_GENERATED - 1)], 1)
        if architecture.needs_position_ids:
            longer["position_ids"] = _positions(longer["attention_mask"])
    return longer


@torch.no_grad()
def truth_of(architecture: Architecture, model: PreTrainedModel, inputs: Inputs) -> Truth:
    """Work out the attention of one pass in float64.

    Args:
        architecture: Which one.
        model: Its model; a copy is used.
        inputs: Of the pass.
    """
    exact = copy.deepcopy(model).double().eval()
    exact.set_attn_implementation("eager")
    exact.set_experts_implementation("eager")  # the grouped product knows no float64
    torch.set_default_dtype(torch.float64)  # xglm makes its mask's value in the default format
    try:
        if architecture.fused_only:
            with _FusedInFloat64() as calls:
                exact(**inputs)
            return Truth(dict(zip(architecture.attending_layers, calls.weights, strict=True)))
        with _Float64Softmax():
            outputs = exact(**inputs, output_attentions=True)
    finally:
        torch.set_default_dtype(torch.float32)
    own, encoder = architecture.attending_layers, architecture.encoder_layers
    if architecture.kind != "encoder-decoder":
        return Truth(dict(zip(own, outputs.attentions, strict=True)))
    return Truth(
        dict(zip(own, outputs.decoder_attentions, strict=True)),
        dict(zip(encoder, outputs.encoder_attentions, strict=True)),
        dict(zip(own, outputs.cross_attentions, strict=True)),
    )


class _Float64Softmax(TorchFunctionMode):
    """Let scores stay in float64 where a model's eager path asks for float32.

    Besides rounding, float32 has no room for float64's mask value: a pad's row, with no visible
    key, would be NaN instead of even, and poison every row after it.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.nn.functional.softmax and args[0].dtype == torch.float64:
            kwargs.pop("dtype", None)
        if func is torch.Tensor.float and args[0].dtype == torch.float64:
            return args[0]
        return func(*args, **kwargs)


class _FusedInFloat64(TorchFunctionMode):
    """Work out, beside each fused call, its weights from scores as wide as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[torch.Tensor] = []

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, key, _ = args
            scores = query @ key.mT / query.shape[-1] ** 0.5
            if kwargs["is_causal"]:
                future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
                scores = scores.masked_fill(future, -torch.inf)
            elif (mask := kwargs["attn_mask"]) is not None:
                added = mask.dtype != torch.bool
                scores = scores + mask if added else scores.masked_fill(~mask, -torch.inf)
            self.weights.append(scores.softmax(-1).nan_to_num())
        return func(*args, **kwargs)


def _random_ids(n: int, width: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (n, width), generator=generator)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(1) - 1).clamp_min(0)
