"""The trained families with parameters outside both ranges of the data, for more variety.

What `unseen-parameters` draws from stays unseen: no value of it is drawn here. Families that are
held out are not touched either: no second term back without the last one, no third term back.
"""

from typing import Any, ClassVar

import numpy as np

from attnprobe.tasks.sequences import FAMILIES, Family, Shape
from attnprobe.tasks.sequences.family import magnitude, sign, uniform
from attnprobe.tasks.sequences.integer import (
    Arithmetic,
    Modular,
    Order2Recurrence,
    RunLength,
    SecondDifference,
)
from attnprobe.tasks.sequences.real import MIN_LAST, EulerOde, Geometric, LogisticMap


class WiderArithmetic(Arithmetic):
    """Differences 1 and 40–120."""

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Draw from the wider range."""
        size = int(rng.integers(39, 121))
        start = magnitude(rng, shape.number_format.digits)
        return {"difference": sign(rng) * (1 if size == 39 else size), "start": [start]}


class WiderSecondDifference(SecondDifference):
    """Second differences 20–40."""

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Draw from the wider range."""
        near = super().draw(rng, shape, far=False)
        return near | {"second_difference": sign(rng) * int(rng.integers(20, 41))}


class WiderOrder2Recurrence(Order2Recurrence):
    """All coefficients −3 to 3, the first not 0, without the far ones; constants −30 to 30."""

    near_coefficients: ClassVar[tuple[tuple[int, ...], ...]] = tuple(
        (a, b)
        for a in (-3, -2, -1, 1, 2, 3)
        for b in range(-3, 4)
        if (a, b) not in Order2Recurrence.far_coefficients
    )

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Draw from the wider range; starts of all sizes, as many coefficients grow fast."""
        near = super().draw(rng, shape, far=False)
        largest = (2, 9, 60)[int(rng.integers(3))]
        start = [int(value) for value in rng.integers(-largest, largest + 1, 2)]
        return near | {"constant": int(rng.integers(-30, 31)), "start": start}


class WiderModular(Modular):
    """Primes 5, 7 and 101–131."""

    near_primes: ClassVar[tuple[int, ...]] = (5, 7, 101, 103, 107, 109, 113, 127, 131)


class WiderRunLength(RunLength):
    """Runs of 5, and patterns of three."""

    near_runs: ClassVar[tuple[tuple[int, ...], ...]] = ((5,), (1, 1, 2), (2, 1, 1), (1, 2, 2))


class WiderGeometric(Geometric):
    """Ratios 1.01–1.04, 1.75–2.00, 0.96–0.99 and 0.50–0.60 of either sign."""

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Draw from the wider range."""
        ranges = ((1.01, 1.04), (1.75, 2.00), (0.96, 0.99), (0.50, 0.60))
        ratio = uniform(rng, *ranges[int(rng.integers(4))], 2)
        fmt, change = shape.number_format, ratio ** (shape.length - 1)
        high = min(fmt.limit("real") / max(change, 1), 60 if ratio > 1 else 999)
        low = max(MIN_LAST / min(change, 1) / 10**fmt.decimals, high / 20)
        start = [uniform(rng, low, high, fmt.decimals)] if low < high else []
        return {"ratio": sign(rng) * ratio, "start": start, "decimals": fmt.decimals}


class WiderLogisticMap(LogisticMap):
    """Growth rates 2.60–3.58, below chaos."""

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Draw from the wider range."""
        return super().draw(rng, shape, far=False) | {"rate": uniform(rng, 2.60, 3.58, 2)}


class WiderEulerOde(EulerOde):
    """Decay 0.05–0.18 and 1.55–2.50, prey growth 0.20–0.48 and 1.35–1.60."""

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Draw from the wider range."""
        near, low = super().draw(rng, shape, far=False), rng.random() < 0.5
        if near["system"] == "decay":
            return near | {"k": uniform(rng, *((0.05, 0.18) if low else (1.55, 2.50)), 2)}
        return near | {"a": uniform(rng, *((0.20, 0.48) if low else (1.35, 1.60)), 2)}


WIDER: dict[str, Family] = {
    family.name: family
    for family in (
        WiderArithmetic(), WiderGeometric(), WiderSecondDifference(), WiderOrder2Recurrence(),
        WiderModular(), WiderRunLength(), WiderLogisticMap(), WiderEulerOde(),
    )
}  # fmt: skip
"""By the name of the trained family; one that is not here has no wider range."""


def family_of(name: str, wider: bool) -> Family:
    """Return a trained family, with its wider parameters where it has any."""
    return WIDER.get(name, FAMILIES[name]) if wider else FAMILIES[name]
