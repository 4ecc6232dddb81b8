"""Sinks as measured: keys that draw attention whatever they say, found by their weight."""

import unicodedata
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float

from attnprobe.errors import MeasureError
from attnprobe.measures.arrays import divide
from attnprobe.measures.rows import StepRows
from attnprobe.types import N_POSITION_SINKS

SINK_WEIGHT = 0.3
"""Mean weight from which on a key counts as a sink (Gu et al. 2025)."""


def is_delimiter(text: str) -> bool:
    """Whether a token is punctuation or white space with a line break, and nothing else.

    Dashes are none: before a number they are its sign.
    """
    bare = text.strip()
    if not bare:
        return "\n" in text
    kinds = {unicodedata.category(character) for character in bare}
    return "Pd" not in kinds and all(kind.startswith("P") for kind in kinds)


def candidates(rows: StepRows) -> Bool[np.ndarray, " key"]:
    """Keys that may be sinks: the first four positions, BOS, and delimiters."""
    return rows.sinks | np.array([is_delimiter(text) for text in rows.texts], bool)


def mean_weights(
    weights: Float[np.ndarray, "layer head step key"], visible: Bool[np.ndarray, "layer step key"]
) -> Float[np.ndarray, "layer head key"]:
    """Mean weight of each key over the rows that see it; 0 where none does."""
    seen = visible.sum(1)[:, None].astype(weights.dtype)
    return np.nan_to_num(divide(*np.broadcast_arrays(weights.sum(2), seen)))


def measured_sink_mass(
    rows: StepRows, threshold: float = SINK_WEIGHT
) -> Float[np.ndarray, "layer head asked"]:
    """Attention on the keys that are sinks of this head in this record, whatever it is.

    Source: Gu et al. 2025 (arXiv 2410.10781): a key is a sink of a head where its mean weight, over
    the rows that see it, exceeds 0.3. They look at the first token; here the first four positions,
    BOS and delimiters (punctuation and line breaks) are looked at (Xiao et al. 2024, arXiv
    2309.17453; Clark et al. 2019). The rows are those of the steps.

    0 where the head has no sink. `sink_mass` counts the first positions and BOS of every head
    instead, sinks or not. It misleads in short targets: a delimiter that few steps see, and look
    at for good reason, passes for a sink.
    """
    is_sink = (mean_weights(rows.weights, rows.visible) > threshold) & candidates(rows)
    asked = rows.weights[:, :, rows.asked]
    return np.einsum("lhqk,lhk->lhq", asked, is_sink.astype(asked.dtype))


@runtime_checkable
class SinkRun(Protocol):
    """What is needed of a run: the rows of the steps, and where its text begins."""

    def iter_step_rows(self, ids: Any = None, layer: Any = None, head: Any = None) -> Any:
        """Yield each record's rows per (layer, head, step, key)."""
        ...


def find_sinks(
    run: SinkRun,
    threshold: float = SINK_WEIGHT,
    layer: Any = None,
    head: Any = None,
    ids: Sequence[str] | None = None,
) -> pd.DataFrame:
    """List the sinks of every head, as measured; see `measured_sink_mass`.

    Args:
        run: An open run that holds rows.
        threshold: Mean weight that makes a key a sink.
        layer: Layers to read; None for all.
        head: Heads to read; None for all.
        ids: Records to read; None for all.

    Returns:
        One row for each head and kind of key that is a sink in some record, the heaviest first:
        `layer`, `head`; `key`, such as `position 0`, `bos` or `delimiter '\\n'`; `weight`, the mean
        over records of the mean weight of that key (the heaviest one, where a record has several
        of the kind); `share`, in how many of the records that have such a key it is a sink;
        `n_records`, how many do.

    Raises:
        MeasureError: If the run holds no rows.
    """
    weights: dict[str, list[np.ndarray]] = {}
    axes: tuple[np.ndarray, np.ndarray] | None = None
    for _, found in run.iter_step_rows(ids=ids, layer=layer, head=head):
        axes = found["layer"].values, found["head"].values
        means = mean_weights(found.values, found["visible"].values)
        for name, keys in _kinds(found).items():
            weights.setdefault(name, []).append(means[..., keys].max(-1))
    if axes is None or not weights:
        raise MeasureError(
            "there are no rows to find sinks in", fix="extract again with --keep rows"
        )
    lines = []
    for name, values in weights.items():
        stacked = np.stack(values)
        mean, share = stacked.mean(0), (stacked > threshold).mean(0)
        for at, number in np.argwhere(share > 0):
            lines.append({
                "layer": int(axes[0][at]), "head": int(axes[1][number]), "key": name,
                "weight": float(mean[at, number]), "share": float(share[at, number]),
                "n_records": len(stacked),
            })  # fmt: skip
    columns = ["layer", "head", "key", "weight", "share", "n_records"]
    table = pd.DataFrame(lines, columns=pd.Index(columns))
    return table.sort_values(
        ["weight", "layer", "head"], ascending=[False, True, True]
    ).reset_index(drop=True)


def _kinds(found: xr.DataArray) -> dict[str, np.ndarray]:
    """Name the keys that may be sinks: kind → positions."""
    kinds: dict[str, list[int]] = {}
    first = int(found.attrs["n_virtual"])
    texts, is_sink = found["key_text"].values.tolist(), found["is_sink"].values
    for key, text in enumerate(texts):
        if is_sink[key] and first <= key < first + N_POSITION_SINKS:
            kinds.setdefault(f"position {key - first}", []).append(key)
        elif is_sink[key]:
            kinds.setdefault("bos", []).append(key)
        elif is_delimiter(text):
            kinds.setdefault(f"delimiter {text!r}", []).append(key)
    return {name: np.array(keys) for name, keys in kinds.items()}
