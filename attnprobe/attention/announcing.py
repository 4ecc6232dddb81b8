"""Hearing of each forward pass of a model before it begins: its inputs, its mask and its cache."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch

from attnprobe.attention.calls import ENCODER, SELF
from attnprobe.attention.compat import decoder_of, encoder_of, has_encoder, inner_model
from attnprobe.errors import ModelError


@runtime_checkable
class PassTaker(Protocol):
    """Is told of each forward pass."""

    def begin(self, kind: str, ids: torch.Tensor, mask: Any, cache: Any) -> None:
        """Prepare for a forward pass of one stack over these inputs."""
        ...


@contextmanager
def announced_passes(model: torch.nn.Module, taker: PassTaker) -> Iterator[None]:
    """Tell `taker` of each forward pass of each stack of a model, before it begins."""
    with ExitStack() as stack:
        for module, kind in _stacks(model):
            hook = module.register_forward_pre_hook(_announce(taker, kind), with_kwargs=True)
            stack.callback(hook.remove)
        yield


def _stacks(model: torch.nn.Module) -> list[tuple[torch.nn.Module, str]]:
    if has_encoder(model):
        return [(encoder_of(model), ENCODER), (decoder_of(model), SELF)]
    return [(inner_model(model), SELF)]


def _announce(taker: PassTaker, kind: str) -> Callable[..., None]:
    def before_forward(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = _by_name(module, args, kwargs)
        inputs = [given.get("input_ids"), given.get("inputs_embeds"), *args, *kwargs.values()]
        ids = next((one for one in inputs if isinstance(one, torch.Tensor)), None)
        if ids is None:
            raise ModelError("the model was called without input ids", where=type(module).__name__)
        taker.begin(kind, ids, given.get("attention_mask"), given.get("past_key_values"))

    return before_forward


def _by_name(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Name the arguments of a forward pass."""
    names = list(inspect.signature(module.forward).parameters)
    return dict(zip(names, args, strict=False)) | kwargs
