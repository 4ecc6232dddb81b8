"""Families of whole numbers; their answers are judged exactly."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attnprobe.tasks.sequences.family import Family, Number, Parameters, Shape, magnitude, sign
from attnprobe.tasks.styles import operand


class Arithmetic(Family):
    """x' = x + d."""

    name = "arithmetic"

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Differences 2–19, or 20–39 when `far`."""
        size = int(rng.integers(20, 40) if far else rng.integers(2, 20))
        start = magnitude(rng, shape.number_format.digits)
        return {"difference": sign(rng) * size, "start": [start]}

    def sources(self, index: int, parameters: Parameters) -> tuple[int, ...]:
        """The term before."""
        return (index - 1,)

    def following(self, terms: Sequence[Number], parameters: Parameters) -> Number:
        """Add the difference."""
        return terms[-1] + parameters["difference"]

    def expression(
        self, shown: Sequence[str], terms: Sequence[Number], parameters: Parameters
    ) -> str:
        """`68 + 12`."""
        return f"{shown[-1]} {_signed(parameters['difference'])}"


class SecondDifference(Family):
    """x'' = x' + (x' − x) + s: the second difference is constant."""

    name = "second_difference"

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Second differences 1–9, or 10–19 when `far`."""
        size = int(rng.integers(10, 20) if far else rng.integers(1, 10))
        first = magnitude(rng, min(shape.number_format.digits, 3))
        change = int(rng.integers(-50, 51))
        return {"second_difference": sign(rng) * size, "start": [first, first + change]}

    def sources(self, index: int, parameters: Parameters) -> tuple[int, ...]:
        """The two terms before."""
        return (index - 2, index - 1)

    def following(self, terms: Sequence[Number], parameters: Parameters) -> Number:
        """Go on by the last difference and the change of it."""
        return 2 * terms[-1] - terms[-2] + parameters["second_difference"]

    def expression(
        self, shown: Sequence[str], terms: Sequence[Number], parameters: Parameters
    ) -> str:
        """`68 + (68 - 57) + 2`."""
        before, last = operand(shown[-2]), operand(shown[-1])
        return f"{last} + ({last} - {before}) {_signed(parameters['second_difference'])}"


class Recurrence(Family):
    """x' = Σ cₖ·x₋ₖ + c, of a fixed order."""

    near_coefficients: ClassVar[tuple[tuple[int, ...], ...]]
    far_coefficients: ClassVar[tuple[tuple[int, ...], ...]] = ()
    largest_start: ClassVar[int]

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Coefficients from one of two lists that share no entry; the constant is −9 to 9."""
        choices = self.far_coefficients if far else self.near_coefficients
        coefficients = choices[int(rng.integers(len(choices)))]
        largest = min(self.largest_start, 10**shape.number_format.digits - 1)
        start = rng.integers(-largest, largest + 1, len(coefficients))
        return {
            "coefficients": list(coefficients),
            "constant": int(rng.integers(-9, 10)),
            "start": [int(value) for value in start],
        }

    def sources(self, index: int, parameters: Parameters) -> tuple[int, ...]:
        """The terms before whose coefficient is not 0."""
        lags = [lag for lag, c in enumerate(parameters["coefficients"], start=1) if c]
        return tuple(index - lag for lag in reversed(lags))

    def following(self, terms: Sequence[Number], parameters: Parameters) -> Number:
        """Add up the terms before, weighted."""
        weighted = (c * terms[-lag] for lag, c in enumerate(parameters["coefficients"], start=1))
        return sum(weighted) + parameters["constant"]

    def expression(
        self, shown: Sequence[str], terms: Sequence[Number], parameters: Parameters
    ) -> str:
        """`1*68 + 2*57 - 3`."""
        products = [
            f"{operand(str(c))}*{operand(shown[-lag])}"
            for lag, c in enumerate(parameters["coefficients"], start=1)
            if c
        ]
        return f"{' + '.join(products)} {_signed(parameters['constant'])}"


class Order2Recurrence(Recurrence):
    """x' = a·x + b·x₋₁ + c."""

    name = "order2_recurrence"
    near_coefficients = ((1, 1), (1, 2), (-1, 1), (1, -2), (2, -2), (-1, 2), (1, -3))
    far_coefficients = ((-1, -2), (-2, -2), (2, -3), (-1, -3))
    largest_start = 60


