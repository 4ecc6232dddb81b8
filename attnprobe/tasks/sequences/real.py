"""Real-valued families; their answers are judged within a share of the history's range."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from attnprobe.tasks.sequences.family import Family, Number, Parameters, Shape, sign, uniform
from attnprobe.tasks.styles import operand

CAPACITY = 100
"""Upper end of the interval on which the logistic and the tent map live."""
MIN_LAST = 20
"""Least last value of a geometric sequence, in units of the last printed digit."""


class Real(Family):
    """What real-valued families share: the decimals are a parameter of the recurrence."""

    kind = "real"

    def sources(self, index: int, parameters: Parameters) -> tuple[int, ...]:
        """The term before."""
        return (index - 1,)


class Geometric(Real):
    """x' = r·x."""

    name = "geometric"

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Ratios 1.05–1.45 or 0.75–0.95 of either sign; 1.46–1.70 or 0.62–0.73 when `far`."""
        fmt = shape.number_format
        if rng.random() < 0.5:
            ratio = uniform(rng, 1.46, 1.70, 2) if far else uniform(rng, 1.05, 1.45, 2)
        else:
            ratio = uniform(rng, 0.62, 0.73, 2) if far else uniform(rng, 0.75, 0.95, 2)
        change = ratio ** (shape.length - 1)
        high = min(fmt.limit("real") / max(change, 1), 60 if ratio > 1 else 999)
        low = max(MIN_LAST / min(change, 1) / 10**fmt.decimals, high / 20)
        start = [uniform(rng, low, high, fmt.decimals)] if low < high else []
        return {"ratio": sign(rng) * ratio, "start": start, "decimals": fmt.decimals}

    def following(self, terms: Sequence[Number], parameters: Parameters) -> Number:
        """Multiply."""
        return parameters["ratio"] * terms[-1]

    def expression(
        self, shown: Sequence[str], terms: Sequence[Number], parameters: Parameters
    ) -> str:
        """`1.25*68.00`."""
        return f"{operand(str(parameters['ratio']))}*{operand(shown[-1])}"


class LogisticMap(Real):
    """x' = r·x·(1 − x/100) in its chaotic range."""

    name = "logistic_map"
    chaotic = True

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Growth rates 3.60–3.84, or 3.86–3.99 when `far`."""
        decimals = shape.number_format.decimals
        rate = uniform(rng, 3.86, 3.99, 2) if far else uniform(rng, 3.60, 3.84, 2)
        return {"rate": rate, "start": [uniform(rng, 5, 95, decimals)], "decimals": decimals}

    def following(self, terms: Sequence[Number], parameters: Parameters) -> Number:
        """Grow, limited by the capacity."""
        return parameters["rate"] * terms[-1] * (1 - terms[-1] / CAPACITY)

    def expression(
        self, shown: Sequence[str], terms: Sequence[Number], parameters: Parameters
    ) -> str:
        """`3.71*52.10*(1 - 52.10/100)`."""
        last = operand(shown[-1])
        return f"{parameters['rate']}*{last}*(1 - {last}/{CAPACITY})"


class TentMap(Real):
    """x' = μ·min(x, 100 − x)."""

    name = "tent_map"
    held_out = True
    chaotic = True

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Slopes 1.50–1.97."""
        decimals = shape.number_format.decimals
        slope = uniform(rng, 1.50, 1.97, 2)
        return {"slope": slope, "start": [uniform(rng, 5, 95, decimals)], "decimals": decimals}

    def following(self, terms: Sequence[Number], parameters: Parameters) -> Number:
        """Stretch the distance from the nearer end."""
        return parameters["slope"] * min(terms[-1], CAPACITY - terms[-1])

    def expression(
        self, shown: Sequence[str], terms: Sequence[Number], parameters: Parameters
    ) -> str:
        """`1.71*52.10` or `1.71*(100 - 52.10)`."""
        last = operand(shown[-1])
        rises = terms[-1] <= CAPACITY - terms[-1]
        return f"{parameters['slope']}*{last if rises else f'({CAPACITY} - {last})'}"


class DampedOscillator(Real):
    """x'' = 2ρ·cos(ω)·x' − ρ²·x: an oscillation sampled at equal times."""

    name = "damped_oscillator"
    held_out = True

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """ρ² 0.75–0.98, cos(ω) in ±0.9."""
        decimals = shape.number_format.decimals
        damping = uniform(rng, 0.75, 0.98, 3)
        swing = round(2 * damping**0.5 * uniform(rng, -0.9, 0.9, 3), 3)
        start = [sign(rng) * uniform(rng, 20, 95, decimals) for _ in range(2)]
        return {"swing": swing, "damping": damping, "start": start, "decimals": decimals}

    def sources(self, index: int, parameters: Parameters) -> tuple[int, ...]:
        """The two terms before."""
        return (index - 2, index - 1)

    def following(self, terms: Sequence[Number], parameters: Parameters) -> Number:
        """Swing on from the last term, pulled back by the one before."""
        return parameters["swing"] * terms[-1] - parameters["damping"] * terms[-2]

    def expression(
        self, shown: Sequence[str], terms: Sequence[Number], parameters: Parameters
    ) -> str:
        """`1.532*68.00 - 0.903*57.00`."""
        before, last = operand(shown[-2]), operand(shown[-1])
        return f"{operand(str(parameters['swing']))}*{last} - {parameters['damping']}*{before}"


