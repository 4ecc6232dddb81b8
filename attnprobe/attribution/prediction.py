"""What is attributed: a model's predictions of some tokens, as numbers that have gradients."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int

from attnprobe.attribution.targets import Target
from attnprobe.models import forward_arguments, transformers_model
from attnprobe.types import step_query

Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges."""


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
    foils: Int[torch.Tensor, " step"] | None = None
    """Token that each step's is held against, where the target asks for one."""
    spans: Ranges | None = None
    """Token ranges that are credited as a whole; None for each token by itself. A method sees them
    only if it `heeds_spans`."""
    steps: Ranges | None = None
    """Ranges of steps that are explained as a whole; None for each step by itself. Likewise."""

    @property
    def n_tokens(self) -> int:
        """Tokens of prompt and target."""
        return self.ids.shape[1]

    @property
    def n_steps(self) -> int:
        """Tokens that are predicted."""
        return self.n_tokens - self.n_prompt

    @property
    def rows(self) -> Ranges:
        """The steps that each row of the scores explains: `steps`, or each by itself."""
        return self.steps or tuple((step, step + 1) for step in range(self.n_steps))

    @property
    def columns(self) -> Ranges:
        """The tokens that each column of the scores credits: `spans`, or each by itself."""
        return self.spans or tuple((token, token + 1) for token in range(self.n_tokens))

    @property
    def embedding(self) -> torch.nn.Module:
        """The module that turns token ids into vectors."""
        return transformers_model(self.model).get_input_embeddings()

    @property
    def by_token(self) -> "Prediction":
        """The same with each step and each token by itself."""
        return replace(self, spans=None, steps=None)

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
        return self.credited(self.logits(ids, 1), slice(step, step + 1))[0]

    def values(self) -> Float[torch.Tensor, " step"]:
        """Run the model once over everything; equals `value` of every step.

        Returns:
            What is credited at each step, float32, with gradients that share one graph.
        """
        return self.credited(self.logits(self.ids[:, :-1], self.n_steps))[0]

    def values_of(
        self, embeddings: Float[torch.Tensor, "batch source size"]
    ) -> Float[torch.Tensor, "batch step"]:
        """Run the model over other vectors in place of the token embeddings.

        Args:
            embeddings: For all tokens but the last, which is never read.

        Returns:
            What is credited at each step, for each example.
        """
        ids = self.ids[:, :-1].expand(len(embeddings), -1)
        with embedded(self.embedding, lambda _: embeddings):
            return self.credited(self.logits(ids, self.n_steps))

    def embeddings(self) -> Float[torch.Tensor, "source size"]:
        """Return the vectors of all tokens but the last, as the model's own module makes them."""
        with torch.no_grad():
            return self.embedding(self.ids[:, :-1])[0].detach()

    def by_row(self, values: Float[torch.Tensor, "*any step"]) -> Float[torch.Tensor, "*any row"]:
        """Sum numbers of steps over the rows of the scores."""
        return torch.stack([values[..., start:stop].sum(-1) for start, stop in self.rows], -1)

    def no_scores(self) -> Float[torch.Tensor, "row column"]:
        """Return an array for a method to fill: float32 zeros on the CPU, a row per step.

        What is written at or after a step's own token does not count.
        """
        return torch.zeros(len(self.rows), len(self.columns))

    def logits(
        self, ids: Int[torch.Tensor, "batch source"], n_last: int
    ) -> Float[torch.Tensor, "batch last vocabulary"]:
        """Run the model; return the logits of the last positions, float32."""
        accepted = forward_arguments(transformers_model(self.model))
        options = {"logits_to_keep": n_last, "use_cache": False}
        chosen = {name: value for name, value in options.items() if name in accepted}
        return self.model(input_ids=ids, **chosen).logits[:, -n_last:].float()

    def credited(
        self, logits: Float[torch.Tensor, "batch step vocabulary"], steps: slice = slice(None)
    ) -> Float[torch.Tensor, "batch step"]:
        """Read off logits what is credited."""
        ids = self.ids[0, self.n_prompt :][steps].to(logits.device)
        values = self.target.value(logits, ids)
        if self.foils is None:
            return values
        return values - self.target.value(logits, self.foils[steps].to(logits.device))


@contextmanager
def embedded(
    embedding: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Let the model go on with other vectors than its embedding module made of the tokens."""

    def hook(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        return change(output).to(output.dtype)

    handle = embedding.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def with_foils(prediction: Prediction) -> Prediction:
    """Choose foils where the target asks for them: the most probable other token of each step."""
    if not prediction.target.against_foil or prediction.foils is not None:
        return prediction
    with torch.no_grad():
        logits = prediction.logits(prediction.ids[:, :-1], prediction.n_steps)[0]
    gold = prediction.ids[0, prediction.n_prompt :, None].to(logits.device)
    return replace(prediction, foils=logits.scatter(-1, gold, -torch.inf).argmax(-1))