class Order3Recurrence(Recurrence):
    """x' = a·x + b·x₋₁ + c·x₋₂ + e."""

    name = "order3_recurrence"
    held_out = True
    near_coefficients = (
        *((1, 0, 1), (0, 1, 1), (1, -1, 2), (1, 1, -2), (-1, 1, 2), (0, -1, 2)),
        *((1, 1, 1), (-1, 0, 1), (0, 2, 1)),
    )
    largest_start = 60


class Modular(Family):
    """x' = a·x + c mod p, with p prime."""

    name = "modular"
    near_primes: ClassVar[tuple[int, ...]] = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
    far_primes: ClassVar[tuple[int, ...]] = (53, 59, 61, 67, 71, 73, 79, 83, 89, 97)

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Primes 11–47, or 53–97 when `far`."""
        primes = self.far_primes if far else self.near_primes
        p = primes[int(rng.integers(len(primes)))]
        a, c, start = (int(rng.integers(low, p)) for low in (2, 0, 0))
        return {"a": a, "c": c, "p": p, "start": [start]}

    def sources(self, index: int, parameters: Parameters) -> tuple[int, ...]:
        """The term before."""
        return (index - 1,)

    def following(self, terms: Sequence[Number], parameters: Parameters) -> Number:
        """Multiply, add, and keep the remainder."""
        return (parameters["a"] * terms[-1] + parameters["c"]) % parameters["p"]

    def expression(
        self, shown: Sequence[str], terms: Sequence[Number], parameters: Parameters
    ) -> str:
        """`(7*23 + 5) mod 41`."""
        return f"({parameters['a']}*{shown[-1]} + {parameters['c']}) mod {parameters['p']}"


class Periodic(Family):
    """x' is the term one period before."""

    name = "periodic"
    held_out = True

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Periods 3–6; all values of a period differ."""
        period = int(rng.integers(3, 7))
        return {"period": period, "start": distinct(rng, period, shape.number_format.digits)}

    def sources(self, index: int, parameters: Parameters) -> tuple[int, ...]:
        """The term one period before."""
        return (index - parameters["period"],)

    def following(self, terms: Sequence[Number], parameters: Parameters) -> Number:
        """Repeat."""
        return terms[-parameters["period"]]

    def expression(
        self, shown: Sequence[str], terms: Sequence[Number], parameters: Parameters
    ) -> str:
        """`x13 = x9`."""
        return _copied(len(terms), len(terms) - parameters["period"])


class RunLength(Family):
    """Each value is repeated for a run, then grows by d; the lengths of the runs repeat too."""

    name = "run_length"
    near_runs: ClassVar[tuple[tuple[int, ...], ...]] = ((2,), (3,), (1, 2), (2, 1), (1, 3), (2, 3))
    far_runs: ClassVar[tuple[tuple[int, ...], ...]] = ((4,), (3, 1), (3, 2), (1, 4), (4, 1))

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Runs of 1–3 terms, or with other patterns up to 4 when `far`; steps of 1–29."""
        choices = self.far_runs if far else self.near_runs
        return {
            "runs": list(choices[int(rng.integers(len(choices)))]),
            "difference": sign(rng) * int(rng.integers(1, 30)),
            "start": [magnitude(rng, shape.number_format.digits)],
        }

    def sources(self, index: int, parameters: Parameters) -> tuple[int, ...]:
        """The term before."""
        return (index - 1,)

    def following(self, terms: Sequence[Number], parameters: Parameters) -> Number:
        """Repeat within a run, grow where the next begins."""
        return terms[-1] + self._growth(len(terms), parameters)

    def expression(
        self, shown: Sequence[str], terms: Sequence[Number], parameters: Parameters
    ) -> str:
        """`68 + 0` within a run, `68 + 12` where the next begins."""
        return f"{shown[-1]} {_signed(self._growth(len(terms), parameters))}"

    def _growth(self, index: int, parameters: Parameters) -> int:
        runs = parameters["runs"]
        place = index % sum(runs)
        begins = {sum(runs[:k]) for k in range(len(runs))}
        return parameters["difference"] if place in begins else 0