class EulerOde(Real):
    """Differential equations by Euler's method: y' = −ky, or Lotka–Volterra.

    Lotka–Volterra is printed with prey u and predators v in turn: u' = u + h·u·(a − b·v) and
    v' = v + h·v·(c·u − d).
    """

    name = "euler_ode"

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Decay k 0.20–0.80 or prey growth a 0.50–0.90; above these ranges when `far`."""
        decimals = shape.number_format.decimals
        if rng.random() < 0.5:
            return {
                "system": "decay",
                "k": uniform(rng, 0.85, 1.50, 2) if far else uniform(rng, 0.20, 0.80, 2),
                "h": (0.1, 0.2)[int(rng.integers(2))],
                "start": [uniform(rng, 50, 999, decimals)],
                "decimals": decimals,
            }
        return {
            "system": "lotka_volterra",
            "a": uniform(rng, 0.95, 1.30, 2) if far else uniform(rng, 0.50, 0.90, 2),
            "b": uniform(rng, 0.010, 0.040, 3),
            "c": uniform(rng, 0.010, 0.030, 3),
            "d": uniform(rng, 0.40, 1.00, 2),
            "h": 0.2,
            "start": [uniform(rng, 20, 90, decimals), uniform(rng, 10, 60, decimals)],
            "decimals": decimals,
        }

    def sources(self, index: int, parameters: Parameters) -> tuple[int, ...]:
        """The state before: the last value, or the last pair of prey and predators."""
        if parameters["system"] == "decay":
            return (index - 1,)
        pair = index - index % 2
        return (pair - 2, pair - 1)

    def following(self, terms: Sequence[Number], parameters: Parameters) -> Number:
        """Take one Euler step."""
        p = parameters
        if p["system"] == "decay":
            return terms[-1] - p["h"] * p["k"] * terms[-1]
        u, v = (terms[k] for k in self.sources(len(terms), p))
        if len(terms) % 2 == 0:
            return u + p["h"] * u * (p["a"] - p["b"] * v)
        return v + p["h"] * v * (p["c"] * u - p["d"])

    def expression(
        self, shown: Sequence[str], terms: Sequence[Number], parameters: Parameters
    ) -> str:
        """`512.00 - 0.1*0.8*512.00`, or the same with the rates of prey or predators."""
        p = parameters
        if p["system"] == "decay":
            return f"{shown[-1]} - {p['h']}*{p['k']}*{shown[-1]}"
        u, v = (operand(shown[k]) for k in self.sources(len(terms), p))
        if len(terms) % 2 == 0:
            return f"{u} + {p['h']}*{u}*({p['a']} - {p['b']}*{v})"
        return f"{v} + {p['h']}*{v}*({p['c']}*{u} - {p['d']})"


class Lorenz(Real):
    """The x coordinate of Lorenz's system (1963), by Runge–Kutta steps of 0.01, every 8th kept.

    The coordinates y and z are never printed. They count as parameters: `hidden` has them at each
    printed term, and the recurrence takes x from the term and y, z from there.
    """

    name = "lorenz"
    held_out = True
    chaotic = True
    sigma, rho, beta = 10.0, 28.0, 8.0 / 3.0
    time_step, n_steps = 0.01, 8

    def draw(self, rng: np.random.Generator, shape: Shape, *, far: bool) -> dict[str, Any]:
        """Any start near the attractor."""
        decimals = shape.number_format.decimals
        state = (uniform(rng, -12, 12, 3), uniform(rng, -12, 12, 3), uniform(rng, 18, 32, 3))
        for _ in range(12):
            state = self._advance(state)
        x, y, z = state
        start = x = round(x, decimals)
        hidden = [[y, z]]
        for _ in range(shape.length - 1):
            x, y, z = self._advance((x, y, z))
            x = round(x, decimals)
            hidden.append([y, z])
        return {"hidden": hidden, "start": [start], "decimals": decimals}

    def following(self, terms: Sequence[Number], parameters: Parameters) -> Number:
        """Integrate from the last x and the y, z that go with it."""
        y, z = parameters["hidden"][len(terms) - 1]
        return self._advance((terms[-1], y, z))[0]

    def expression(
        self, shown: Sequence[str], terms: Sequence[Number], parameters: Parameters
    ) -> str:
        """`-8.31 + 1.20`: the term and its change."""
        decimals = parameters["decimals"]
        change = round(self.recompute(terms, (), parameters) - terms[-1], decimals)
        return f"{shown[-1]} {'-' if change < 0 else '+'} {abs(change):.{decimals}f}"

    def _advance(self, state: tuple[float, float, float]) -> tuple[float, float, float]:
        """Integrate from one printed term to the next."""
        # The slopes are written out: a call for each would take most of a dataset's time.
        x, y, z = state
        sigma, rho, beta, h = self.sigma, self.rho, self.beta, self.time_step
        for _ in range(self.n_steps):
            a0, a1, a2 = sigma * (y - x), x * (rho - z) - y, x * y - beta * z
            u, v, w = x + h / 2 * a0, y + h / 2 * a1, z + h / 2 * a2
            b0, b1, b2 = sigma * (v - u), u * (rho - w) - v, u * v - beta * w
            u, v, w = x + h / 2 * b0, y + h / 2 * b1, z + h / 2 * b2
            c0, c1, c2 = sigma * (v - u), u * (rho - w) - v, u * v - beta * w
            u, v, w = x + h * c0, y + h * c1, z + h * c2
            d0, d1, d2 = sigma * (v - u), u * (rho - w) - v, u * v - beta * w
            x += h / 6 * (a0 + 2 * b0 + 2 * c0 + d0)
            y += h / 6 * (a1 + 2 * b1 + 2 * c1 + d1)
            z += h / 6 * (a2 + 2 * b2 + 2 * c2 + d2)
        return x, y, z
