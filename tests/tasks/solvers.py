"""Solvers that know a family's kind of rule, but see nothing of an instance except its history.

Each finds the rule in another way than the generator has it: closed forms, least squares, search.
All take histories as an array [instance, term] and return the next terms as [instance, term].
"""

from fractions import Fraction
from itertools import pairwise

import numpy as np


def arithmetic(history, horizon):
    """The straight line through the first and the last term."""
    slope = Fraction(int(history[-1]) - int(history[0]), len(history) - 1)
    return [int(history[0]) + slope * n for n in _coming(history, horizon)]


def second_difference(history, horizon):
    """The parabola through three terms far apart (Lagrange)."""
    points = [0, len(history) // 2, len(history) - 1]
    values = [int(history[p]) for p in points]

    def parabola(n):
        total = Fraction(0)
        for p, value in zip(points, values, strict=True):
            others = [q for q in points if q != p]
            total += value * Fraction(
                (n - others[0]) * (n - others[1]), (p - others[0]) * (p - others[1])
            )
        return total

    return [parabola(n) for n in _coming(history, horizon)]


def linear_recurrence(order):
    """Coefficients and constant by least squares over all windows."""

    def solve(history, horizon):
        terms = [float(value) for value in history]
        rows = [[*terms[n - order : n], 1.0] for n in range(order, len(terms))]
        weights = np.linalg.lstsq(np.array(rows), np.array(terms[order:]), rcond=1e-10)[0]
        for _ in range(horizon):
            terms.append(float(np.round(np.dot([*terms[-order:], 1.0], weights))))
        return terms[-horizon:]

    return solve


def modular(history, horizon):
    """Search every prime modulus below 100 and every multiplier."""
    terms = [int(value) for value in history]
    for p in (p for p in range(max(terms) + 1, 100) if all(p % q for q in range(2, p))):
        for a in range(p):
            c = (terms[1] - a * terms[0]) % p
            if all((a * x + c) % p == y for x, y in pairwise(terms)):
                for _ in range(horizon):
                    terms.append((a * terms[-1] + c) % p)
                return terms[-horizon:]
    return []


def periodic(history, horizon):
    """The shortest period that the history has."""
    terms = list(history)
    period = _period(terms)
    for _ in range(horizon):
        terms.append(terms[-period])
    return terms[-horizon:]


def run_length(history, horizon):
    """The shortest period of the differences."""
    changes = list(np.diff(history))
    period = _period(changes)
    for _ in range(horizon):
        changes.append(changes[-period])
    return list(history[0] + np.cumsum(changes))[-horizon:]


def copy_reverse(history, horizon):
    """Where the first term comes again a copy begins; where a term is doubled a mirror stands."""
    terms = list(history)
    for size in range(2, len(terms)):
        shown = len(terms) - size
        if terms[size:] == terms[:shown]:
            return terms[shown : shown + horizon]
        mirrored = terms[:size][::-1]
        if shown >= 2 and terms[size:] == mirrored[:shown]:
            return mirrored[shown : shown + horizon]
    return []


def interleave(history, horizon):
    """Each strand by a first-order recurrence, solved exactly from its first three terms."""
    terms = [Fraction(int(value)) for value in history]
    rules = []
    for first in (0, 1):
        a, b, c = terms[first], terms[first + 2], terms[first + 4]
        ratio = (c - b) / (b - a)
        rules.append((ratio, b - ratio * a))
    for _ in range(horizon):
        ratio, constant = rules[len(terms) % 2]
        terms.append(ratio * terms[-2] + constant)
    return terms[-horizon:]


def one_map(shape):
    """x' = r·shape(x), r by least squares."""

    def solve(history, horizon):
        x = np.array(history[:-1], dtype=float)
        rate = np.dot(shape(x), history[1:]) / np.dot(shape(x), shape(x))
        terms = list(history)
        for _ in range(horizon):
            terms.append(float(rate * shape(np.float64(terms[-1]))))
        return terms[-horizon:]

    return solve


def damped_oscillator(history, horizon):
    """Swing and damping by least squares."""
    x = np.array(history, dtype=float)
    swing, damping = np.linalg.lstsq(np.stack([x[1:-1], -x[:-2]], 1), x[2:], rcond=None)[0]
    terms = list(x)
    for _ in range(horizon):
        terms.append(swing * terms[-1] - damping * terms[-2])
    return terms[-horizon:]


def euler_ode(history, horizon):
    """One constant ratio, or else prey and predators by two regressions of relative growth."""
    x = np.array(history, dtype=float)
    ratio = np.dot(x[:-1], x[1:]) / np.dot(x[:-1], x[:-1])
    if np.abs(x[1:] - ratio * x[:-1]).max() < 0.02:
        return list(x[-1] * ratio ** np.arange(1, horizon + 1))
    u, v = x[0::2][: len(x) // 2], x[1::2]
    prey = _growth_rule(u, v)
    predators = _growth_rule(v, u)
    terms = list(x)
    for _ in range(horizon):
        pair = len(terms) - len(terms) % 2
        prey_now, predators_now = terms[pair - 2], terms[pair - 1]
        if len(terms) % 2 == 0:
            terms.append(prey_now * (prey[0] + prey[1] * predators_now))
        else:
            terms.append(predators_now * (predators[0] + predators[1] * prey_now))
    return terms[-horizon:]


def lorenz(histories, horizon):
    """The hidden start by Levenberg–Marquardt from the best of a grid, all instances at once."""
    observed = np.array(histories, dtype=float)
    n, length = observed.shape
    slope = (
        -11 * observed[:, 0] + 18 * observed[:, 1] - 9 * observed[:, 2] + 2 * observed[:, 3]
    ) / (6 * 0.08)
    guesses = [
        np.stack([observed[:, 0], observed[:, 0] + slope / 10 + shift, np.full(n, z)], 1)
        for shift in (-3.0, -1.0, 0.0, 1.0, 3.0)
        for z in np.arange(6.0, 46.0, 3.0)
    ]
    misfits = [((_lorenz_x(guess, 8) - observed[:, :8]) ** 2).sum(1) for guess in guesses]
    ranked = np.argsort(misfits, axis=0)
    fits = [_lorenz_fit(np.stack(guesses)[ranked[k], np.arange(n)], observed) for k in range(3)]
    best = np.argmin([misfit for _, misfit in fits], axis=0)
    start = np.stack([start for start, _ in fits])[best, np.arange(n)]
    return _lorenz_x(start, length + horizon)[:, length:]


def _lorenz_fit(start, observed):
    n, length = observed.shape
    damping = np.full(n, 1e-2)
    misfit = ((_lorenz_x(start, length) - observed) ** 2).sum(1)
    for _ in range(25):
        base = _lorenz_x(start, length)
        nudged = [_lorenz_x(start + 1e-6 * np.eye(3)[k], length) for k in range(3)]
        jacobian = np.stack([(moved - base) / 1e-6 for moved in nudged], 2)
        gradient = np.einsum("ntk,nt->nk", jacobian, observed - base)
        normal = np.einsum("ntk,ntl->nkl", jacobian, jacobian)
        normal += damping[:, None, None] * (np.eye(3) * normal + 1e-9 * np.eye(3))
        tried = start + np.linalg.solve(normal, gradient[:, :, None])[:, :, 0]
        tried = np.clip(tried, -80.0, 80.0)
        new = ((_lorenz_x(tried, length) - observed) ** 2).sum(1)
        better = new < misfit
        start[better], misfit[better] = tried[better], new[better]
        damping = np.where(better, damping / 4, damping * 6)
    return start, misfit


ONE_BY_ONE = {
    "arithmetic": arithmetic,
    "geometric": one_map(lambda x: x),
    "second_difference": second_difference,
    "order2_recurrence": linear_recurrence(2),
    "order3_recurrence": linear_recurrence(3),
    "modular": modular,
    "periodic": periodic,
    "run_length": run_length,
    "copy_reverse": copy_reverse,
    "interleave": interleave,
    "logistic_map": one_map(lambda x: x * (1 - x / 100)),
    "tent_map": one_map(lambda x: np.minimum(x, 100 - x)),
    "damped_oscillator": damped_oscillator,
    "euler_ode": euler_ode,
}


def solve_all(family, histories, horizon):
    """Return the predicted next terms of every history."""
    if family == "lorenz":
        return lorenz(histories, horizon)
    return [ONE_BY_ONE[family](history, horizon) for history in histories]


def agrees(kind, history, predicted, answer):
    """Integer answers exactly, real ones within 2 % of the history's range."""
    if len(predicted) != len(answer):
        return False
    if kind == "integer":
        return [float(p) for p in predicted] == [float(a) for a in answer]
    allowed = 0.02 * (max(history) - min(history))
    return all(abs(float(p) - a) <= allowed for p, a in zip(predicted, answer, strict=True))


def _coming(history, horizon):
    return range(len(history), len(history) + horizon)


def _period(values):
    periods = range(1, len(values))
    return next((p for p in periods if values[p:] == values[:-p]), len(values))


def _growth_rule(grows, other):
    """x'/x = α + β·other, weighted by x since x' is what was rounded."""
    rows = np.stack([grows[:-1], grows[:-1] * other[:-1]], 1)
    return np.linalg.lstsq(rows, grows[1:], rcond=None)[0]


def _lorenz_x(start, length):
    state = np.array(start, dtype=float).T
    kept = [state[0]]
    for _ in range(length - 1):
        for _ in range(8):
            state = _lorenz_step(state, 0.01)
        kept.append(state[0])
    return np.stack(kept, 1)


def _lorenz_step(state, h):
    k1 = _lorenz_slope(state)
    k2 = _lorenz_slope(state + h / 2 * k1)
    k3 = _lorenz_slope(state + h / 2 * k2)
    k4 = _lorenz_slope(state + h * k3)
    return state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _lorenz_slope(state):
    x, y, z = state
    return np.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])
