"""The only place that knows transformers' private names for attention.

A model of transformers looks its attention function and its mask function up by the name in its
config. attnprobe registers both under one name of its own; while a model is switched to it, both
delegate to whatever the model used before, and every call is shown to an observer.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from attnprobe.errors import ModelError
from attnprobe.models import transformers_model

INTERFACE_NAME = "attnprobe"
"""transformers picks kernels by substring: a name must not hold sdpa, flash or flex_attention."""

BASES = ("sdpa", "eager")
"""Implementations that a model may come with."""

SELF, ENCODER, CROSS = "self", "encoder", "cross"
"""Kinds of attention. In a model with one stack, all attention is `self`."""

Place = tuple[str, int]
"""Kind and layer index."""


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One call of an attention function, as the model made it."""

    kind: str
    """`self`, `encoder` or `cross`."""
    layer: int
    """Index of the layer in its stack."""
    query: torch.Tensor
    """[batch, head, query, head size]"""
    key: torch.Tensor
    """[batch, KV head, key, head size]"""
    value: torch.Tensor
    """[batch, KV head, key, value size]"""
    mask: torch.Tensor | None
    """Boolean (True = visible) or additive, [batch or 1, head or 1, query, key]; None: `causal`."""
    scaling: float
    causal: bool
    """Whether, without a mask, a query sees only the keys up to itself."""
    run: Callable[[torch.Tensor], torch.Tensor]
    """The model's own kernel on other values [batch, KV head, key, value size]
    → [batch, query, head, value size], without dropout."""
    softcap: float | None = None
    """Scores are bent to `softcap · tanh(score / softcap)` before the mask (Gemma 2)."""
    sinks: torch.Tensor | None = None
    """[head]: logit of one more column in the softmax, which is dropped after it (gpt-oss)."""
    bias: torch.Tensor | None = None
    """[batch or 1, head, query, key] added to the scores (T5)."""
    fused: bool = True
    """Whether `run` never holds the weights as a whole."""


@runtime_checkable
class Observer(Protocol):
    """Sees each attention call of a switched model."""

    survey: "Survey"

    def observe(self, call: AttentionCall, output: torch.Tensor) -> None:
        """Take a call and the output [batch, query, head, value size] the model goes on with."""
        ...


_observer: ContextVar[Observer | None] = ContextVar("attnprobe_observer", default=None)


class Survey:
    """What a recording must know of a model, read in one walk over its modules.

    Raises:
        ModelError: If the model's attention cannot be reached through transformers' interface.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.inner = transformers_model(model)
        self.name = type(self.inner).__name__
        self.places: dict[torch.nn.Module, Place] = {}
        """Kind and layer of each attention module: one that has a layer number and calls itself
        attention. Layers of other kinds (recurrent, convolutional) have none."""
        encoder = set(encoder_of(model).modules()) if has_encoder(model) else set()
        compiled, by_identity = False, {}
        for path, module in model.named_modules():
            kind = type(module).__name__
            compiled |= module._compiled_call_impl is not None or kind == "OptimizedModule"
            if isinstance(module, PreTrainedModel):
                by_identity[id(module.config)] = module.config
            if "attention" in kind.lower():
                self._place(path, module, encoder)
        self.configs: list[Any] = list(by_identity.values())
        if compiled:
            raise ModelError(
                "a compiled model runs code that was fixed before the recording", where=self.name,
                fix="record the model before torch.compile (model._orig_mod of a compiled one)",
            )  # fmt: skip
        devices = {parameter.device for parameter in self.inner.parameters()}
        if len(devices) > 1:
            raise ModelError(
                "this model is split over several devices", where=self.name,
                got=", ".join(sorted(map(str, devices))), expected="one device",
                fix="load it without device_map; --dtype bfloat16 halves what it takes",
            )  # fmt: skip
        self.base = self._checked_base()

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers with self-attention (of the decoder, where there are two stacks)."""
        return tuple(sorted({layer for kind, layer in self.places.values() if kind == SELF}))

    def _place(self, path: str, module: torch.nn.Module, encoder: set[torch.nn.Module]) -> None:
        layer = getattr(module, "layer_idx", None)
        if not isinstance(layer, int):
            layer = next((int(part) for part in path.split(".") if part.isdecimal()), None)
        if layer is None:
            return
        kind = ENCODER if module in encoder else SELF
        if encoder and kind == SELF and not getattr(module, "is_causal", True):
            kind = CROSS
        self.places[module] = kind, layer

    def _checked_base(self) -> str:
        if _observer.get() is not None:
            raise ModelError(
                "a recording is active already", fix="leave the outer `record` before the next one"
            )
        names = {str(getattr(config, "_attn_implementation", None)) for config in self.configs}
        if len(names) > 1:
            raise ModelError(
                "parts of this model use different attention implementations", where=self.name,
                got=", ".join(sorted(names)),
                fix="call model.set_attn_implementation('sdpa') first",
            )  # fmt: skip
        (name,) = names
        if not self.inner._can_set_attn_implementation():
            raise ModelError(
                "this model's attention is not reached through transformers' attention interface",
                where=self.name, got=f"implementation '{name}'",
                expected="an architecture built on AttentionInterface, such as Llama, Qwen or GLM",
            )  # fmt: skip
        if name not in BASES:
            raise ModelError(
                "this attention implementation cannot be recorded", where=self.name, got=name,
                expected=" or ".join(BASES),
                fix="call model.set_attn_implementation('sdpa') first",
            )  # fmt: skip
        return name


