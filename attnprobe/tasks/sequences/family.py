"""What a family of sequences is: parameters, a recurrence, and the terms it takes them from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from attnprobe.tasks.styles import NumberFormat, Step

Number = int | float
"""A term: int in integer families, float in real-valued ones."""
Parameters = Mapping[str, Any]
"""What is fixed while the recurrence runs (JSON values), with its first terms under `start`."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How long a sequence is and how its numbers are printed."""

    history: int
    horizon: int
    number_format: NumberFormat

    @property
    def length(self) -> int:
        """Terms in all."""
        return self.history + self.horizon


class Family(ABC):
    """One kind of sequence.

    Real-valued terms are rounded to the printed decimals at every step, so that the printed
    numbers are the very arguments of the recurrence, and the answer follows from them exactly.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["integer", "real"]] = "integer"
    held_out: ClassVar[bool] = False
    """Whether the family is kept out of training."""
    chaotic: ClassVar[bool] = False
    """Whether neighbouring starts part exponentially (then a valid prediction time makes sense)."""
    control: ClassVar[bool] = False
    """Whether nothing in the history tells the answer (then it is never scored)."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Draw parameters and first terms.

        Args:
            rng: Where chance comes from.
            shape: Length and number format.
            far: Draw from the parameter range kept for `unseen-parameters`, which shares no value
                with the other. Families that are held out whole have one range only.
        """

    @abstractmethod
    def sources(self, index: int, parameters: Parameters) -> tuple[int, ...]:
        """Return the indices of the earlier terms that term `index` is computed from."""

    @abstractmethod
    def following(self, terms: Sequence[Number], parameters: Parameters) -> Number:
        """Compute the term after `terms`, before rounding, reading no terms but its sources."""

    @abstractmethod
    def expression(
        self, shown: Sequence[str], terms: Sequence[Number], parameters: Parameters
    ) -> str:
        """Write the computation of the term after `terms`, which are printed as `shown`."""

    def recompute(
        self, history: Sequence[Number], answer_prefix: Sequence[Number], parameters: Parameters
    ) -> Number:
        """Compute the next printed value from other terms with the same parameters."""
        value = self.following([*history, *answer_prefix], parameters)
        return int(value) if self.kind == "integer" else round(value, parameters["decimals"])

    def unroll(self, parameters: Parameters, shape: Shape) -> list[Number] | None:
        """Run the recurrence; None when a value outgrows the number format."""
        limit = shape.number_format.limit(self.kind)
        terms = list(parameters["start"])
        while len(terms) < shape.length and abs(terms[-1]) < limit:
            terms.append(self.recompute(terms, (), parameters))
        return terms if max(map(abs, terms)) < limit else None

    def step(
        self, terms: Sequence[Number], parameters: Parameters, result: str, fmt: NumberFormat
    ) -> Step:
        """Write the computation of the term after `terms`."""
        shown = [fmt.text(term) for term in terms]
        return Step(self.expression(shown, terms, parameters), result)


def magnitude(rng: np.random.Generator, digits: int) -> int:
    """Draw an integer whose number of digits, 1 to `digits`, is itself drawn evenly."""
    n = int(rng.integers(1, digits + 1))
    return int(rng.integers(10 ** (n - 1), 10**n))


def sign(rng: np.random.Generator) -> int:
    """Draw −1 or 1."""
    return 1 if rng.random() < 0.5 else -1


def uniform(rng: np.random.Generator, low: Number, high: Number, decimals: int) -> float:
    """Draw a number with fixed decimals from `[low, high]`."""
    unit = 10**decimals
    return int(rng.integers(round(low * unit), round(high * unit) + 1)) / unit
