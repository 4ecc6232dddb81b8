"""Worlds of attention: confounds that move masses without anyone looking elsewhere.

A key's weight before normalisation is gamma distributed, its mean given by the world alone (even,
or by distance). Sums of gamma variables are gamma again, so the mass of a span of n keys is drawn
as one number, exactly. The smaller the shape of a key, the more a head rests on few keys at random.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from attnprobe.contrasts.flips import sign_flip_test
from attnprobe.measures import density, enrichment
from attnprobe.measures.profiles import DistanceProfile, beyond_recency, bin_of, fit_profile
from validation.study import (
    ALPHA,
    N_HEADS,
    N_ITEMS,
    N_TASKS,
    Expectation,
    Outcome,
    Study,
    at_most,
    fails,
)

FLIPS = 10_000


@dataclass(frozen=True, slots=True)
class Prompts:
    """Lengths of the spans of each item, in keys."""

    instruction: np.ndarray
    history: np.ndarray
    between: np.ndarray
    """Text between the history and the query: the steps, where there are any."""

    @property
    def n_keys(self) -> np.ndarray:
        """Keys that count."""
        return self.instruction + self.history + self.between


def two_styles(rng: np.random.Generator, n_items: int) -> tuple[Prompts, Prompts]:
    """Draw items in two styles: the same instruction and history, one with 20 to 80 keys more."""
    instruction, history = rng.integers(8, 20, n_items), rng.integers(12, 40, n_items)
    short, long = rng.integers(2, 6, n_items), rng.integers(20, 80, n_items)
    return Prompts(instruction, history, short), Prompts(instruction, history, short + long)


def shares(rng: np.random.Generator, prompts: Prompts, shape: float, n_heads: int) -> np.ndarray:
    """Draw the share of the attention that falls on the history, [item, head]."""
    history, rest = (
        rng.gamma(shape * n_keys[:, None], size=(len(n_keys), n_heads))
        for n_keys in (prompts.history, prompts.instruction + prompts.between)
    )
    return history / (history + rest)


def tested(difference: np.ndarray, rng: np.random.Generator) -> float:
    """Tell whether anything is found in paired differences [item, head], by task."""
    units = difference.reshape(N_TASKS, -1, difference.shape[1]).mean(axis=1)
    return float((sign_flip_test(units, FLIPS, rng).p_adjusted < ALPHA).any())


def log_ratio(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> float:
    """Tell whether anything is found in ratios of the means of each task."""
    means = [side.reshape(N_TASKS, -1, side.shape[1]).mean(axis=1) for side in (a, b)]
    units = np.log2(means[0] / means[1])
    return float((sign_flip_test(units, FLIPS, rng).p_adjusted < ALPHA).any())


def length(shape: float, rng: np.random.Generator) -> Outcome:
    """Even attention; one style is longer, and that is all."""
    styles = two_styles(rng, N_TASKS * N_ITEMS)
    share = [shares(rng, prompts, shape, N_HEADS) for prompts in styles]
    return _outcomes(share, [0.3, 0.3], styles, rng)


def shifting_sink(rng: np.random.Generator) -> Outcome:
    """Even attention beside a sink that takes 0.3 of it in one style and 0.6 in the other."""
    prompts, _ = two_styles(rng, N_TASKS * N_ITEMS)
    share = [shares(rng, prompts, 4.0, N_HEADS) for _ in range(2)]
    sinks = [rng.beta(*ends, size=share[0].shape) for ends in ((6, 14), (12, 8))]
    found = dict(_outcomes(share, sinks, (prompts, prompts), rng))
    return found | {"sink mass": tested(sinks[0] - sinks[1], rng)}


def _outcomes(
    share: list[np.ndarray],
    sinks: list,
    styles: tuple[Prompts, Prompts],
    rng: np.random.Generator,
) -> Outcome:
    """Test the history by mass, density, enrichment and lift."""
    n_keys = [prompts.history[:, None] for prompts in styles]
    n_visible = [prompts.n_keys[:, None] for prompts in styles]
    mass = [part * (1 - sink) for part, sink in zip(share, sinks, strict=True)]
    dense = [density(m, n) for m, n in zip(mass, n_keys, strict=True)]
    bits = [enrichment(s, n, k) for s, n, k in zip(share, n_keys, n_visible, strict=True)]
    lift = [s * k / n for s, n, k in zip(share, n_keys, n_visible, strict=True)]
    return {
        "mass": tested(mass[0] - mass[1], rng),
        "density": tested(dense[0] - dense[1], rng),
        "enrichment": tested(bits[0] - bits[1], rng),
        "lift, log-ratio": log_ratio(lift[0], lift[1], rng),
        "bias of enrichment, bits": float((bits[0] - bits[1]).mean()),
    }


N_RECENCY_HEADS = 48


def recency(shape: float, rng: np.random.Generator) -> Outcome:
    """Attention falls with distance and heeds nothing else; one style puts the history far off.

    Shares of such weights are ratios of sums, whose means are near the ratio of the means but not
    equal to it: the less keys vary at random (a large shape), the nearer.
    """
    styles = two_styles(rng, N_TASKS * N_ITEMS)
    slopes = rng.uniform(0.3, 1.2, N_RECENCY_HEADS)
    drawn = [_by_distance(rng, prompts, slopes, shape) for prompts in styles]
    tasks = [slice(first, first + N_ITEMS) for first in range(0, N_TASKS * N_ITEMS, N_ITEMS)]
    profiles = {"one profile": [_profile(drawn, slice(None))] * N_TASKS}
    profiles["a profile each task"] = [_profile(drawn, task) for task in tasks]
    plain, masses, found = [], [], {which: [] for which in profiles}
    for style, prompts in zip(drawn, styles, strict=True):
        mass = style.of_history.sum(axis=-1)
        share = mass / (mass + style.outside.sum(axis=-1))
        n_keys, n_visible = prompts.history[:, None], prompts.n_keys[:, None]
        plain.append(enrichment(share, n_keys, n_visible))
        masses.append(share)
        for which, weights in profiles.items():
            expected = np.concatenate(
                [
                    _expected(style, task, weight)
                    for task, weight in zip(tasks, weights, strict=True)
                ]
            )
            found[which].append(beyond_recency(share, expected, n_keys, n_visible))
    near, far = found["a profile each task"]
    return {
        "mass": tested(masses[0] - masses[1], rng),
        "enrichment": tested(plain[0] - plain[1], rng),
        "enrichment beyond recency": tested(near - far, rng),
        "the same, by one profile for all tasks": tested(np.subtract(*found["one profile"]), rng),
        "bias beyond recency, bits": float((near - far).mean()),
    }


def _profile(drawn: list["_Drawn"], items: slice) -> np.ndarray:
    """Fit the weights by distance, [head, bin], to what some items draw outside the history."""
    outside = np.concatenate([style.outside[items] for style in drawn])
    counts = np.concatenate([style.n_outside[items] for style in drawn])
    return fit_profile(outside.sum(axis=0), outside.sum(axis=-1), counts)


def _expected(style: "_Drawn", items: slice, weight: np.ndarray) -> np.ndarray:
    """Return the share of the history, [item, head], that distance alone gives it."""
    profile = DistanceProfile(weight[None])
    history, rest = (
        profile.expected(keys[items][None])[0].T for keys in (style.n_history, style.n_outside)
    )
    return history / (history + rest)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Weights by distance, of the history and of the rest."""

    of_history: np.ndarray
    """[item, head, bin]"""
    outside: np.ndarray
    n_history: np.ndarray
    """[item, bin]"""
    n_outside: np.ndarray


