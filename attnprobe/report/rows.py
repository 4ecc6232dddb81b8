"""Rows of one record for the page: attention of a head or of all, and attributions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from attnprobe.errors import MeasureError
from attnprobe.panels.tokens import token_labels
from attnprobe.report.coding import coded_rows, plain
from attnprobe.types import Encoding

MOST_AT_ONCE = 2**27
"""Bytes of weights that are in memory together; of long records fewer layers are read at once."""


def attention_rows(
    run: Any,
    record_id: str,
    layer: int | None = None,
    head: int | None = None,
    *,
    every: bool = False,
) -> dict[str, Any]:
    """Write where a record's queries look: one head, or the mean over what is left out.

    Args:
        run: An open run that holds rows.
        record_id: Which record.
        layer: One layer; None for the mean over all.
        head: One head; None for the mean over all.
        every: Take every query that is stored, not only those that predict the target.

    Returns:
        The rows of `coded_rows`, and `queries`: the position of each row.

    Raises:
        MeasureError: If the run holds no rows.
        SelectionError: If there is no such record, layer or head.
    """
    require_rows(run)
    encoding = run.encoding(record_id)
    layers = list(run.layers) if layer is None else [layer]
    at_once = max(1, MOST_AT_ONCE // (4 * len(run.heads) * encoding.n_tokens**2))
    total: Any = 0.0
    rows: Any = None
    for start in range(0, len(layers), at_once):
        rows = run.weights(record_id, layer=layers[start : start + at_once], head=head)
        total = total + rows.values.mean(axis=1, dtype=np.float64).sum(axis=0)
    return _written(rows, total / len(layers), None if every else encoding)


def layer_rows(run: Any, record_id: str, layer: int) -> dict[int, dict[str, Any]]:
    """Write where the predicted tokens of a record look, by each head of a layer.

    Returns:
        head → what `attention_rows` returns.
    """
    require_rows(run)
    rows, encoding = run.weights(record_id, layer=layer), run.encoding(record_id)
    return {
        int(head): _written(rows, rows.values[0, place].astype(np.float64), encoding)
        for place, head in enumerate(rows["head"].values)
    }


def _written(
    rows: xr.DataArray, values: Float[np.ndarray, "query key"], steps_of: Encoding | None
) -> dict[str, Any]:
    """Write rows: those of the steps of a record, or all."""
    queries, first = rows["query"].values, rows["first_key"].values
    length = rows["last_key"].values - first + 1
    kept = slice(None) if steps_of is None else np.isin(queries, steps_of.step_queries)
    piece = coded_rows(values[kept], first[kept], length[kept])
    return {"queries": queries[kept].tolist(), **piece}


def has_rows(run: Any) -> bool:
    """Tell whether a run holds rows of tokens."""
    return bool({"rows", "full"} & set(run.keep))


def require_rows(run: Any) -> None:
    """Refuse a run without rows.

    Raises:
        MeasureError: If it holds none.
    """
    if not has_rows(run):
        raise MeasureError(
            "the run does not hold attention rows", where=str(run.path),
            got=f"--keep {' '.join(run.keep)}",
            fix="extract again with --keep rows (where predicted tokens look) or --keep full",
        )  # fmt: skip


def attribution_rows(run: Any, record_id: str, method: str) -> dict[str, Any]:
    """Write what each predicted token is credited to, by one method.

    Returns:
        The rows of `coded_rows` with a sign, `queries` (one before the predicted token, as for
        attention), `unit` and `target`.

    Raises:
        SelectionError: If there is no such record or method.
    """
    found = run.attribution(record_id, method)
    positions = found["position"].values
    piece = coded_rows(
        found.values.astype(np.float64), [0] * len(positions), positions, signed=True
    )
    return {
        "queries": (positions - 1).tolist(),
        "unit": str(found.attrs.get("units", "")),
        "target": str(found.attrs.get("target", "")),
        **piece,
    }


def text_of(encoding: Encoding, log_probs: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Write the tokens of a record, with the segment and the surprise of each.

    Returns:
        `texts`, a text per token; `merged`, [start, stop, text] of characters that were split over
        several tokens; `spans`, [start, stop, role]; `n_prompt`; `n_virtual`; `sinks`;
        `log_probs` (nats) of the predicted tokens; `generated`: what the model wrote, and
        `expected`: the record's own target.
    """
    return {
        "texts": list(encoding.texts),
        "merged": [
            [label.start, label.stop, label.text]
            for label in token_labels(encoding.texts)
            if label.stop - label.start > 1
        ],
        "spans": [[span.start, span.stop, span.role] for span in encoding.spans],
        "n_prompt": encoding.n_prompt,
        "n_virtual": encoding.n_virtual,
        "sinks": list(encoding.sinks),
        "log_probs": plain(np.asarray(log_probs), 3),
        "generated": encoding.generated,
        "expected": encoding.record.target_text,
    }
