"""Methods that take tokens away and look what is lost, through Captum."""

from collections.abc import Callable

import torch

from attnprobe.attribution.baselines import baseline
from attnprobe.attribution.prediction import Prediction
from attnprobe.errors import SelectionError

BATCH_TOKENS = 4096
"""Tokens of the perturbed sequences that share a forward pass."""


def feature_ablation(prediction: Prediction) -> torch.Tensor:
    """Credit a span, or a token, with what is lost when its vectors are replaced by a baseline.

    Source: occlusion (Zeiler & Fergus 2014; Li et al. 2016), through Captum's FeatureAblation with
    a feature mask over spans. A forward pass for each span gives all steps; positions stay as they
    are.

    It misleads where tokens stand in for each other: taking away either of two copies changes
    nothing, so neither gets credit. Sequences with replaced vectors are unlike what the model
    has seen, so part of what is lost is surprise; compare with another `baseline`.
    """
    from captum.attr import FeatureAblation

    kept, mask, run = _features(prediction)
    found = FeatureAblation(run).attribute(
        kept, baselines=0, feature_mask=mask, perturbations_per_eval=_at_once(prediction)
    )
    return _first_of_each(prediction, found)


def shapley(prediction: Prediction) -> tuple[torch.Tensor, torch.Tensor]:
    """Credit a span, or a token, with its mean gain over random orders of adding them.

    Source: Shapley values by permutation sampling (Castro et al. 2009; Štrumbelj & Kononenko 2010),
    through Captum's ShapleyValueSampling with a feature mask over spans; `samples` orders drawn
    from `seed`. The scores of a step sum to what it gains over the baseline, up to rounding
    (`delta`). It costs `samples` forward passes for each span, so it is made for few of them.

    It misleads where few orders were drawn: the error falls with the root of `samples` only. Most
    of the orders leave texts that make no sense, and their predictions count as much as others.
    """
    from captum.attr import ShapleyValueSampling

    settings = prediction.params
    if not isinstance(settings["samples"], int) or settings["samples"] < 1:
        raise SelectionError(
            "orders are needed", where="samples", got=settings["samples"],
            expected="a whole number ≥ 1",
        )  # fmt: skip
    kept, mask, run = _features(prediction)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        found = ShapleyValueSampling(run).attribute(
            kept, baselines=0, feature_mask=mask, n_samples=settings["samples"],
            perturbations_per_eval=_at_once(prediction),
        )  # fmt: skip
    scores = _first_of_each(prediction, found)
    with torch.no_grad():
        ends = run(torch.stack([kept[0], torch.zeros_like(kept[0])])).float().cpu()
    return scores, scores.sum(-1) - (ends[0] - ends[1])


def _features(
    prediction: Prediction,
) -> tuple[torch.Tensor, torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """Describe the sequence as tokens that are kept (1) or replaced (0).

    Returns:
        All kept [1, token], which feature each is [1, token], and a function from [batch, token] to
        what is credited [batch, row]. Tokens outside all spans are no features and always stay.
    """
    start, end = baseline(prediction), prediction.embeddings()
    columns = [(a, min(b, len(end))) for a, b in prediction.columns if a < len(end)]
    tokens = torch.tensor([token for a, b in columns for token in range(a, b)])
    numbers = [number for number, (a, b) in enumerate(columns) for _ in range(a, b)]

    def run(kept: torch.Tensor) -> torch.Tensor:
        vectors = end.expand(len(kept), -1, -1).clone()
        is_kept = kept.bool().to(end.device)[..., None]
        vectors[:, tokens] = torch.where(is_kept, end[tokens], start[tokens])
        return prediction.by_row(prediction.values_of(vectors))

    return torch.ones(1, len(tokens)), torch.tensor([numbers]), run


def _at_once(prediction: Prediction) -> int:
    return max(1, BATCH_TOKENS // prediction.n_tokens)


def _first_of_each(prediction: Prediction, found: torch.Tensor) -> torch.Tensor:
    """Read one score per feature off Captum's answer, which repeats it for each of its tokens."""
    scores = prediction.no_scores()
    flat = found.detach().float().cpu().reshape(len(prediction.rows), -1)
    at = 0
    for number, (start, stop) in enumerate(prediction.columns):
        if start < prediction.n_tokens - 1:
            scores[:, number] = flat[:, at]
            at += min(stop, prediction.n_tokens - 1) - start
    return scores