class CopyReverse(Family):
    """A list, then the same list again, forwards or backwards."""

    name = "copy_reverse"

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Values whose first digit is 1–6, or 7–9 when `far`.

        Of the second list at least three terms are history, and the answer does not outrun it.
        """
        shortest, longest = -(-shape.length // 2), shape.history - 3
        if shortest > longest:
            return {"direction": "copy", "size": 0, "start": []}
        size = int(rng.integers(shortest, longest + 1))
        direction = "copy" if rng.random() < 0.5 else "reverse"
        top = 10 ** int(rng.integers(2, max(2, min(shape.number_format.digits, 4)) + 1))
        low, high = (top // 10 * 7, top) if far else (top // 10, top // 10 * 7)
        if high - low < size:
            return {"direction": direction, "size": 0, "start": []}
        values = rng.choice(high - low, size, replace=False) + low
        return {"direction": direction, "size": size, "start": [int(value) for value in values]}

    def sources(self, index: int, parameters: Parameters) -> tuple[int, ...]:
        """The one term that is copied."""
        size = parameters["size"]
        return (index - size if parameters["direction"] == "copy" else 2 * size - 1 - index,)

    def following(self, terms: Sequence[Number], parameters: Parameters) -> Number:
        """Copy a term."""
        return terms[self.sources(len(terms), parameters)[0]]

    def expression(
        self, shown: Sequence[str], terms: Sequence[Number], parameters: Parameters
    ) -> str:
        """`x13 = x5`."""
        return _copied(len(terms), self.sources(len(terms), parameters)[0])


class Interleave(Family):
    """Two sequences in turn, each with a difference or a ratio of its own."""

    name = "interleave"
    held_out = True

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Differences 2–39 or, in one strand at most, a ratio of 2."""
        strands = [{"ratio": 1, "difference": sign(rng) * int(rng.integers(2, 40))} for _ in "ab"]
        if rng.random() < 0.5:
            strands[int(rng.integers(2))] = {"ratio": 2, "difference": 0}
        digits = shape.number_format.digits
        start = [magnitude(rng, min(digits, 2 if s["ratio"] == 2 else digits)) for s in strands]
        return {"strands": strands, "start": start}

    def sources(self, index: int, parameters: Parameters) -> tuple[int, ...]:
        """The term two before."""
        return (index - 2,)

    def following(self, terms: Sequence[Number], parameters: Parameters) -> Number:
        """Go on with the strand whose turn it is."""
        strand = parameters["strands"][len(terms) % 2]
        return strand["ratio"] * terms[-2] + strand["difference"]

    def expression(
        self, shown: Sequence[str], terms: Sequence[Number], parameters: Parameters
    ) -> str:
        """`68 + 12` or `2*68`."""
        strand = parameters["strands"][len(terms) % 2]
        if strand["ratio"] != 1:
            return f"{strand['ratio']}*{operand(shown[-2])}"
        return f"{shown[-2]} {_signed(strand['difference'])}"


class RandomWalk(Family):
    """x' = x + noise: a negative control, which no rule predicts."""

    name = "random_walk"
    held_out = True
    control = True

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Increments −20 to 20; they are the parameters."""
        increments = [int(value) for value in rng.integers(-20, 21, shape.length)]
        return {"increments": increments, "start": [magnitude(rng, shape.number_format.digits)]}

    def sources(self, index: int, parameters: Parameters) -> tuple[int, ...]:
        """The term before."""
        return (index - 1,)

    def following(self, terms: Sequence[Number], parameters: Parameters) -> Number:
        """Add the increment that was drawn."""
        return terms[-1] + parameters["increments"][len(terms)]

    def expression(
        self, shown: Sequence[str], terms: Sequence[Number], parameters: Parameters
    ) -> str:
        """`68 + 12`."""
        return f"{shown[-1]} {_signed(parameters['increments'][len(terms)])}"


def distinct(rng: np.random.Generator, count: int, digits: int) -> list[int]:
    """Draw different numbers of up to `digits` digits, or fewer when there are not that many."""
    top = 10 ** int(rng.integers(1, digits + 1))
    return [int(value) for value in rng.choice(top, min(count, top), replace=False)]


def _signed(value: int) -> str:
    return f"- {-value}" if value < 0 else f"+ {value}"


def _copied(index: int, source: int) -> str:
    return f"x{index + 1} = x{source + 1}"
