"""The registry of attribution methods."""

import json
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
        params={"baseline": "mean", "points": 4, "max_points": 4096, "tolerance": 0.01},
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
        SelectionError: If there is no such method, target or setting, or a setting is of another
            kind than the method's own.
    """
    found, chosen = find_method(method), dict(params or {})
    unit = found.unit or find_target(target).unit
    for name in chosen:
        if name not in found.params:
            raise SelectionError(
                "the method has no such setting", where=f"method '{method}'", got=f"'{name}'",
                fix=nearest(name, found.params),
            )  # fmt: skip
        _check_kind(method, name, found.params[name], chosen[name])
    return {**found.params, **chosen, "target": target, "unit": unit}


def _check_kind(method: str, name: str, own: Any, given: Any) -> None:
    """Refuse a setting that no method could use: no number where there is one, or no JSON."""
    kinds = {bool: (bool,), int: (int,), float: (int, float)}.get(type(own), (str, int, float))
    if not isinstance(given, kinds) or (isinstance(given, bool) and bool not in kinds):
        expected = {bool: "true or false", int: "a whole number", float: "a number"}
        raise SelectionError(
            "a setting of another kind", where=f"method '{method}', {name}", got=repr(given),
            expected=f"{expected.get(type(own), 'a name or a number')}, such as {own!r}",
        )  # fmt: skip


def read_method(text: str) -> tuple[str, dict[str, Any]]:
    """Read a method with settings, such as `integrated_gradients:tolerance=0.02,baseline=mean`.

    Args:
        text: A name, and after a colon settings separated by commas.

    Returns:
        The name, and the settings: numbers, `true` and `false` as such, anything else as text.

    Raises:
        SelectionError: If the text is not written that way; names are not looked up.
    """
    name, colon, rest = text.partition(":")
    settings: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value) or key in settings:
            raise SelectionError(
                "a setting stands there twice" if key in settings else "no setting of a method",
                where="--attribute", got=f"'{part}' in '{text}'",
                expected="METHOD:NAME=VALUE,NAME=VALUE",
            )  # fmt: skip
        settings[key] = _value(value)
    return name.strip(), settings


def _value(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, bool | int | float) else text
