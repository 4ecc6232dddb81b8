"""The only place that knows transformers' private names for attention.

A model of transformers looks its attention function and its mask function up by the name in its
config. attnprobe registers both under one name of its own; while a model is switched to it, both
delegate to whatever the model used before, and every call is shown to an observer.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from attnprobe.attention.calls import AttentionCall, Call, Place
from attnprobe.errors import ModelError
from attnprobe.models import transformers_model

INTERFACE_NAME = "attnprobe"
"""transformers picks kernels by substring: a name must not hold sdpa, flash or flex_attention."""

INTERFACE, INTERCEPTION = "interface", "interception"
"""How attention is reached: through transformers' attention interface, or by watching what the
attention modules compute."""

BASES = ("sdpa", "eager")
"""Implementations that a model may come with."""


@runtime_checkable
class Switched(Protocol):
    """What switching a model must know of it."""

    base: str
    """The implementation it came with."""
    configs: list[Any]
    """Every config that names an implementation."""
    places: dict[torch.nn.Module, Place]
    """Where each attention module stands."""
    route: str
    """How its attention is reached: `interface` or `interception`."""


@runtime_checkable
class Observer(Protocol):
    """Sees each attention call of a model."""

    @property
    def survey(self) -> Switched:
        """What is known of the model."""
        ...

    def observe(self, call: Call, output: torch.Tensor | None) -> None:
        """Take a call and the output [batch, query, head, value size] the model goes on with.

        The output is None where it was not seen.
        """
        ...


@runtime_checkable
class Editing(Protocol):
    """Changes the attention of a model while it runs."""

    @property
    def survey(self) -> Switched:
        """What is known of the model."""
        ...

    def edited_mask(
        self, place: Place, shape: tuple[int, int, int], mask: torch.Tensor | None, causal: bool
    ) -> torch.Tensor | None:
        """Return the mask that a call (heads, queries, keys) gets instead of its own."""
        ...

    def edited_output(self, place: Place, output: torch.Tensor) -> torch.Tensor:
        """Return what the model goes on with instead of an output [batch, query, head, size]."""
        ...


_observer: ContextVar[Observer | None] = ContextVar("attnprobe_observer", default=None)
_editings: ContextVar[tuple[Editing, ...]] = ContextVar("attnprobe_editings", default=())


@contextmanager
def observed(survey: Switched, observer: Observer) -> Iterator[None]:
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


@contextmanager
def switched(editing: Editing) -> Iterator[None]:
    """Let every attention call of a model pass by an editing; the model leaves as it came."""
    _register()
    configs = editing.survey.configs
    before = [config._attn_implementation_internal for config in configs]
    try:
        for config in configs:
            config._attn_implementation_internal = INTERFACE_NAME
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name


@contextmanager
def edited_by(editing: Editing) -> Iterator[None]:
    """Let an editing change attention inside the block, after those that are active already."""
    token = _editings.set((*_editings.get(), editing))
    try:
        yield
    finally:
        _editings.reset(token)


def active_editings() -> tuple[Editing, ...]:
    """Return the editings that are active, the outermost first."""
    return _editings.get()


def active_observer() -> Observer | None:
    """Return the recording that is active."""
    return _observer.get()


def is_recording() -> bool:
    """Whether a recording is active."""
    return _observer.get() is not None


@contextmanager
def announced(observer: Observer) -> Iterator[None]:
    """Let no other recording begin inside the block."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def implementation_of(config: Any) -> str:
    """Return the attention implementation that a config names; `eager` where it names none.

    Of a model that is being edited, the one that it came with.
    """
    name = str(getattr(config, "_attn_implementation", None) or "eager")
    if name != INTERFACE_NAME:
        return name
    known = (one.survey for one in _editings.get() if any(config is c for c in one.survey.configs))
    return next((survey.base for survey in known), name)


