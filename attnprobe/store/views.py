"""One record's stored columns as labelled arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float32, Int

from attnprobe.errors import MeasureError
from attnprobe.store.columns import starts_of
from attnprobe.store.shard import Ahead, Shard
from attnprobe.types import is_source, n_virtual, step_query


@dataclass(frozen=True, slots=True)
class Selection:
    """Layers and heads asked for: their positions on the axes, and their numbers in the model."""

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    layer_numbers: tuple[int, ...]
    head_numbers: tuple[int, ...]

    @property
    def coords(self) -> dict[str, Any]:
        """Coordinates of the two axes."""
        return {
            "layer": ("layer", np.array(self.layer_numbers, np.int64)),
            "head": ("head", np.array(self.head_numbers, np.int64)),
        }


@dataclass(frozen=True, slots=True)
class Place:
    """One record in an open shard."""

    shard: Shard
    record: int
    ahead: Ahead | None = None
    """Set while records are read one after another."""

    def part(self, name: str) -> np.ndarray:
        """Return this record's part of a light column."""
        return self.shard.part(name, self.record)

    def probabilities(self, name: str, chosen: Selection) -> Float32[np.ndarray, "layer head cell"]:
        """Return this record's part of a heavy dataset, decoded."""
        return self.shard.probabilities(name, self.record, chosen.layers, chosen.heads, self.ahead)

    @property
    def id(self) -> str:
        """The record's id."""
        return self.shard.column("/record/id")[self.record].decode()

    @property
    def n_tokens(self) -> int:
        """Length of prompt + target."""
        return self.shard.number("/record/n_tokens", self.record)

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return self.shard.number("/record/n_prompt", self.record)

    @property
    def n_virtual(self) -> int:
        """Virtual tokens before the text, which have no queries."""
        return n_virtual(self.part("/token/id"))

    @property
    def steps(self) -> Int[np.ndarray, " step"]:
        """The query position of each step."""
        n_steps = self.n_tokens - self.n_prompt
        return np.arange(step_query(self.n_prompt, 0), step_query(self.n_prompt, n_steps))

    @property
    def predicted(self) -> Int[np.ndarray, " step"]:
        """The position of the token that each step predicts."""
        return np.arange(self.n_prompt, self.n_tokens)

    @property
    def roles(self) -> np.ndarray:
        """The role of each span."""
        return np.array(
            [role.decode("utf-8", "replace") for role in self.part("/span/role").tolist()], np.str_
        )

    def token_roles(self, positions: np.ndarray) -> np.ndarray:
        """Return the role of the span that holds each position."""
        return self.roles[np.searchsorted(self.part("/span/stop"), positions, side="right")]

    def token_texts(self) -> np.ndarray:
        """Return the text of each token."""
        return np.array(self.shard.texts(self.record), np.str_)

    def visible(self, queries: np.ndarray, chosen: Selection) -> np.ndarray | None:
        """Return visible keys per (layer, query, group), or None where they are not stored."""
        stored, n_groups = self.part("/visible_query"), len(self.part("/group/start"))
        found = positions_of(queries, stored)
        if found is None:
            return None
        cells = self.shard.heavy("/visible", self.record, chosen.layers, chosen.heads, self.ahead)
        return cells.reshape(len(chosen.layers), len(stored), n_groups)[:, found]


def positions_of(wanted: np.ndarray, stored: np.ndarray) -> np.ndarray | None:
    """Find values in an ascending array; None unless all are there."""
    found = np.searchsorted(stored, wanted)
    inside = bool((found < len(stored)).all())
    return found if inside and bool((stored[found] == wanted).all()) else None


