"""What of a prediction can be credited to the tokens before it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from attnprobe.errors import SelectionError, nearest


@dataclass(frozen=True, slots=True)
class Target:
    """What of a prediction is credited to the tokens before it."""

    value: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """From logits [..., step, vocabulary] and token ids [step], a number per step."""
    unit: str
    """Its unit, and that of the scores."""
    against_foil: bool = False
    """Whether the value of another token, the foil, is taken away."""


def _logit(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return logits.gather(-1, ids.expand(logits.shape[:-1])[..., None])[..., 0]


def _log_prob(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return _logit(logits.log_softmax(-1), ids)


TARGETS: Mapping[str, Target] = {
    "logprob": Target(_log_prob, "nat"),
    "logit": Target(_logit, "logit"),
    "contrast": Target(_logit, "logit", against_foil=True),
}
"""`logprob`: the log-probability of the token, so that a token which makes all others less likely
counts too. `logit`: its logit alone, blind to what the other tokens' logits do. `contrast`: its
logit minus that of a foil (Yin & Neubig 2022), which asks why this token and not the other; what
speaks for both alike gets no credit. The foil is given, or the model's most probable other
token."""


def find_target(name: str) -> Target:
    """Look a target up by name.

    Raises:
        SelectionError: If there is none of that name.
    """
    if name not in TARGETS:
        raise SelectionError(
            "no attribution target of that name", got=f"'{name}'", fix=nearest(name, TARGETS)
        )
    return TARGETS[name]
