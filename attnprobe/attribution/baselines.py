"""Vectors that stand for "no token": what path and perturbation methods start from."""

from typing import Any

import torch

from attnprobe.attribution.prediction import Prediction
from attnprobe.errors import SelectionError

_BLOCK = 8192
"""Tokens whose vectors are held at once."""


def baseline(prediction: Prediction) -> torch.Tensor:
    """Make the vectors that replace those of the tokens, by the method's setting `baseline`.

    `mean` is the mean vector of the vocabulary, a vector of ordinary size that says nothing in
    particular; `zero` is what the literature began with, a vector that no model has seen; a whole
    number is a token, such as that of a space or the padding.

    Returns:
        [source, size]

    Raises:
        SelectionError: If the setting is none of these.
    """
    kind: Any = prediction.params["baseline"]
    embedding, vectors = prediction.embedding, prediction.embeddings()
    n_known = int(getattr(embedding, "num_embeddings", 0))
    if kind == "zero":
        return torch.zeros_like(vectors)
    if kind == "mean" and n_known:
        return _mean(embedding, n_known, vectors)
    if isinstance(kind, int) and not isinstance(kind, bool) and 0 <= kind < n_known:
        with torch.no_grad():
            token = torch.full_like(prediction.ids[:, :-1], kind)
            return embedding(token)[0].detach().to(vectors.dtype)
    raise SelectionError(
        "no baseline of that name", where="baseline", got=repr(kind),
        expected=f"'mean', 'zero', or a token id below {n_known}",
    )  # fmt: skip


def _mean(embedding: torch.nn.Module, n_known: int, like: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(like.shape[-1], dtype=torch.float64)
    with torch.no_grad():
        for ids in torch.arange(n_known, device=like.device).split(_BLOCK):
            total += embedding(ids[None])[0].double().sum(0).cpu()
    return (total / n_known).to(like).expand_as(like)
