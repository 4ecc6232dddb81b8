"""A study: many runs of one world, each with a seed of its own that is fixed beforehand."""

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

SEED = 20_260_101
ALPHA = 0.05
N_HEADS = 896
N_TASKS = 12
N_ITEMS = 50

Outcome = Mapping[str, float]
"""What one run found: 0 or 1 for whether anything was rejected, a share, or a number."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the mean of an outcome over the runs must be."""

    outcome: str
    why: str
    low: float | None = None
    """Least mean; None for an error rate that must not fall below 0.05 either."""
    high: float | None = None
    """Greatest mean; None for an error rate of 0.05."""

    def bounds(self, n_runs: int) -> tuple[float, float]:
        """Return the bounds, those of rates within what so many runs can tell (99.8 %)."""
        spread = 3.1 * math.sqrt(ALPHA * (1 - ALPHA) / n_runs)
        lowest, highest = max(0.0, ALPHA - spread), ALPHA + spread
        if n_runs >= 1000:
            lowest, highest = 0.029, 0.074
        return (
            lowest if self.low is None else self.low,
            highest if self.high is None else self.high,
        )


@dataclass(frozen=True, slots=True)
class Study:
    """One world and one way to look at it."""

    name: str
    """Group and condition: `null/independent/0.15`."""
    about: str
    n_runs: int
    run: Callable[[np.random.Generator], Outcome]
    expected: tuple[Expectation, ...] = ()

    def generator(self, run: int) -> np.random.Generator:
        """Return the source of chance of one run: by name and number, whatever ran before."""
        return np.random.default_rng([SEED, zlib.crc32(self.name.encode()), run])

    def block(self, first: int, n_runs: int) -> dict[str, dict[str, float]]:
        """Make some runs; return sums and sums of squares of their outcomes."""
        sums: dict[str, float] = {}
        squares: dict[str, float] = {}
        for run in range(first, first + n_runs):
            for outcome, value in self.run(self.generator(run)).items():
                sums[outcome] = sums.get(outcome, 0.0) + float(value)
                squares[outcome] = squares.get(outcome, 0.0) + float(value) ** 2
        return {"sums": sums, "squares": squares}


def fwer(outcome: str) -> Expectation:
    """Expect a family-wise error rate of 0.05."""
    return Expectation(outcome, "error rate 0.05")


def at_most(outcome: str) -> Expectation:
    """Expect an error rate of 0.05 or less."""
    return Expectation(outcome, "error rate 0.05 or less", low=0.0)


def fails(outcome: str, why: str) -> Expectation:
    """Expect that false findings are the rule, so that one sees why this is not done."""
    return Expectation(outcome, why, 0.5, 1.0)


def power(outcome: str, at_least: float = 0.9) -> Expectation:
    """Expect that what is there is found."""
    return Expectation(outcome, f"power {at_least:g} or more", at_least, 1.0)
