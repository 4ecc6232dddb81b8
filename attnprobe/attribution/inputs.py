"""What attribution takes: one sequence, ranges inside it, a model that can be differentiated."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int

from attnprobe.attribution.prediction import Ranges
from attnprobe.errors import ModelError, SelectionError
from attnprobe.models import transformers_model
from attnprobe.models.virtual import stated_virtual


def check_input(
    model: torch.nn.Module, input_ids: Any, n_prompt: int
) -> Int[torch.Tensor, "1 token"]:
    """Check what is to be attributed and bring it to the model's device.

    Raises:
        SelectionError: If the ids are no sequence of the model's tokens, or leave no target.
        ModelError: If an adapter puts virtual tokens before the text.
    """
    refuse_virtual(
        stated_virtual(model), "model",
        "use a model without prefix tuning, such as one with a LoRA adapter",
    )  # fmt: skip
    ids = _one_sequence(input_ids, "input_ids")
    n_tokens = ids.shape[1]
    if not 1 <= n_prompt < n_tokens:
        raise SelectionError(
            "there is no target after the prompt, or no prompt before it", where="n_prompt",
            got=n_prompt, expected=f"1 to {n_tokens - 1} of {n_tokens} tokens",
        )  # fmt: skip
    return _known(model, ids, "input_ids")


def refuse_virtual(n_virtual: int, where: str, fix: str) -> None:
    """Refuse a model with virtual tokens: its attributions would leave the prefix out.

    Args:
        n_virtual: How many there are.
        where: What asked for attributions.
        fix: What to do instead.

    Raises:
        ModelError: If there are any.
    """
    if n_virtual:
        raise ModelError(
            "attributions of a model with virtual tokens are not supported: what the prefix "
            "contributed belongs to no token of the text", where=where,
            got=f"{n_virtual} virtual tokens", fix=fix,
        )  # fmt: skip


def _known(
    model: torch.nn.Module, ids: Int[torch.Tensor, "1 token"], where: str
) -> Int[torch.Tensor, "1 token"]:
    """Check token ids against the vocabulary and bring them to the model's device."""
    embedding = transformers_model(model).get_input_embeddings()
    n_known = getattr(embedding, "num_embeddings", None)
    if isinstance(n_known, int) and not 0 <= int(ids.min()) <= int(ids.max()) < n_known:
        raise SelectionError(
            "a token id is not in the model's vocabulary", where=where,
            got=int(ids.max()) if int(ids.min()) >= 0 else int(ids.min()),
            expected=f"0 to {n_known - 1}",
        )  # fmt: skip
    device = next(model.parameters()).device
    with torch.inference_mode(False):  # a tensor made in inference mode could have no gradients
        return ids.detach().to(device, torch.int64, copy=True)


def _one_sequence(given: Any, where: str) -> Int[torch.Tensor, "1 token"]:
    try:
        ids = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        ids, got = torch.empty(0, 0), type(given).__name__
    else:
        got = f"{ids.dtype} of shape {tuple(ids.shape)}"
    ids = ids[None] if ids.ndim == 1 else ids
    if ids.ndim != 2 or len(ids) != 1 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise SelectionError(
            "attribution takes one sequence of token ids", where=where, got=got,
            expected="whole numbers of shape [token] or [1, token]",
        )  # fmt: skip
    return ids


def check_ranges(
    ranges: Iterable[Any] | None, name: str, first: int, n_tokens: int
) -> Ranges | None:
    """Check ranges of tokens.

    Args:
        ranges: Half-open (start, stop); None for none.
        name: Of the argument, for messages.
        first: Where they may begin.
        n_tokens: Where they must end.

    Returns:
        Them, or None.

    Raises:
        SelectionError: If there is none, one is empty or reaches outside, or two overlap.
    """
    if ranges is None:
        return None
    found: list[tuple[int, int]] = []
    for number, one in enumerate(ranges):
        start, stop = _two_numbers(one, f"{name}[{number}]")
        if not start < stop:
            raise SelectionError(
                "this span is empty", where=f"{name}[{number}]", got=f"({start}, {stop})",
                expected="a start below its stop", fix="leave it out",
            )  # fmt: skip
        if not first <= start < stop <= n_tokens:
            raise SelectionError(
                "this span reaches outside", where=f"{name}[{number}]", got=f"({start}, {stop})",
                expected=f"token positions from {first} to {n_tokens}",
            )  # fmt: skip
        found.append((start, stop))
    if not found:
        raise SelectionError("there is no span", where=name, fix="name at least one, or pass None")
    _refuse_overlap(found, name)
    return tuple(found)


def _two_numbers(one: Any, where: str) -> tuple[int, int]:
    try:
        start, stop = (one.start, one.stop) if hasattr(one, "start") else one
        return int(start), int(stop)
    except (TypeError, ValueError):
        raise SelectionError(
            "this is no span", where=where, got=repr(one), expected="(start, stop)"
        ) from None


def _refuse_overlap(ranges: Sequence[tuple[int, int]], name: str) -> None:
    ordered = sorted(ranges)
    for one, two in pairwise(ordered):
        if two[0] < one[1]:
            raise SelectionError(
                "two spans overlap, so that tokens would be credited twice", where=name,
                got=f"{one} and {two}", fix="cut them apart",
            )  # fmt: skip


def check_foils(
    model: torch.nn.Module, foils: Any, n_steps: int
) -> Int[torch.Tensor, " step"] | None:
    """Check the tokens that a contrast is held against.

    Raises:
        SelectionError: If they are not one known token for each step.
    """
    if foils is None:
        return None
    ids = _one_sequence(foils, "foils")
    if ids.shape[1] != n_steps:
        raise SelectionError(
            "a foil is needed for each predicted token", where="foils",
            got=ids.shape[1], expected=n_steps,
        )  # fmt: skip
    return _known(model, ids, "foils")[0]


def check_differentiable(model: torch.nn.Module, method: str) -> None:
    """Refuse a model whose weights are stored in codes.

    Raises:
        ModelError: Naming what kind of weights was found.
    """
    inner = transformers_model(model)
    kinds = {weight.dtype for weight in model.parameters()}
    coded = sorted(str(kind) for kind in kinds if not kind.is_floating_point)
    if coded or getattr(inner, "is_quantized", False):
        raise ModelError(
            "the model's weights are quantised, so its gradients are not its own",
            where=f"method '{method}'", got=", ".join(coded) or type(inner).__name__,
            fix="load the model unquantised, in bfloat16 if memory is short",
        )  # fmt: skip


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """Hold a model in eval mode, its weights without gradients; it leaves as it came."""
    weights: Sequence[torch.nn.Parameter] = list(model.parameters())
    learned = [weight.requires_grad for weight in weights]
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        for weight in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for weight, was_learned in zip(weights, learned, strict=True):
            weight.requires_grad_(was_learned)
        for module in training:
            module.training = True
