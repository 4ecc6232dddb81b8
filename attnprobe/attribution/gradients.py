"""Methods that follow the gradient, through Captum."""

import torch

from attnprobe.attribution.prediction import Prediction


def input_x_gradient(prediction: Prediction) -> torch.Tensor:
    """Credit a token with its embedding times the gradient at it, summed over the embedding.

    Source: Shrikumar et al. 2016 (arXiv 1605.01713); Captum's LayerGradientXActivation on the
    token embeddings. It is the first-order estimate of what would be lost if the token's vector
    were 0; position embeddings get no credit.

    It misleads where the model saturates (a token that decides everything may have no gradient
    left), where two tokens can stand in for each other, and where 0 is no neutral vector. The
    scores promise no sum: after a norm, scaling all embeddings together changes almost nothing,
    so positive and negative scores cancel. In deep models the gradient at a single token is
    noisy; sums over spans are steadier.
    """
    from captum.attr import LayerGradientXActivation

    explainer = LayerGradientXActivation(prediction.value, prediction.embedding)
    scores = prediction.no_scores()
    for step in range(prediction.n_steps):
        sources = prediction.sources(step)
        product = explainer.attribute(sources, additional_forward_args=step)
        if not isinstance(product, torch.Tensor):
            product = product[0]
        scores[step, : sources.shape[1]] = product[0].detach().float().sum(-1).cpu()
    return scores