def interface_reaches(model: torch.nn.Module, attention: Iterable[torch.nn.Module]) -> bool:
    """Whether a model's attention modules are transformers' own, and look their function up.

    transformers decides by a look at the source, which remote code can pass by chance.
    """
    from_transformers = all(
        type(module).__module__.startswith("transformers.") for module in attention
    )
    return from_transformers and inner_model(model)._can_set_attn_implementation()


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether a module runs code that torch.compile made."""
    return module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule"


def in_backward() -> bool:
    """Whether autograd runs backwards here; gradient checkpointing repeats forward passes then."""
    return torch._C._current_graph_task_id() != -1


def inner_model(model: torch.nn.Module) -> Any:
    """Return the transformers model inside `model`; itself where there is none."""
    return next((m for m in model.modules() if isinstance(m, PreTrainedModel)), model)


def has_encoder(model: torch.nn.Module) -> bool:
    """Whether a model has an encoder beside its decoder."""
    config = getattr(inner_model(model), "config", None)
    return bool(getattr(config, "is_encoder_decoder", False))


def encoder_of(model: torch.nn.Module) -> torch.nn.Module:
    """Return the encoder of an encoder–decoder model."""
    return transformers_model(model).get_encoder()


def decoder_of(model: torch.nn.Module) -> torch.nn.Module:
    """Return the decoder of an encoder–decoder model."""
    return transformers_model(model).get_decoder()


def cached_tokens(cache: Any, expected: int) -> int:
    """Return how many tokens a key–value cache holds.

    Args:
        cache: Of transformers, or a tuple of (keys, values) for each layer, whose axes remote code
            orders as it likes.
        expected: How many it should hold; a tuple that has an axis of this length does.
    """
    if cache is None:
        return 0
    if not isinstance(cache, tuple | list):
        return int(cache.get_seq_length())
    if not cache or cache[0] is None:
        return 0
    shape = cache[0][0].shape
    return expected if expected in shape else max(shape[:-1])


def _register() -> None:
    """Register the pair of functions (again: it is idempotent)."""
    AttentionInterface.register(INTERFACE_NAME, _attention)
    AttentionMaskInterface.register(INTERFACE_NAME, _mask)


def _active_survey() -> Switched:
    observer, editings = _observer.get(), _editings.get()
    if observer is not None:
        return observer.survey
    if editings:
        return editings[0].survey
    raise ModelError(
        "a model is set to attnprobe's attention outside a recording",
        fix="reload the model, or set its attention implementation to 'sdpa'",
    )


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    return AttentionMaskInterface()[_active_survey().base](*args, **kwargs)


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
    observer, survey = _observer.get(), _active_survey()
    _refuse_unknown(kwargs, module)
    kernel = _kernel(survey.base, module)
    scaling, causal = kwargs.get("scaling"), kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    place = _place_of(module, survey)
    editings = [one for one in _editings.get() if module in one.survey.places]
    for editing in editings:
        shape = query.shape[1], query.shape[2], key.shape[2]
        attention_mask = editing.edited_mask(place, shape, attention_mask, causal)
    output, weights = kernel(module, query, key, value, attention_mask, **kwargs)
    if observer is not None and observer.survey.route == INTERFACE:
        quiet = {**kwargs, "dropout": 0.0}
        call = AttentionCall(
            kind=place[0],
            layer=place[1],
            query=query,
            key=key,
            value=value,
            mask=attention_mask,
            scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
            causal=causal,
            run=lambda values: kernel(module, query, key, values, attention_mask, **quiet)[0],
            softcap=kwargs.get("softcap"),
            sinks=kwargs.get("s_aux"),
            bias=kwargs.get("position_bias"),
            fused=survey.base != "eager",
        )
        observer.observe(call, output)
    for editing in editings:
        output = editing.edited_output(place, output)
    return output, weights


def _place_of(module: torch.nn.Module, survey: Switched) -> Place:
    place = survey.places.get(module)
    if place is None:
        raise ModelError(
            "an attention module without a layer number", where=type(module).__name__,
            fix="nothing was recorded",
        )  # fmt: skip
    return place


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
