"""What is lost while tokens are taken away from a record, from the highest rank or the lowest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from attnprobe.models import LoadedModel
from attnprobe.types import Encoding
from attnprobe.workflows.outcomes import refuse_virtual
from attnprobe.workflows.perturbing import Perturbation


@dataclass(frozen=True, slots=True)
class Removal:
    """How much is taken away, and what rankings are held against."""

    fractions: tuple[float, ...] = (0.1, 0.2, 0.5)
    """Shares of tokens that are taken away, and that are kept."""
    n_random: int = 3
    """Random rankings, averaged."""
    batch_size: int = 8
    """Variants of a record that share a forward pass."""
    seed: int = 0
    """Of random rankings and substitutes."""


def losses_along(
    loaded: LoadedModel,
    encoding: Encoding,
    positions: Sequence[int],
    rankings: Sequence[Float[np.ndarray, " token"]],
    perturbation: Perturbation,
    removal: Removal,
) -> Float[np.ndarray, "ranking way share"]:
    """Take tokens of a prompt away in the order of rankings, and see what the model predicts.

    Args:
        loaded: The model.
        encoding: The record.
        positions: Predicted tokens whose log-probabilities, summed, count.
        rankings: Score of each token of the prompt.
        perturbation: How tokens are taken away.
        removal: How many.

    Returns:
        What is lost (nats) without the shares of `removal_grid`, beginning with the highest rank
        or, on the second way, with the lowest; in the last row the mean over random rankings. NaN
        where there is nothing to take away or to look at.

    Raises:
        ModelError: If the model cannot be perturbed this way.
    """
    refuse_virtual(encoding)
    grid = removal_grid(removal.fractions)
    candidates = np.array(perturbation.candidates(loaded, encoding), np.int64)
    if not positions or len(candidates) < 2:
        return np.full((len(rankings) + 1, 2, len(grid)), np.nan)
    rng = np.random.default_rng([removal.seed, *encoding.record.id.encode()])
    scores = [ranking[candidates] for ranking in rankings]
    scores += [rng.random(len(candidates)) for _ in range(removal.n_random)]
    # the highest first; equal ones in random order
    orders = [candidates[np.lexsort((rng.random(len(one)), -one))] for one in scores]
    counts = [max(1, round(share * len(candidates))) for share in grid]
    wanted = [
        [tuple(sorted(way[:count].tolist())) for way in (order, order[::-1]) for count in counts]
        for order in orders
    ]
    every = dict.fromkeys([(), *(one for some in wanted for one in some)])
    variants = {one: place for place, one in enumerate(every)}
    values = _values(loaded, encoding, list(variants), positions, perturbation, removal)
    losses = values[0] - values
    found = np.array([[losses[variants[one]] for one in some] for some in wanted])
    found = found.reshape(len(orders), 2, len(grid))
    return np.concatenate([found[: len(rankings)], found[len(rankings) :].mean(0, keepdims=True)])


def removal_grid(fractions: Sequence[float]) -> tuple[float, ...]:
    """Return the shares of tokens to take away: so many, all but so many, and all."""
    shares = {round(share, 9) for one in fractions for share in (one, 1 - one)}
    return (*sorted(shares), 1.0)


def metrics_of(
    highest: Float[np.ndarray, "*any share"],
    lowest: Float[np.ndarray, "*any share"],
    fractions: Sequence[float],
) -> Float[np.ndarray, "*any metric"]:
    """Work out the four metrics from losses along `removal_grid(fractions)`.

    Args:
        highest: What is lost without the highest-ranked shares.
        lowest: What is lost without the lowest-ranked shares.
        fractions: Shares that comprehensiveness takes away and sufficiency keeps.

    Returns:
        Comprehensiveness, sufficiency, area of MoRF, area of LeRF.
    """
    grid = removal_grid(fractions)
    gone = [grid.index(round(share, 9)) for share in fractions]
    kept = [grid.index(round(1 - share, 9)) for share in fractions]
    along = np.array([0.0, *grid])
    morf, lerf = (
        np.trapezoid(np.concatenate([np.zeros((*losses.shape[:-1], 1)), losses], -1), along)
        for losses in (highest, lowest)
    )
    return np.stack([highest[..., gone].mean(-1), lowest[..., kept].mean(-1), morf, lerf], -1)


def _values(
    loaded: LoadedModel,
    encoding: Encoding,
    variants: Sequence[Sequence[int]],
    positions: Sequence[int],
    perturbation: Perturbation,
    removal: Removal,
) -> Float[np.ndarray, " variant"]:
    """Return the log-probability of the predicted tokens under each variant."""
    steps = [position - 1 for position in positions]
    parts = []
    for start in range(0, len(variants), removal.batch_size):
        some = variants[start : start + removal.batch_size]
        probs = perturbation.run(loaded, encoding, some, removal.seed)
        parts.append(probs[:, steps].astype(np.float64).sum(axis=1))
    return np.concatenate(parts)
