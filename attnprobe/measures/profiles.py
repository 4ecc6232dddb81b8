"""How a head weighs keys by their distance alone, and what that makes of a span."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num

from attnprobe.errors import MeasureError
from attnprobe.measures.arrays import EPSILON, divide

EXACT = 64
"""Distances up to here have a bin of their own; beyond, there are `PER_OCTAVE` to a doubling."""
PER_OCTAVE = 8
MAX_ROUNDS = 200
SETTLED = 1e-4
"""Largest change of a log weight at which the profile counts as found."""


def bin_of(distance: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    """Return the bin of a distance in tokens, 0 or more; bins widen with distance."""
    beyond = np.maximum(distance, EXACT) / EXACT
    octaves = np.floor(np.log2(beyond) * PER_OCTAVE + 1e-9).astype(np.int64)
    return np.where(distance < EXACT, distance, EXACT + octaves).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class DistanceProfile:
    """How a head weighs a key by its distance alone."""

    weight: Float[np.ndarray, "layer head bin"]
    """Relative weight of one key at the distances of each bin (`bin_of`), any scale; NaN where it
    is not known."""
    layers: tuple[int, ...] = ()
    """Numbers of the layers in the model; empty where it is used for just those it was made of."""
    heads: tuple[int, ...] = ()
    """Numbers of the heads, likewise."""

    def of(self, layers: tuple[int, ...], heads: tuple[int, ...]) -> "DistanceProfile":
        """Take some layers and heads, by their numbers.

        Raises:
            MeasureError: If it is of others.
        """
        if not (self.layers and self.heads and layers and heads):
            return self
        absent = {"layers": set(layers) - set(self.layers), "heads": set(heads) - set(self.heads)}
        for what, numbers in absent.items():
            if numbers:
                raise MeasureError(
                    "the distance profile is of other heads than those measured",
                    got=f"no {what} {sorted(numbers)}"[:120],
                    expected="every layer and head that is measured",
                    fix="make it from a run of the same model that keeps them",
                )  # fmt: skip
        rows = [self.layers.index(layer) for layer in layers]
        columns = [self.heads.index(head) for head in heads]
        return DistanceProfile(self.weight[np.ix_(rows, columns)], layers, heads)

    def expected(
        self, keys: Num[np.ndarray, "layer step bin"]
    ) -> Float[np.ndarray, "layer head step"]:
        """Sum the weights of some keys, counted by bin; NaN where a bin is not known."""
        n_bins = min(self.weight.shape[-1], keys.shape[-1])
        weight, counts = self.weight[..., :n_bins], keys[..., :n_bins].astype(np.float64)
        found = np.einsum("lsb,lhb->lhs", counts, np.nan_to_num(weight))
        astray = np.einsum("lsb,lhb->lhs", counts, np.isnan(weight).astype(np.float64))
        beyond = keys[..., n_bins:].sum(-1)[:, None] > 0
        return np.where((astray > 0) | beyond, np.nan, found)


def joined_profiles(parts: Sequence[DistanceProfile]) -> DistanceProfile:
    """Put profiles of several blocks of layers together."""
    n_bins = max(part.weight.shape[-1] for part in parts)
    weights = [
        np.pad(
            part.weight, ((0, 0), (0, 0), (0, n_bins - part.weight.shape[-1])),
            constant_values=np.nan,
        )
        for part in parts
    ]  # fmt: skip
    layers = tuple(layer for part in parts for layer in part.layers)
    return DistanceProfile(np.concatenate(weights), layers, parts[0].heads)


def fit_profile(
    drawn: Float[np.ndarray, "head bin"],
    paid: Float[np.ndarray, "row head"],
    n_keys: Num[np.ndarray, "row bin"],
) -> Float[np.ndarray, "head bin"]:
    """Find the weight of each distance that explains best what was drawn there.

    The model says that a row pays key j the share f(d_j) / Σ f(d) over the keys it sees: a
    conditional logit on distance (McFadden 1974), which knows how many keys there were to choose
    from. Its likelihood is maximised by the MM algorithm of Hunter (2004, Ann. Statist. 32, 384).
    A plain mean of weights by distance would be too small for far keys, which long rows alone have.

    Args:
        drawn: Attention on the keys of each bin, summed over rows.
        paid: What each row paid to all these keys.
        n_keys: How many of these keys each row sees in each bin.

    Returns:
        f, of each head and bin, with mean 1 over the bins that have keys; NaN where no row sees a
        key. Between two such bins it is interpolated, on logarithmic scales of both.
    """
    counts = n_keys.astype(np.float64)
    seen: np.ndarray = np.any(counts > 0, axis=0)
    drawn, paid = drawn.astype(np.float64).T * seen[:, None], paid.astype(np.float64)
    f = np.nan_to_num(divide(drawn, counts.T @ paid))
    moving = np.arange(f.shape[1])
    for _ in range(MAX_ROUNDS):
        before = f[:, moving]
        per_key = np.nan_to_num(divide(paid[:, moving], counts @ before))
        now = np.nan_to_num(divide(drawn[:, moving], counts.T @ per_key))
        now = np.nan_to_num(
            divide(now, np.broadcast_to(now.sum(0) / max(1, seen.sum()), now.shape))
        )
        f[:, moving] = now
        some = (now > 0) & (before > 0)
        moved = np.log(now, out=np.zeros_like(now), where=some)
        moved -= np.log(before, out=np.zeros_like(now), where=some)
        # each head by itself, so that it does not depend on which others are measured with it
        moving = moving[np.abs(moved).max(axis=0, initial=0.0) >= SETTLED]
        if not len(moving):
            break
    return _filled(np.where(seen[:, None] & (drawn.sum(0) > 0), f, np.nan).T)


def _filled(f: Float[np.ndarray, "head bin"]) -> Float[np.ndarray, "head bin"]:
    """Fill gaps between known bins: log weight by bin number, itself a logarithm of distance."""
    bins = np.arange(f.shape[1])
    floor = 1e-12
    for head, values in enumerate(f):
        known = np.flatnonzero(~np.isnan(values))
        if len(known):
            gaps = bins[known[0] : known[-1] + 1]
            logs = np.interp(gaps, known, np.log(np.maximum(values[known], floor)))
            filled = np.exp(logs)
            f[head, gaps] = np.where(np.isnan(values[gaps]), filled, values[gaps])
    return f


def beyond_recency(
    share: Float[np.ndarray, "*#shape"],
    expected: Float[np.ndarray, "*#shape"],
    n_keys: Num[np.ndarray, "*#shape"],
    n_visible: Num[np.ndarray, "*#shape"],
    epsilon: float = EPSILON,
) -> Float[np.ndarray, "..."]:
    """Compare the mass on a span with what distance alone gives it, in bits.

    log2[(m + ε·n/K) / (e + ε·n/K)]: enrichment with the expected share e in place of the share of
    the keys, that is the span's enrichment minus the one that recency alone would give it, both
    smoothed alike.

    Args:
        share: m, the span's share of the mass on all keys that count.
        expected: e, the share that its distances give it.
        n_keys: n, the span's visible keys that count.
        n_visible: K, all visible keys that count.
        epsilon: ε, as in `enrichment`.

    Returns:
        Bits; 0 where distance explains all; NaN where the span has no visible key.
    """
    share, expected, n_keys, n_visible = np.broadcast_arrays(share, expected, n_keys, n_visible)
    even = epsilon * divide(n_keys, n_visible)
    even = np.where(n_keys > 0, even, np.nan)
    return np.log2((share + even) / (expected + even))
