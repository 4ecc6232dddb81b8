"""Methods that follow the gradient at the token embeddings."""

import torch

from attnprobe.attribution.graph import directional, row_gradients
from attnprobe.attribution.prediction import Prediction


def input_x_gradient(prediction: Prediction) -> torch.Tensor:
    """Credit a token with its embedding times the gradient at it, summed over the embedding.

    Source: Shrikumar et al. 2016 (arXiv 1605.01713), at the token embeddings. It is the first-order
    estimate of what would be lost if the token's vector were 0; position embeddings get no credit.
    One forward pass serves all steps. Where fewer spans than steps are asked for, each span is one
    pass of forward-mode differentiation, which gives its sum of scores exactly.

    It misleads where the model saturates (a token that decides everything may have no gradient
    left), where two tokens can stand in for each other, and where 0 is no neutral vector. The
    scores promise no sum: after a norm, scaling all embeddings together changes almost nothing,
    so positive and negative scores cancel. In deep models the gradient at a single token is
    noisy; sums over spans are steadier.
    """
    vectors = prediction.embeddings()[None]
    return along(prediction, vectors, vectors)[0]


def saliency(prediction: Prediction) -> torch.Tensor:
    """Credit a token with the length of the gradient at its embedding.

    Source: Simonyan et al. 2014 (arXiv 1312.6034); the Euclidean length (Atanasova et al. 2020),
    since the axes of an embedding mean nothing by themselves.

    It misleads because it has no sign and no amount: it says where a small change of the vector
    would matter most, not what the token that stands there contributed. It is never 0 for a
    token that is merely in the way, and saturates like every gradient. A span's is the sum over
    its tokens, so long spans have more.
    """
    scores = prediction.no_scores()
    gradients = row_gradients(prediction, prediction.embeddings()[None])
    for row, gradient in enumerate(gradients):
        scores[row, : gradient.shape[1]] = gradient[0].float().norm(dim=-1).cpu()
    return scores


def along(prediction: Prediction, vectors: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Multiply the gradient at some vectors with directions, for each token or span.

    Args:
        prediction: What is explained.
        vectors: [batch, source, size]: where.
        directions: Likewise.

    Returns:
        [batch, row, column], float32, on the CPU.
    """
    if prediction.spans is not None and len(prediction.spans) < len(prediction.rows):
        try:
            return forwards(prediction, vectors, directions)
        except (NotImplementedError, RuntimeError) as error:
            if "forward" not in str(error):  # no derivative of this kind: go backwards instead
                raise
    return backwards(prediction, vectors, directions)


def forwards(
    prediction: Prediction, vectors: torch.Tensor, directions: torch.Tensor
) -> torch.Tensor:
    """Do as `along`, by one directional derivative for each span."""
    parts = []
    for start, stop in prediction.columns:
        part = torch.zeros_like(directions)
        part[:, start:stop] = directions[:, start:stop]
        parts.append(part)
    return directional(prediction, vectors, parts).permute(1, 2, 0)


def backwards(
    prediction: Prediction, vectors: torch.Tensor, directions: torch.Tensor
) -> torch.Tensor:
    """Do as `along`, by one walk back through a shared graph for each row."""
    rows = [
        (gradient * directions).float().sum(-1) for gradient in row_gradients(prediction, vectors)
    ]
    return by_column(prediction, torch.stack(rows, 1).cpu())


def by_column(prediction: Prediction, scores: torch.Tensor) -> torch.Tensor:
    """Sum scores of tokens [..., source] over the columns [..., column]."""
    if prediction.spans is None:
        return torch.nn.functional.pad(scores, (0, prediction.n_tokens - scores.shape[-1]))
    return torch.stack([scores[..., a:b].sum(-1) for a, b in prediction.spans], -1)
