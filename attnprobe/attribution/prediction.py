"""What is attributed: a model's predictions of some tokens, as numbers that have gradients."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int

from attnprobe.errors import ModelError, SelectionError
from attnprobe.models import transformers_model
from attnprobe.types import step_query


@dataclass(frozen=True, slots=True)
class Target:
    """What of a prediction is credited to the tokens before it."""

    value: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """From logits [step, vocabulary] and token ids [step], a number per step."""
    unit: str
    """Its unit, and that of the scores."""


def _logit(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return logits.gather(-1, ids[:, None])[:, 0]


def _log_prob(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return _logit(logits.log_softmax(-1), ids)


TARGETS: Mapping[str, Target] = {
    "logprob": Target(_log_prob, "nat"),
    "logit": Target(_logit, "logit"),
}
"""`logprob`: the log-probability of the token, so that a token which makes all others less likely
counts too. `logit`: its logit alone, blind to what the other tokens' logits do."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """One sequence whose last tokens a model predicts, each from all tokens before it.

    Made by `attribute`; the model's weights are frozen while a method sees it.
    """

    model: torch.nn.Module
    """The model, in eval mode."""
    ids: Int[torch.Tensor, "1 token"]
    """Prompt and target, on the model's device."""
    n_prompt: int
    """Tokens of the prompt."""
    target: Target
    """What is credited."""
    params: Mapping[str, Any]
    """The method's own settings."""

    @property
    def n_tokens(self) -> int:
        """Tokens of prompt and target."""
        return self.ids.shape[1]

    @property
    def n_steps(self) -> int:
        """Tokens that are predicted."""
        return self.n_tokens - self.n_prompt

    @property
    def embedding(self) -> torch.nn.Module:
        """The module that turns token ids into vectors."""
        return transformers_model(self.model).get_input_embeddings()

    def sources(self, step: int) -> Int[torch.Tensor, "1 source"]:
        """Return the tokens from which a step's token is predicted."""
        return self.ids[:, : step_query(self.n_prompt, step) + 1]

    def value(self, ids: Int[torch.Tensor, "1 source"], step: int) -> Float[torch.Tensor, " 1"]:
        """Run the model over the sources of one step.

        Args:
            ids: What `sources` returned, or as many other tokens.
            step: Which token is predicted.

        Returns:
            What is credited, float32, with its gradient.
        """
        return self._credited(self._logits(ids, 1), slice(step, step + 1))

    def values(self) -> Float[torch.Tensor, " step"]:
        """Run the model once over everything; equals `value` of every step.

        Returns:
            What is credited at each step, float32, with gradients that share one graph.
        """
        return self._credited(self._logits(self.ids[:, :-1], self.n_steps), slice(None))

    def no_scores(self) -> Float[torch.Tensor, "step token"]:
        """Return an array for a method to fill: float32 zeros on the CPU, a row per step.

        What is written at or after a step's own token does not count.
        """
        return torch.zeros(self.n_steps, self.n_tokens)

    def _logits(
        self, ids: Int[torch.Tensor, "1 source"], n_last: int
    ) -> Float[torch.Tensor, "last vocabulary"]:
        accepted = inspect.signature(transformers_model(self.model).forward).parameters
        options = {"logits_to_keep": n_last, "use_cache": False}
        chosen = {name: value for name, value in options.items() if name in accepted}
        return self.model(input_ids=ids, **chosen).logits[0, -n_last:].float()

    def _credited(
        self, logits: Float[torch.Tensor, "step vocabulary"], steps: slice
    ) -> Float[torch.Tensor, " step"]:
        ids = self.ids[0, self.n_prompt :][steps]
        return self.target.value(logits, ids.to(logits.device))


def check_input(
    model: torch.nn.Module, input_ids: Any, n_prompt: int
) -> Int[torch.Tensor, "1 token"]:
    """Check what is to be attributed and bring it to the model's device.

    Raises:
        SelectionError: If the ids are no sequence of the model's tokens, or leave no target.
    """
    ids = _one_sequence(input_ids)
    n_tokens = ids.shape[1]
    if not 1 <= n_prompt < n_tokens:
        raise SelectionError(
            "there is no target after the prompt, or no prompt before it", where="n_prompt",
            got=n_prompt, expected=f"1 to {n_tokens - 1} of {n_tokens} tokens",
        )  # fmt: skip
    embedding = transformers_model(model).get_input_embeddings()
    n_known = getattr(embedding, "num_embeddings", None)
    if isinstance(n_known, int) and not 0 <= int(ids.min()) <= int(ids.max()) < n_known:
        raise SelectionError(
            "a token id is not in the model's vocabulary", where="input_ids",
            got=int(ids.max()) if int(ids.min()) >= 0 else int(ids.min()),
            expected=f"0 to {n_known - 1}",
        )  # fmt: skip
    device = next(model.parameters()).device
    with torch.inference_mode(False):  # a tensor made in inference mode could have no gradients
        return ids.detach().to(device, torch.int64, copy=True)


def _one_sequence(input_ids: Any) -> Int[torch.Tensor, "1 token"]:
    try:
        ids = torch.as_tensor(input_ids)
    except (TypeError, ValueError, RuntimeError):
        ids, got = torch.empty(0, 0), type(input_ids).__name__
    else:
        got = f"{ids.dtype} of shape {tuple(ids.shape)}"
    ids = ids[None] if ids.ndim == 1 else ids
    if ids.ndim != 2 or len(ids) != 1 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise SelectionError(
            "attribution takes one sequence of token ids", where="input_ids", got=got,
            expected="whole numbers of shape [token] or [1, token]",
        )  # fmt: skip
    return ids


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
