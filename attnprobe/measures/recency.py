"""Enrichment beyond recency: what a span draws over what its distance alone would draw."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from attnprobe.measures.arrays import divide
from attnprobe.measures.profiles import DistanceProfile, beyond_recency, bin_of, fit_profile
from attnprobe.measures.rows import StepRows


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What of one record is needed once the profile is known."""

    n_keys: Int[np.ndarray, "distinct step bin"]
    """Keys that count, by distance; for each layer, or once where all see the same."""
    of_role: list[Int[np.ndarray, "distinct step bin"]]
    """Those of each key role."""
    paid: Float[np.ndarray, "layer head step"]
    """What each step pays to keys that count."""
    to_role: Float[np.ndarray, "layer head step key_role"]
    """And to those of each key role."""
    key_roles: tuple[str, ...]
    asked: Int[np.ndarray, " asked"]


class _Gathered:
    """Some records, and what was drawn at each distance in all of them together."""

    def __init__(self) -> None:
        self.drawn: np.ndarray | None = None
        self.drawn_by: dict[str, np.ndarray] = {}
        self.numbers: tuple[tuple[int, ...], tuple[int, ...]] = (), ()
        self.seen: list[_Seen] = []

    @property
    def key_roles(self) -> list[str]:
        """All that any record has."""
        return sorted({role for record in self.seen for role in record.key_roles})

    def add(self, rows: StepRows) -> None:
        """Take a record in."""
        self.seen.append(self._reduced(rows))

    def _reduced(self, rows: StepRows) -> _Seen:
        """Reduce a record to sums and counts by distance."""
        self.numbers = rows.layers, rows.heads
        counted = rows.counted
        distinct = counted[:1] if (counted == counted[:1]).all() else counted
        bins = bin_of(np.maximum(rows.queries[:, None] - np.arange(counted.shape[-1]), 0))
        weights = np.where(counted[:, None], rows.weights, 0)
        every = np.ones((len(rows.apart), 1), bool)
        drawn = _by_bin(weights, bins, np.concatenate([every, rows.members], axis=1))
        self.drawn = _plus(self.drawn, drawn[0])
        for role, part in zip(rows.key_roles, drawn[1:], strict=True):
            self.drawn_by[role] = _plus(self.drawn_by.get(role), part)
        return _Seen(
            n_keys=_count(distinct, bins),
            of_role=[_count(distinct & members, bins) for members in rows.members.T],
            paid=weights.sum(-1),
            to_role=weights @ rows.members.astype(weights.dtype),
            key_roles=rows.key_roles,
            asked=rows.asked,
        )

    def profile(self, without: str | None) -> DistanceProfile:
        """Find the profile from all keys but those of a role."""
        drawn = np.zeros((1, 1, 1)) if self.drawn is None else self.drawn.copy()
        n_bins = drawn.shape[-1]
        if without is not None:
            left = self.drawn_by[without]
            drawn[..., : left.shape[-1]] -= left
        together = all(len(record.n_keys) == 1 for record in self.seen)
        found, counts = [], np.zeros((0, n_bins))
        for layer, of_layer in enumerate(drawn):
            if layer == 0 or not together:
                counts = np.concatenate([_others(r, without, layer, n_bins) for r in self.seen])
            paid = np.concatenate([_paid(r, without, layer) for r in self.seen])
            found.append(fit_profile(np.maximum(of_layer, 0), paid, counts))
        return DistanceProfile(np.stack(found), *self.numbers)


def _by_bin(
    weights: Float[np.ndarray, "layer head step key"],
    bins: Int[np.ndarray, "step key"],
    columns: Bool[np.ndarray, "key column"],
) -> Float[np.ndarray, "column layer head bin"]:
    """Sum weights by distance, for some sets of keys."""
    n_bins = int(bins.max(initial=0)) + 1
    steps, keys, sets = np.nonzero(np.broadcast_to(columns, (len(bins), *columns.shape)))
    places = sets * n_bins + bins[steps, keys]
    shape = (columns.shape[1] * n_bins, bins.size)
    one = np.ones(len(places), weights.dtype)
    summing = csr_array((one, (places, steps * bins.shape[1] + keys)), shape=shape)
    flat = np.ascontiguousarray(weights.reshape(-1, bins.size).T)
    summed = (summing @ flat).reshape(columns.shape[1], n_bins, *weights.shape[:2])
    return np.moveaxis(summed, 1, -1).astype(np.float64)


def _count(
    keys: Bool[np.ndarray, "distinct step key"], bins: Int[np.ndarray, "step key"]
) -> Int[np.ndarray, "distinct step bin"]:
    """Count keys by distance."""
    n_layers, n_steps, _ = keys.shape
    n_bins = int(bins.max(initial=0)) + 1
    rows = np.arange(n_layers * n_steps).reshape(n_layers, n_steps, 1)
    places = (rows * n_bins + bins)[keys]
    counts = np.bincount(places, minlength=n_layers * n_steps * n_bins)
    return counts.reshape(n_layers, n_steps, n_bins).astype(np.int32)


