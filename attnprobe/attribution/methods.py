"""The registry of attribution methods."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from attnprobe.attribution.decomposition import alti_logit, value_norm
from attnprobe.attribution.gradients import input_x_gradient, saliency
from attnprobe.attribution.paths import integrated_gradients
from attnprobe.attribution.perturbation import feature_ablation, shapley
from attnprobe.attribution.prediction import Prediction
from attnprobe.attribution.relevance import attn_lrp
from attnprobe.attribution.targets import find_target
from attnprobe.attribution.weights import attention, grad_attention, rollout
from attnprobe.errors import SelectionError, nearest


@dataclass(frozen=True, slots=True)
class Method:
    """An attribution method: how it credits, and what it needs."""

    run: Callable[[Prediction], torch.Tensor | tuple[torch.Tensor, torch.Tensor]]
    """From a prediction, scores [step, token]; with them, where the method promises what the scores
    of a step sum to, how far off they are [step]. Its docstring names the source, and when it
    misleads."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """The method's own settings, with their defaults (JSON values)."""
    needs_gradient: bool = True
    """Whether it differentiates the model, which quantised weights do not allow."""
    unit: str | None = None
    """Unit of the scores; None for that of the target."""
    heeds_spans: bool = False
    """Whether it credits `spans` and explains `steps` of a prediction itself, each as a whole; of
    the others, scores of tokens and steps are summed."""
    by_span: bool = False
    """Whether a run of records asks it for segments rather than for tokens, which would cost too
    much; each segment's score is then spread evenly over its tokens."""


METHODS: dict[str, Method] = {
    "input_x_gradient": Method(input_x_gradient, heeds_spans=True),
    "saliency": Method(saliency),
    "integrated_gradients": Method(
        integrated_gradients, heeds_spans=True,
        params={"baseline": "mean", "points": 8, "max_points": 512, "tolerance": 0.01},
    ),
    "feature_ablation": Method(
        feature_ablation, {"baseline": "mean"}, needs_gradient=False, heeds_spans=True,
        by_span=True,
    ),
    "shapley": Method(
        shapley, {"baseline": "mean", "samples": 25, "seed": 0}, needs_gradient=False,
        heeds_spans=True, by_span=True,
    ),
    "attention": Method(attention, needs_gradient=False, unit="probability"),
    "rollout": Method(rollout, needs_gradient=False, unit="share"),
    "grad_attention": Method(grad_attention, unit="relevance"),
    "value_norm": Method(value_norm, needs_gradient=False, unit="norm"),
    "alti_logit": Method(alti_logit),
    "attn_lrp": Method(attn_lrp),
}  # fmt: skip
"""Every method by name; a method of your own is one more entry."""


def find_method(name: str) -> Method:
    """Look a method up by name.

    Raises:
        SelectionError: If there is none of that name.
    """
    if name not in METHODS:
        raise SelectionError(
            "no attribution method of that name", got=f"'{name}'", fix=nearest(name, METHODS)
        )
    return METHODS[name]


def all_params(method: str, target: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write down everything that shapes the scores of a method: what a run stores beside them.

    Args:
        method: Its name.
        target: What is credited.
        params: Settings that differ from the method's own.

    Returns:
        `target`, `unit`, and each of the method's settings (JSON values).

    Raises:
        SelectionError: If there is no such method, target or setting.
    """
    found, chosen = find_method(method), dict(params or {})
    unit = found.unit or find_target(target).unit
    for name in chosen:
        if name not in found.params:
            raise SelectionError(
                "the method has no such setting", where=f"method '{method}'", got=f"'{name}'",
                fix=nearest(name, found.params),
            )  # fmt: skip
    return {**found.params, **chosen, "target": target, "unit": unit}
