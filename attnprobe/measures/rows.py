"""Measures of single rows of weights: how widely a step looks, and how far back."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from attnprobe.measures.arrays import divide


@dataclass(frozen=True, slots=True, eq=False)
class StepRows:
    """The rows of all steps of one record, and which of them are asked for."""

    weights: Float[np.ndarray, "layer head step key"]
    """Softmax probabilities; 0 where a key was not visible."""
    visible: Bool[np.ndarray, "layer step key"]
    """Which keys the mask leaves visible."""
    queries: Int[np.ndarray, " step"]
    """Position of each row; that of the token it predicts is one more."""
    apart: Bool[np.ndarray, " key"]
    """Keys set apart: sinks and virtual tokens."""
    members: Bool[np.ndarray, "key key_role"]
    """Which keys make up each key role."""
    key_roles: tuple[str, ...]
    """Their names."""
    asked: Int[np.ndarray, " asked"]
    """The steps whose values are asked for, ascending."""
    ids: Int[np.ndarray, " key"]
    """Token ids."""
    texts: tuple[str, ...]
    """Token texts."""
    sinks: Bool[np.ndarray, " key"]
    """First positions and BOS."""
    layers: tuple[int, ...] = ()
    """Numbers of the layers in the model; empty where they do not matter."""
    heads: tuple[int, ...] = ()
    """Numbers of the heads, likewise."""
    task: str = ""
    """The problem family of the record."""
    value_norms: Float[np.ndarray, "layer head key"] | None = None
    """How long the vector is that a head fetches from a key when it pays it all its weight."""

    @property
    def counted(self) -> Bool[np.ndarray, "layer step key"]:
        """Which keys are visible and not set apart."""
        return self.visible & ~self.apart


def entropy(rows: StepRows) -> Float[np.ndarray, "layer head asked"]:
    """How widely a step looks: −Σ p log2 p over its row, in bits.

    Source: Clark et al. 2019 (arXiv 1906.04341), who use it to tell broad heads from focused ones.
    0 where one key takes all; log2 of the number of visible keys where attention is even.

    It misleads across lengths: the more keys there are, the larger it can be. A head that rests on
    a sink is as focused, by this, as one that reads a single number; `content_entropy` leaves the
    sinks out.
    """
    return _entropy(rows.weights[:, :, rows.asked])


def content_entropy(rows: StepRows) -> Float[np.ndarray, "layer head asked"]:
    """Entropy of a row among the keys that are no sinks, in bits; see `entropy`.

    The weights on those keys are scaled to sum to 1 first. NaN where sinks take everything.
    """
    return _entropy(np.where(rows.apart, 0, rows.weights[:, :, rows.asked]))


def distance(rows: StepRows) -> Float[np.ndarray, "layer head asked"]:
    """How far back a step looks: the mean distance from query to key, weighted, in tokens.

    Source: Vig & Belinkov 2019 (arXiv 1906.04284), mean distance of attention. 0 is the query's own
    position, which is the token right before the one that is predicted.

    It misleads where a head rests on a sink: the first token is far away, however little is read
    there, so the mean grows with the text. `content_distance` leaves the sinks out.
    """
    return _distance(rows, rows.weights[:, :, rows.asked])


def content_distance(rows: StepRows) -> Float[np.ndarray, "layer head asked"]:
    """Mean distance from query to key among keys that are no sinks, in tokens; see `distance`."""
    return _distance(rows, np.where(rows.apart, 0, rows.weights[:, :, rows.asked]))


def _entropy(
    weights: Float[np.ndarray, "layer head asked key"],
) -> Float[np.ndarray, "layer head asked"]:
    """Return Σ −p log2 p of weights scaled to sum to 1: log2 s − (Σ w log2 w) / s."""
    total = weights.sum(-1)
    surprise = np.log2(weights, out=np.zeros_like(weights), where=weights > 0)
    found = np.log2(total, out=np.zeros_like(total), where=total > 0)
    found = found - divide(np.einsum("lhqk,lhqk->lhq", weights, surprise), total)
    return np.maximum(found, 0)  # rounding; NaN stays


def _distance(
    rows: StepRows, weights: Float[np.ndarray, "layer head asked key"]
) -> Float[np.ndarray, "layer head asked"]:
    queries = rows.queries[rows.asked]
    away = np.abs(queries[:, None] - np.arange(weights.shape[-1])).astype(weights.dtype)
    return divide(np.einsum("lhqk,qk->lhq", weights, away), weights.sum(-1))
