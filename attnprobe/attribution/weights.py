"""Methods that read attention weights."""

import torch

from attnprobe.attention import record
from attnprobe.attention.calls import AttentionCall
from attnprobe.attribution.graph import Graph
from attnprobe.attribution.prediction import Prediction
from attnprobe.attribution.watching import watched
from attnprobe.types import step_query


def attention(prediction: Prediction) -> torch.Tensor:
    """Credit a token with the attention that the step's query pays it, over all layers and heads.

    The mean weight; its unit is a probability, and a step's sum is 1. What is predicted does not
    enter.

    It misleads in most ways a method can (Jain & Wallace 2019; Kobayashi et al. 2020): a head may
    look where there is nothing to fetch, values may be small or cancel, tokens in upper layers hold
    what they took from others, and sinks draw what is not needed. Use it as a thing to compare
    with.
    """
    weights = torch.stack([layer[_queries(prediction)] for layer in _mean_weights(prediction)])
    return _padded(weights.mean(0), prediction)


def rollout(prediction: Prediction) -> torch.Tensor:
    """Follow attention down through the layers, as if it mixed the tokens themselves.

    Source: Abnar & Zuidema 2020 (arXiv 2005.00928): the product over layers of ½ (mean weights of
    the heads) + ½ (identity, for the residual stream). A step's sum is 1.

    It misleads like `attention`, whose weights it multiplies: what values hold does not enter, half
    and half for the residual stream is a guess, and in deep models everything tends to the first
    tokens. What is predicted does not enter.
    """
    flow: torch.Tensor | None = None
    for weights in reversed(list(_mean_weights(prediction))):
        chosen = torch.eye(len(weights))[_queries(prediction)] if flow is None else flow
        flow = (chosen @ weights + chosen) / 2
    return prediction.no_scores() if flow is None else _padded(flow, prediction)


def grad_attention(prediction: Prediction) -> torch.Tensor:
    """Follow weights that the target's gradient confirms down through the layers.

    Source: Chefer et al. 2021 (arXiv 2103.15679), self-attention: with Ā the mean over heads of the
    positive part of weight × gradient, relevance R ← R + Ā R from the first layer to the last; a
    step's scores are its query's row of R, without the 1 that the query itself begins with.

    It misleads by its positive part: what speaks against the target is dropped, and what cancels
    is not seen to cancel. Credit only grows on its way, so a step's sum means nothing; compare
    tokens within a step.
    """
    scores = prediction.no_scores()
    with watched(prediction, "grad_attention") as seen:
        graph = Graph(prediction, prediction.embeddings()[None])
        outputs = [seen.outputs[layer] for layer in seen.layers]
        weights = [seen.weights(layer) for layer in seen.layers]
        values = [_values(seen.calls[layer]) for layer in seen.layers]
        for row, query in enumerate(_queries(prediction)):
            gradients = graph.gradients(row, outputs)
            relevance = torch.zeros(len(weights[0][0]), device=weights[0].device)
            relevance[query] = 1.0
            for gradient, weight, value in reversed(
                list(zip(gradients, weights, values, strict=True))
            ):
                by_weight = gradient[0].transpose(0, 1).float() @ value.transpose(1, 2)
                mixed = (weight * by_weight).clamp_min(0).mean(0)
                relevance = relevance + relevance @ mixed
            relevance[query] -= 1.0
            scores[row, : len(relevance)] = relevance.cpu()
    return scores


def _values(call: AttentionCall) -> torch.Tensor:
    """Return a call's values for each query head: [head, key, size]."""
    value = call.value[0].detach().float()
    return value.repeat_interleave(call.n_heads // len(value), dim=0)


def _mean_weights(prediction: Prediction) -> list[torch.Tensor]:
    """Record the weights of every layer, the mean over its heads: [query, key] on the CPU."""
    n_tokens = prediction.n_tokens - 1
    found: dict[int, torch.Tensor] = {}

    def take(layer: int, first: int, rows: torch.Tensor) -> None:
        mean = rows.mean(0).cpu()
        whole = found.setdefault(layer, torch.zeros(n_tokens, mean.shape[1]))
        whole[first : first + len(mean)] = mean

    with torch.no_grad(), record(prediction.model, ["full"], take_rows=take) as recording:
        prediction.logits(prediction.ids[:, :-1], 1)
    start = recording.n_virtual  # prefix keys are no tokens
    return [found[layer][:, start : start + n_tokens] for layer in sorted(found)]


def _queries(prediction: Prediction) -> list[int]:
    return [step_query(prediction.n_prompt, step) for step in range(prediction.n_steps)]


def _padded(scores: torch.Tensor, prediction: Prediction) -> torch.Tensor:
    return torch.nn.functional.pad(scores, (0, prediction.n_tokens - scores.shape[1]))
