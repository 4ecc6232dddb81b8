"""What is lost while tokens are taken away by rank: mean curves with intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from attnprobe.contrasts.comparing import compare

ORDERS = ("morf", "lerf")
"""From the most relevant token on (the highest rank), or from the least."""
_WORDS = ("style", "perturbation", "method", "order")
_NUMBERS = ("share", "loss", "low", "high")


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """What records lost, by one perturbation."""

    perturbation: str
    """Its name."""
    values: Float[np.ndarray, "record ranking order share"]
    """In nats; NaN where a record has none."""
    methods: tuple[str, ...]
    """What made each ranking."""
    shares: tuple[float, ...]
    """Share of tokens that are taken away at each point."""
    tasks: tuple[str, ...]
    """Task of each record."""
    styles: tuple[str, ...]
    """Style of each record."""


def loss_curves(
    losses: Losses, *, by: Literal["task", "item"] = "task", rng: int = 0
) -> list[dict[str, Any]]:
    """Average what is lost at each point, style by style, with intervals.

    The mean and its interval are those of a contrast: within tasks first, resampling tasks.

    Args:
        losses: Of records.
        by: What is resampled, `task` or `item`.
        rng: Seed of the resamples.

    Returns:
        A row per style, method, order and share; with them the share 0, where nothing is lost.

    Raises:
        ContrastError: If a style has too few tasks or items.
    """
    rows: list[dict[str, Any]] = []
    for style in sorted(set(losses.styles)):
        own = np.array([one == style for one in losses.styles])
        values = losses.values[own]
        if np.isnan(values).all():
            continue
        tasks = [task for task, chosen in zip(losses.tasks, own, strict=True) if chosen]
        flat = values.reshape(len(values), -1, len(losses.shares))
        found = compare(flat, np.zeros_like(flat), tasks, by=by, rng=rng)
        shape = values.shape[1:]
        mean, low, high = (
            found[name].values.reshape(shape) for name in ("estimate", "low", "high")
        )
        for at, method in enumerate(losses.methods):
            for way, order in enumerate(ORDERS):
                named = (style, losses.perturbation, method, order)
                rows.append(_row(named, (0.0, 0.0, 0.0, 0.0)))
                rows += [
                    _row(named, (share, mean[at, way, i], low[at, way, i], high[at, way, i]))
                    for i, share in enumerate(losses.shares)
                ]
    return rows


def _row(words: Sequence[str], numbers: Sequence[float]) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(_WORDS, words, strict=True))
    return row | dict(zip(_NUMBERS, map(float, numbers), strict=True))


def read_curves(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Check rows of `loss_curves` that come from a file.

    Raises:
        KeyError: If a row lacks an entry.
        TypeError: If there are no rows.
        ValueError: If an entry is no number where there should be one.
    """
    read = [
        _row([str(row[name]) for name in _WORDS], [float(row[name]) for name in _NUMBERS])
        for row in rows
    ]
    if not all(math.isfinite(row[name]) for row in read for name in _NUMBERS):
        raise ValueError("a point of a curve is no finite number")
    return tuple(read)
