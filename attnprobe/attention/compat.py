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

INTERFACE_NAME = "attnprobe"
"""transformers picks kernels by substring: a name must not hold sdpa, flash or flex_attention."""

FAST_KERNELS = ("sdpa",)
"""Implementations that take any values of the head size, so that a pooled pass can reuse them."""


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One call of an attention function, as the model made it."""

    module: torch.nn.Module
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

    @property
    def layer(self) -> int:
        """The layer's index, as the module knows it."""
        return int(self.module.layer_idx)  # pyright: ignore[reportArgumentType]


@runtime_checkable
class Observer(Protocol):
    """Sees each attention call of a switched model."""

    base: str

    def observe(self, call: AttentionCall, output: torch.Tensor) -> None:
        """Take a call and the output [batch, query, head, value size] the model goes on with."""
        ...


_observer: ContextVar[Observer | None] = ContextVar("attnprobe_observer", default=None)


def implementation_of(model: torch.nn.Module) -> str:
    """Return the name of the attention implementation that a transformers model uses.

    Raises:
        ModelError: If the model's attention cannot be reached through transformers' interface, or
            another recording is active.
    """
    inner = transformers_model(model)
    if _observer.get() is not None:
        raise ModelError(
            "a recording is active already", fix="leave the outer `record` before the next one"
        )
    name = getattr(inner.config, "_attn_implementation", None)
    if not isinstance(name, str) or not inner._can_set_attn_implementation():
        raise ModelError(
            "this model's attention is not reached through transformers' attention interface",
            where=type(inner).__name__, got=f"implementation {name!r}",
            expected="an architecture built on AttentionInterface, such as Llama, Qwen or GLM",
        )  # fmt: skip
    return name


def transformers_model(model: torch.nn.Module) -> PreTrainedModel:
    """Find the transformers model in `model` (itself, or inside a wrapper such as PEFT's)."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise ModelError(
        "this is no transformers model", got=type(model).__name__, expected="a PreTrainedModel"
    )


@contextmanager
def observed(model: torch.nn.Module, observer: Observer) -> Iterator[None]:
    """Show every attention call of `model` to `observer`; the model leaves as it came."""
    _register()
    configs = _configs(model)
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


def attention_layers(model: torch.nn.Module) -> tuple[int, ...]:
    """Return the indices of the layers that have attention modules."""
    layers = {
        module.layer_idx
        for module in model.modules()
        if "attention" in type(module).__name__.lower()
        and isinstance(getattr(module, "layer_idx", None), int)
    }
    return tuple(sorted(layers))  # pyright: ignore[reportArgumentType]


def _configs(model: torch.nn.Module) -> list[Any]:
    configs = {
        id(module.config): module.config
        for module in model.modules()
        if isinstance(module, PreTrainedModel)
    }
    return list(configs.values())


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
    return AttentionMaskInterface()[_active().base](*args, **kwargs)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    observer = _active()
    kernel = _kernel(observer.base, module)
    _refuse_unknown(kwargs, module)
    output, weights = kernel(module, query, key, value, attention_mask, **kwargs)
    scaling = kwargs.get("scaling")
    causal = kwargs.get("is_causal")
    quiet = {**kwargs, "dropout": 0.0}
    observer.observe(
        AttentionCall(
            module=module,
            query=query,
            key=key,
            value=value,
            mask=attention_mask,
            scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
            causal=getattr(module, "is_causal", True) if causal is None else causal,
            run=lambda values: kernel(module, query, key, values, attention_mask, **quiet)[0],
        ),
        output,
    )
    return output, weights


_UNDERSTOOD = {
    "dropout", "scaling", "is_causal", "sliding_window", "position_ids", "use_cache",
    "output_attentions", "output_hidden_states", "output_router_logits",
}  # fmt: skip
"""What models pass to their attention function that is taken care of, or changes no weights (a
sliding window is in the mask already)."""


def _refuse_unknown(kwargs: dict[str, Any], module: torch.nn.Module) -> None:
    for name, value in kwargs.items():
        if value is not None and name not in _UNDERSTOOD:
            raise ModelError(
                f"this model passes '{name}' to its attention, which is not captured yet",
                where=type(module).__name__, fix="nothing was recorded",
            )  # fmt: skip


def _kernel(base: str, module: torch.nn.Module) -> Callable[..., Any]:
    if base in AttentionInterface():
        return AttentionInterface()[base]
    return sys.modules[type(module).__module__].eager_attention_forward
