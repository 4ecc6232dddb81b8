"""The attention rows of a record's steps, and which keys each of them sees."""

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float32

from attnprobe.store.columns import starts_of
from attnprobe.store.views import Place, Selection, lacking, positions_of


def step_rows(place: Place, chosen: Selection, *, norms: bool = False) -> xr.DataArray:
    """Return the row of each step, 0 where a key was not visible; `visible` tells where it was.

    With `norms`, the coordinate `value_norm` (layer, head, key) is how long the vector is that each
    head fetches from each key.

    Of a group of which a layer's mask shows some keys only, those are taken to be the last ones
    before the row's end: what a sliding window leaves.
    """
    steps, stored = place.steps, place.part("/row/query")
    found = positions_of(steps, stored)
    if found is None:
        raise lacking(place.id, "attention rows", "rows")
    lengths, key_starts = place.part("/row/length"), place.part("/row/key_start")
    starts, keys = starts_of(lengths), np.arange(place.n_tokens)
    pairs = place.probabilities("/weights", chosen)
    dense = np.zeros((*pairs.shape[:2], len(steps), len(keys)), np.float32)
    for step, row in enumerate(found):
        pair, key, length = starts[row], key_starts[row], lengths[row]
        dense[:, :, step, key : key + length] = pairs[..., pair : pair + length]
    texts, roles, predicted = place.token_texts(), place.token_roles(keys), place.predicted
    is_sink = np.isin(keys, place.part("/sink/position"))
    stops = (key_starts + lengths)[found]
    coords = chosen.coords | {
        "step": ("step", np.arange(len(steps))),
        "step_role": ("step", roles[predicted]),
        "step_text": ("step", texts[predicted]),
        "query": ("step", steps),
        "key": ("key", keys),
        "key_role": ("key", roles),
        "key_text": ("key", texts),
        "key_id": ("key", place.part("/token/id")),
        "is_sink": ("key", is_sink),
        "visible": (("layer", "step", "key"), _visible_keys(place, steps, stops, chosen)),
    }
    if norms:
        coords["value_norm"] = (("layer", "head", "key"), _value_norms(place, chosen))
    return xr.DataArray(
        dense, coords, ("layer", "head", "step", "key"), name="step_rows",
        attrs={"units": "probability", "record": place.id, "n_virtual": place.n_virtual},
    )  # fmt: skip


def _value_norms(place: Place, chosen: Selection) -> Float32[np.ndarray, "layer head key"]:
    if "/value_norm" not in place.shard.columns:
        raise lacking(place.id, "the lengths of moved values", "value_norms")
    return place.shard.heavy("/value_norm", place.record, chosen.layers, chosen.heads, place.ahead)


def _visible_keys(
    place: Place, queries: np.ndarray, stops: np.ndarray, chosen: Selection
) -> Bool[np.ndarray, "layer query key"]:
    """Spell out which keys each layer sees, from how many of each group it sees."""
    counts = place.visible(queries, chosen)
    starts, ends = place.part("/group/start"), place.part("/group/stop")
    keys, group_of = np.arange(place.n_tokens), np.repeat(np.arange(len(starts)), ends - starts)
    last = np.minimum(ends[None, :], stops[:, None])  # query, group
    if counts is None:
        raise lacking(place.id, "the number of visible keys", "rows")
    first = last - counts.astype(np.int64)  # layer, query, group
    return (keys >= first[..., group_of]) & (keys < last[:, group_of])