@contextmanager
def observed(survey: Survey, observer: Observer) -> Iterator[None]:
    """Show every attention call of a model to `observer`; the model leaves as it came."""
    _register()
    configs = survey.configs
    before = [config._attn_implementation_internal for config in configs]
    token = _observer.set(observer)
    try:
        for config in configs:
            config._attn_implementation_internal = INTERFACE_NAME
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name
        _observer.reset(token)


def has_encoder(model: torch.nn.Module) -> bool:
    """Whether a model has an encoder beside its decoder."""
    return bool(getattr(transformers_model(model).config, "is_encoder_decoder", False))


def encoder_of(model: torch.nn.Module) -> torch.nn.Module:
    """Return the encoder of an encoder–decoder model."""
    return transformers_model(model).get_encoder()


def decoder_of(model: torch.nn.Module) -> torch.nn.Module:
    """Return the decoder of an encoder–decoder model."""
    return transformers_model(model).get_decoder()


def cached_tokens(cache: Any) -> int:
    """Return how many tokens a key–value cache holds."""
    return 0 if cache is None else int(cache.get_seq_length())


def _register() -> None:
    """Register the pair of functions (again: it is idempotent)."""
    AttentionInterface.register(INTERFACE_NAME, _attention)
    AttentionMaskInterface.register(INTERFACE_NAME, _mask)


def _active() -> Observer:
    observer = _observer.get()
    if observer is None:
        raise ModelError(
            "a model is set to attnprobe's attention outside a recording",
            fix="reload the model, or set its attention implementation to 'sdpa'",
        )
    return observer


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    return AttentionMaskInterface()[_active().survey.base](*args, **kwargs)


_HARMLESS = {
    "dropout", "scaling", "is_causal", "sliding_window", "position_ids", "use_cache",
    "output_attentions", "output_hidden_states", "output_router_logits", "return_dict",
    "num_items_in_batch",
}  # fmt: skip
"""What models pass to their attention function that changes no weights (a sliding window is in the
mask already)."""

_APPLIED = {"softcap", "s_aux", "position_bias"}
"""What changes the weights, and is applied to the rows as well."""


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    observer = _active()
    _refuse_unknown(kwargs, module)
    kernel = _kernel(observer.survey.base, module)
    output, weights = kernel(module, query, key, value, attention_mask, **kwargs)
    place = observer.survey.places.get(module)
    if place is None:
        raise ModelError(
            "an attention module without a layer number", where=type(module).__name__,
            fix="nothing was recorded",
        )  # fmt: skip
    scaling, causal = kwargs.get("scaling"), kwargs.get("is_causal")
    quiet = {**kwargs, "dropout": 0.0}
    call = AttentionCall(
        kind=place[0],
        layer=place[1],
        query=query,
        key=key,
        value=value,
        mask=attention_mask,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        causal=getattr(module, "is_causal", True) if causal is None else causal,
        run=lambda values: kernel(module, query, key, values, attention_mask, **quiet)[0],
        softcap=kwargs.get("softcap"),
        sinks=kwargs.get("s_aux"),
        bias=kwargs.get("position_bias"),
        fused=observer.survey.base != "eager",
    )
    observer.observe(call, output)
    return output, weights


def _refuse_unknown(kwargs: dict[str, Any], module: torch.nn.Module) -> None:
    for name, value in kwargs.items():
        if value is not None and name not in _HARMLESS | _APPLIED:
            raise ModelError(
                f"this model passes '{name}' to its attention, which is not captured yet",
                where=type(module).__name__, fix="nothing was recorded",
            )  # fmt: skip


def _kernel(base: str, module: torch.nn.Module) -> Callable[..., Any]:
    if base in AttentionInterface():
        return AttentionInterface()[base]
    return sys.modules[type(module).__module__].eager_attention_forward
