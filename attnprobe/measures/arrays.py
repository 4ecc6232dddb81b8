"""The measures themselves: pure functions on arrays of softmax weights and their sums."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Num

from attnprobe.errors import SelectionError
from attnprobe.types import Span

EPSILON = 0.01
"""Smoothing of enrichment: a span that draws nothing gets log2(ε/(1+ε)) = −6.66 bits."""


def span_mass(weights: Float[np.ndarray, "*batch key"], span: Span) -> Float[np.ndarray, "*batch"]:
    """Sum the attention that each query pays to one span.

    Args:
        weights: Softmax probabilities; each row sums to 1 over `key`.
        span: Half-open token range on the key axis.

    Returns:
        Mass in [0, 1], unit "probability".

    Raises:
        SelectionError: If `span` reaches past the key axis.
    """
    n_keys = weights.shape[-1]
    if not 0 <= span.start <= span.stop <= n_keys:
        raise SelectionError(
            f"span '{span.role}' reaches past the keys",
            got=f"[{span.start}, {span.stop})",
            expected=f"a range within [0, {n_keys})",
        )
    return weights[..., span.start : span.stop].sum(-1)


def density(
    mass: Float[np.ndarray, "*#shape"], n_keys: Num[np.ndarray, "*#shape"]
) -> Float[np.ndarray, "..."]:
    """Divide the mass on a span by its visible keys.

    Args:
        mass: Mass on the span.
        n_keys: How many of the span's keys the mask leaves visible.

    Returns:
        Mean weight of one key, unit "probability per key"; NaN where no key is visible.
    """
    mass, n_keys = np.broadcast_arrays(mass, n_keys)
    return divide(mass, n_keys)


def enrichment(
    mass: Float[np.ndarray, "*#shape"],
    n_keys: Num[np.ndarray, "*#shape"],
    n_visible: Num[np.ndarray, "*#shape"],
    epsilon: float = EPSILON,
) -> Float[np.ndarray, "..."]:
    """Compare the mass on a span with its share of the visible keys, in bits.

    E = log2[(m + ε·n/K) / ((1+ε)·n/K)]. Attention spread evenly over the K keys gives exactly 0,
    twice that share about 1 bit, half of it about −1 bit.

    ε mixes a little even attention into what was observed. Without it a span that draws nothing
    would be at −∞, and one tiny weight, below what the stored codes resolve (1.6e-5), would decide
    a mean. The lower bound is log2(ε/(1+ε)), −6.66 bits at the default of 0.01; do not read
    meaning into differences near that bound. The upper bound is about log2(K/n).

    Args:
        mass: m, the span's share of the mass on all keys that count (sinks set apart).
        n_keys: n, the span's visible keys that count.
        n_visible: K, all visible keys that count.
        epsilon: ε, the weight of the even attention mixed in, above 0.

    Returns:
        Enrichment, unit "bits"; NaN where the span has no visible key.
    """
    mass, n_keys, n_visible = np.broadcast_arrays(mass, n_keys, n_visible)
    # m·K/n is the share of the mass over the share of the keys: 1 where attention is even.
    ratio = divide(mass * n_visible, n_keys)
    return np.log2((ratio + epsilon) / (1 + epsilon))


def divide(
    numerator: Num[np.ndarray, "*shape"], denominator: Num[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """Divide, with NaN where the denominator is 0."""
    kind = np.float32 if numerator.dtype == np.float32 else np.float64
    quotient = np.full(numerator.shape, np.nan, dtype=kind)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0, casting="unsafe")
    return quotient


@dataclass(frozen=True, slots=True, eq=False)
class StepMass:
    """One record's attention summed over key groups, with what tells the groups apart."""

    mass: Float[np.ndarray, "layer head step group"]
    """Probability mass; sums to 1 over `group`."""
    visible: Num[np.ndarray, "layer step group"]
    """Keys of the group that the mask leaves visible."""
    is_sink: Bool[np.ndarray, " group"]
    """Whether the group is a sink set apart."""
    members: Bool[np.ndarray, "group key_role"]
    """Which groups make up each key role."""


def role_mass(steps: StepMass) -> Float[np.ndarray, "layer head step key_role"]:
    """Mass on the whole of each role, sinks included; 0 where the role is not yet visible."""
    return steps.mass @ steps.members.astype(steps.mass.dtype)


def role_density(steps: StepMass) -> Float[np.ndarray, "layer head step key_role"]:
    """Mass per visible key of each role, sinks included; NaN where no key is visible."""
    return density(role_mass(steps), _visible_keys(steps, steps.members)[:, None])


def role_enrichment(steps: StepMass) -> Float[np.ndarray, "layer head step key_role"]:
    """Enrichment of each role among the keys that are no sinks.

    Both mass and key counts leave the sinks out, so what a head gives to sinks does not move it.
    NaN where the role has no visible key besides sinks, or where the sinks take everything.

    The mean of a logarithm is below the logarithm of the mean, and the more so the more shares
    vary from step to step. Where attention is concentrated on few keys at random, they vary more
    the smaller the span's part of the keys is, so a longer prompt lowers the mean a little;
    `role_lift` is free of this.
    """
    share, n_keys, n_visible = _shares(steps)
    return enrichment(share, n_keys[:, None], n_visible[:, None])


def role_lift(steps: StepMass) -> Float[np.ndarray, "layer head step key_role"]:
    """Share of the attention over share of the keys, for each role, sinks set apart.

    Enrichment without the logarithm and its smoothing. However concentrated attention is, its mean
    is 1 where no key is favoured, whatever the length of the prompt. Compare it on a scale of
    ratios (`scale="log-ratio"`), since a few steps can have values far above 1.
    """
    share, n_keys, n_visible = _shares(steps)
    return divide(*np.broadcast_arrays(share * n_visible[:, None], n_keys[:, None]))


def _shares(steps: StepMass) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each role's share of the mass, its keys and all keys, sinks set apart."""
    apart = ~steps.is_sink
    kind = steps.mass.dtype
    members = steps.members & apart[:, None]
    share = divide(
        *np.broadcast_arrays(
            steps.mass @ members.astype(kind), (steps.mass @ apart.astype(kind))[..., None]
        )
    )
    n_keys = _visible_keys(steps, members)
    return share, n_keys, _visible_keys(steps, apart[:, None])


def sink_mass(steps: StepMass) -> Float[np.ndarray, "layer head step"]:
    """Mass on all sinks together: first positions and BOS, whatever their role."""
    return steps.mass @ steps.is_sink.astype(steps.mass.dtype)


def _visible_keys(
    steps: StepMass, members: Bool[np.ndarray, "group column"]
) -> Float[np.ndarray, "layer step column"]:
    kind = steps.mass.dtype
    return steps.visible.astype(kind) @ members.astype(kind)


def mean_over_steps(
    values: Float[np.ndarray, "layer head step *rest"],
) -> Float[np.ndarray, "layer head *rest"]:
    """Average per-step values over the steps at which they are defined; NaN where none is."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0).sum(axis=2)
    return divide(total, defined.sum(axis=2).astype(values.dtype))