def _plus(total: np.ndarray | None, part: np.ndarray) -> np.ndarray:
    """Add arrays of which one may have more bins."""
    if total is None:
        return part
    n_bins = max(total.shape[-1], part.shape[-1])
    summed = np.zeros((*part.shape[:-1], n_bins))
    summed[..., : total.shape[-1]] = total
    summed[..., : part.shape[-1]] += part
    return summed


def _others(
    record: _Seen, without: str | None, layer: int, n_bins: int
) -> Int[np.ndarray, "step bin"]:
    """Count a record's keys by distance, but for those of a role."""
    at = min(layer, len(record.n_keys) - 1)
    counts = np.zeros((record.n_keys.shape[1], n_bins), np.int64)
    counts[:, : record.n_keys.shape[-1]] = record.n_keys[at]
    if without in record.key_roles:
        left = record.of_role[record.key_roles.index(without)][at]
        counts[:, : left.shape[-1]] -= left
    return counts


def _paid(record: _Seen, without: str | None, layer: int) -> Float[np.ndarray, "step head"]:
    """Return what steps pay to a record's keys, but for those of a role."""
    paid = record.paid[layer].astype(np.float64)
    if without in record.key_roles:
        paid = paid - record.to_role[layer, ..., record.key_roles.index(without)]
    return np.maximum(paid, 0).T


def _beyond(
    record: _Seen, profiles: dict[str, DistanceProfile]
) -> Float[np.ndarray, "layer head asked key_role"]:
    """Compare a record's masses with what distance gives."""
    asked, n_layers = record.asked, len(record.paid)
    found = np.full((*record.paid.shape[:2], len(asked), len(record.key_roles)), np.nan)

    def every(counts: np.ndarray) -> np.ndarray:
        return np.broadcast_to(counts[:, asked], (n_layers, len(asked), counts.shape[-1]))

    n_keys = every(record.n_keys)
    for column, role in enumerate(record.key_roles):
        of_role, profile = every(record.of_role[column]), profiles[role]
        expected = divide(profile.expected(of_role), profile.expected(n_keys))
        share = divide(record.to_role[:, :, asked, column], record.paid[:, :, asked])
        found[..., column] = beyond_recency(
            share.astype(np.float64), expected, of_role.sum(-1)[:, None], n_keys.sum(-1)[:, None]
        )
    return found


def enrichment_beyond_recency(
    records: Iterable[StepRows], profile: DistanceProfile | None = None
) -> Iterator[Float[np.ndarray, "layer head asked key_role"]]:
    """How much more attention a span draws than its distance alone explains, in bits.

    Heads look at what is near. Where two styles put the history at different distances, plain
    enrichment differs for that reason alone. Here each head's weight by distance is found from the
    keys *outside* the span, of all steps of all records of the same task together (`fit_profile`),
    and what it gives the span takes the place of the span's share of the keys (`beyond_recency`).
    Sinks and virtual tokens are set apart. With a profile of neutral text (`distance_profile`),
    that is used.

    Each task has a profile of its own, so that what chance did to it is done to this task alone: an
    error in one profile for all would look like an effect in all tasks, which no test by task could
    tell from a real one. Claims on these tasks only (by item) do rest on their profiles.

    It misleads where what is outside the span has a content of its own at just those distances, and
    where position matters in another way than by distance. A span farther away than everything
    else, or nearer, has no profile: NaN. A profile of neutral text has one.

    Args:
        records: Rows of the steps; all are read before the first value comes.
        profile: Of these layers and heads; None to find it from the other spans.

    Yields:
        Values of the steps asked for, record by record.
    """
    by_task: dict[str, _Gathered] = {}
    order = []
    for rows in records:
        by_task.setdefault(rows.task, _Gathered()).add(rows)
        order.append(rows.task)
    found = {task: _all_beyond(gathered, profile) for task, gathered in by_task.items()}
    for task in order:
        yield next(found[task])


def _all_beyond(
    gathered: _Gathered, profile: DistanceProfile | None
) -> Iterator[Float[np.ndarray, "layer head asked key_role"]]:
    """Measure the records of one task."""
    given = None if profile is None else profile.of(*gathered.numbers)
    profiles = {role: given or gathered.profile(role) for role in gathered.key_roles}
    for record in gathered.seen:
        yield _beyond(record, profiles)


def profile_of(records: Iterable[StepRows]) -> DistanceProfile:
    """Find how heads weigh keys by distance, from all keys of some records but sinks."""
    gathered = _Gathered()
    for rows in records:
        gathered.add(rows)
    return gathered.profile(None)