def _by_distance(
    rng: np.random.Generator, prompts: Prompts, slopes: np.ndarray, shape: float
) -> _Drawn:
    """Draw weights key by key of items, summed by bin of distance."""
    n_bins = int(bin_of(np.array([160])).max()) + 1
    n_items = len(prompts.history)
    sums = np.zeros((2, n_items, len(slopes), n_bins))
    counts = np.zeros((2, n_items, n_bins))
    for item in range(n_items):
        away = np.arange(prompts.n_keys[item])
        profile = (away[None, :] + 1.0) ** -slopes[:, None]
        weights = profile * rng.gamma(shape, size=profile.shape)
        first = prompts.between[item]
        inside = (away >= first) & (away < first + prompts.history[item])
        bins = bin_of(away)
        for side, chosen in enumerate((inside, ~inside)):
            member = bins[chosen][:, None] == np.arange(n_bins)
            sums[side, item] = weights[:, chosen] @ member
            counts[side, item] = member.sum(axis=0)
    return _Drawn(sums[0], sums[1], counts[0], counts[1])


def studies() -> Iterator[Study]:
    """List the studies of this file."""
    for shape, holds in ((8.0, True), (1.0, False), (0.25, False)):
        expected = [
            fails("mass", "a longer prompt leaves less for the history"),
            fails("density", "and less for each of its keys"),
            at_most("lift, log-ratio"),
        ]
        if holds:
            expected.append(at_most("enrichment"))
        yield Study(
            f"confound/length/shape {shape:g} per key",
            "even attention; one style is 20 to 80 keys longer",
            200, partial(length, shape), tuple(expected),
        )  # fmt: skip
    yield Study(
        "confound/shifting sink",
        "a sink takes 0.3 in one style and 0.6 in the other, the rest is even", 200, shifting_sink,
        (
            fails("mass", "what the sink takes is missing elsewhere"),
            fails("density", "what the sink takes is missing elsewhere"),
            at_most("enrichment"), at_most("lift, log-ratio"),
            Expectation("sink mass", "the sink is an outcome of its own, and is found", 0.99, 1.0),
        ),
    )  # fmt: skip
    for shape, holds in ((32.0, True), (8.0, False)):
        expected = [fails(name, "the history is farther off") for name in ("mass", "enrichment")]
        yield Study(
            f"confound/recency/shape {shape:g} per key",
            "attention falls with distance, and one style puts more text between",
            100, partial(recency, shape),
            (*expected, *([at_most("enrichment beyond recency")] * holds)),
        )  # fmt: skip