def weights(place: Place, chosen: Selection) -> xr.DataArray:
    """Return stored rows as a square-sided array, 0 where a key was not visible.

    `first_key` and `last_key` bound the keys that each row covers.
    """
    queries = place.part("/row/query")
    if len(place.steps) and not len(place.shard.column("/row/query")):
        raise lacking(place.id, "attention rows", "rows")
    lengths, n_keys = place.part("/row/length"), place.n_tokens
    pairs = place.probabilities("/weights", chosen)
    starts, key_starts = starts_of(lengths), place.part("/row/key_start")
    dense = np.zeros((*pairs.shape[:2], len(queries), n_keys), np.float32)
    for row, (start, key, length) in enumerate(zip(starts, key_starts, lengths, strict=True)):
        dense[:, :, row, key : key + length] = pairs[..., start : start + length]
    texts, positions = place.token_texts(), np.arange(n_keys)
    key_roles = place.token_roles(positions)
    coords = chosen.coords | {
        "query": ("query", queries.astype(np.int64)),
        "key": ("key", positions),
        "query_text": ("query", texts[queries]),
        "key_text": ("key", texts),
        "query_role": ("query", key_roles[queries]),
        "key_role": ("key", key_roles),
        "first_key": ("query", key_starts.astype(np.int64)),
        "last_key": ("query", (key_starts + lengths - 1).astype(np.int64)),
    }
    return xr.DataArray(
        dense, coords, ("layer", "head", "query", "key"), name="weights",
        attrs={"units": "probability", "record": place.id},
    )  # fmt: skip


def step_mass(place: Place, chosen: Selection) -> xr.DataArray:
    """Return the mass that each step pays to each key group."""
    steps = place.steps
    mass = masses(place, steps, chosen)
    if mass is None:
        raise lacking(place.id, "the attention of every step", "rows")
    predicted = place.predicted
    coords = chosen.coords | group_coords(place) | {
        "step": ("step", np.arange(len(steps))),
        "step_role": ("step", place.token_roles(predicted)),
        "step_text": ("step", place.token_texts()[predicted]),
    }  # fmt: skip
    visible = place.visible(steps, chosen)
    if visible is not None:
        coords["visible"] = (("layer", "step", "group"), visible)
    return xr.DataArray(
        mass, coords, ("layer", "head", "step", "group"), name="step_mass",
        attrs={"units": "probability", "record": place.id},
    )  # fmt: skip


def pooled(place: Place, chosen: Selection) -> xr.DataArray:
    """Return the mass that every query pays to each key group."""
    queries = place.part("/pooled_query")
    if not len(queries):
        queries = np.arange(place.n_virtual, place.n_tokens)
    mass = masses(place, queries, chosen)
    if mass is None:
        raise lacking(place.id, "the attention of every query", "pooled")
    coords = chosen.coords | group_coords(place) | {
        "query": ("query", queries.astype(np.int64)),
        "query_role": ("query", place.token_roles(queries)),
        "query_text": ("query", place.token_texts()[queries]),
    }  # fmt: skip
    visible = place.visible(queries, chosen)
    if visible is not None:
        coords["visible"] = (("layer", "query", "group"), visible)
    return xr.DataArray(
        mass, coords, ("layer", "head", "query", "group"), name="pooled",
        attrs={"units": "probability", "record": place.id},
    )  # fmt: skip


def attribution(place: Place, method: str, params: Mapping[str, Any]) -> xr.DataArray:
    """Return the credit of every token for every step, NaN where it does not come before it."""
    predicted, sources = place.predicted, np.arange(place.n_tokens)
    scores = np.full((len(predicted), len(sources)), np.nan, np.float32)
    scores[is_source(place.n_prompt, len(predicted))] = place.part(f"/attribution/{method}")
    texts, roles = place.token_texts(), place.token_roles(sources)
    coords = {
        "step": ("step", np.arange(len(predicted))),
        "source": ("source", sources),
        "position": ("step", predicted),
        "step_text": ("step", texts[predicted]),
        "step_role": ("step", roles[predicted]),
        "source_text": ("source", texts),
        "source_role": ("source", roles),
        "delta": ("step", place.part(f"/attribution_delta/{method}")),
    }
    attrs = {"units": str(params.get("unit", "")), "record": place.id, "method": method}
    return xr.DataArray(
        scores, coords, ("step", "source"), name="attribution",
        attrs=attrs | {name: value for name, value in params.items() if name != "unit"},
    )  # fmt: skip


