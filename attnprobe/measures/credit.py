"""Stored attributions, pooled by span."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from attnprobe.measures.arrays import divide


@dataclass(frozen=True, slots=True, eq=False)
class Credit:
    """One record's attribution, of the steps asked for."""

    scores: Float[np.ndarray, "asked source"]
    """Credit of each token; NaN for those that do not come before the step's."""
    members: Bool[np.ndarray, "source key_role"]
    """Which tokens make up each key role."""


def credit(found: Credit) -> Float[np.ndarray, "1 1 asked key_role"]:
    """Credit of a span: the sum over its tokens, in the unit of the attribution.

    NaN where no token of the span comes before the step's. Where the attribution promises what a
    step's scores sum to, so do the sums of the spans. It misleads where credits of both signs
    cancel within a span.
    """
    return _pooled(np.nan_to_num(found.scores), found)[None, None]


def credit_share(found: Credit) -> Float[np.ndarray, "1 1 asked key_role"]:
    """A span's share of the absolute credit: Σ |score| over its tokens, over that of all tokens.

    Comparable between steps, records and methods, whose credits differ in size; what speaks for a
    prediction and what speaks against it count alike.
    """
    size = np.abs(np.nan_to_num(found.scores))
    total = np.broadcast_to(size.sum(-1, keepdims=True), (len(size), found.members.shape[1]))
    return divide(_pooled(size, found), total)[None, None]


def _pooled(
    scores: Float[np.ndarray, "asked source"], found: Credit
) -> Float[np.ndarray, "asked key_role"]:
    members = found.members.astype(scores.dtype)
    before = (~np.isnan(found.scores)).astype(scores.dtype)
    return np.where(before @ members > 0, scores @ members, np.nan)
