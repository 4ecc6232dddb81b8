"""How well scores of sources point at those that are known to be the true ones."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True, slots=True)
class Pointing:
    """How well a ranking points at k true sources among n."""

    at_1: float
    """Whether the highest score is on a true one."""
    at_k: float
    """Share of the true ones among the k highest scores."""
    mass: float
    """Share of all positive scores that is on true ones."""
    auprc: float
    """Area under the precision-recall curve: average precision, the mean over true ones of the
    share of true ones down to their rank."""

    def values(self) -> tuple[float, float, float, float]:
        """All four, in this order."""
        return self.at_1, self.at_k, self.mass, self.auprc


def pointing(
    scores: Float[np.ndarray, " source"], is_true: Bool[np.ndarray, " source"]
) -> Pointing:
    """Hold scores against what is known to be true. Of equal scores, the true ones rank last.

    Args:
        scores: Credit of each source.
        is_true: Whether it is a true one; one at least.

    Raises:
        ValueError: If no source is a true one.
    """
    n_true = int(is_true.sum())
    if not n_true:
        raise ValueError("no true source to point at")
    order = np.lexsort((is_true, -scores))
    hits = is_true[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    positive = np.clip(scores, 0, None)
    total = float(positive.sum())
    return Pointing(
        at_1=float(hits[0]),
        at_k=float(hits[:n_true].mean()),
        mass=float(positive[is_true].sum()) / total if total else 0.0,
        auprc=float(precision[hits].mean()),
    )


def chance(n_sources: int, n_true: int) -> Pointing:
    """Return what a random ranking reaches on average, and equal scores for the mass."""
    share = n_true / n_sources
    ranks = np.arange(1, n_sources + 1)
    others = (n_true - 1) / max(1, n_sources - 1)
    return Pointing(share, share, share, float(np.mean((1 + (ranks - 1) * others) / ranks)))