def predictions(place: Place) -> xr.Dataset:
    """Return how well each target token was predicted."""
    ids, positions = place.part("/token/id"), place.predicted
    return xr.Dataset(
        {
            "log_prob": ("step", place.part("/step/log_prob"), {"units": "nat"}),
            "predicted": ("step", place.part("/step/predicted")),
            "target": ("step", ids[positions]),
        },
        {
            "step": ("step", np.arange(len(positions))),
            "step_text": ("step", place.token_texts()[positions]),
            "step_role": ("step", place.token_roles(positions)),
        },
        attrs={"record": place.id},
    )


def group_coords(place: Place) -> dict[str, Any]:
    """Coordinates of the group axis."""
    start, stop = place.part("/group/start"), place.part("/group/stop")
    return {
        "group": ("group", np.arange(len(start))),
        "role": ("group", place.roles[place.part("/group/span")]),
        "is_sink": ("group", place.part("/group/is_sink").astype(bool)),
        "group_start": ("group", start),
        "group_stop": ("group", stop),
    }


def masses(
    place: Place, queries: np.ndarray, chosen: Selection
) -> Float32[np.ndarray, "layer head query group"] | None:
    """Return masses of some queries from whatever holds them all; None where nothing does.

    Stored masses of steps come first, then rows, which are summed here, then pooled masses.
    """
    if not len(queries):
        n_groups = len(place.part("/group/start"))
        return np.zeros((len(chosen.layers), len(chosen.heads), 0, n_groups), np.float32)
    for name in ("/step_mass", "/weights", "/pooled"):
        stored = place.part("/row/query" if name == "/weights" else f"{name}_query")
        found = positions_of(queries, stored)
        if found is None or not len(stored):
            continue
        values = place.probabilities(name, chosen)
        if name == "/weights":
            return sum_rows(place, values, found)
        every = values.reshape(*values.shape[:2], len(stored), -1)
        return every if len(found) == len(stored) else every[:, :, found]
    return None


def sum_rows(
    place: Place, pairs: Float32[np.ndarray, "layer head pair"], rows: Int[np.ndarray, " query"]
) -> Float32[np.ndarray, "layer head query group"]:
    """Sum rows over key groups."""
    lengths = place.part("/row/length")
    first, length = starts_of(lengths)[rows], lengths[rows]
    key_start = place.part("/row/key_start")[rows]
    starts, stops = (
        np.clip(place.part(name)[None, :] - key_start[:, None], 0, length[:, None])
        for name in ("/group/start", "/group/stop")
    )
    some = stops > starts
    begin = (first[:, None] + starts)[some]
    end = (first[:, None] + stops)[some]
    mass = np.zeros((*pairs.shape[:2], *starts.shape), np.float32)
    if len(begin):
        mass[:, :, some] = _segment_sums(pairs, begin, end)
    return mass


def _segment_sums(
    pairs: Float32[np.ndarray, "layer head pair"],
    begin: Int[np.ndarray, " segment"],
    end: Int[np.ndarray, " segment"],
) -> Float32[np.ndarray, "layer head segment"]:
    """Sum `[begin, end)` stretches that are in order and do not overlap."""
    gapless = bool((end[:-1] == begin[1:]).all()) and end[-1] == pairs.shape[-1]
    if gapless:
        return np.add.reduceat(pairs, begin, axis=-1)
    cuts = np.stack([begin, end], axis=1).ravel()
    inside = cuts[-1] < pairs.shape[-1]
    sums = np.add.reduceat(pairs, cuts if inside else cuts[:-1], axis=-1)
    return sums[..., ::2]


def lacking(record_id: str, what: str, keep: str) -> MeasureError:
    """Word the refusal for something the run does not hold."""
    return MeasureError(
        f"the run does not hold {what}", where=f"record '{record_id}'",
        fix=f"extract again with --keep {keep}",
    )  # fmt: skip


def chosen_positions(
    wanted: Sequence[int], there: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split wanted numbers into positions of those that are there, and those that are not."""
    index = {number: position for position, number in enumerate(there)}
    return (
        tuple(index[number] for number in wanted if number in index),
        tuple(number for number in wanted if number not in index),
    )
