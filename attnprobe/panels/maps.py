"""Token by token: where chosen heads look in one record, ready to draw."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from attnprobe.errors import MeasureError, SelectionError, nearest
from attnprobe.measures.roles import match_roles, sort_roles
from attnprobe.panels.cells import MapPanel, find_scale
from attnprobe.panels.notices import with_notice
from attnprobe.panels.panel import limits_from_zero
from attnprobe.panels.tokens import TokenAxis, token_axis
from attnprobe.types import Encoding

MAX_CELLS = 400
"""Cells along one side of a map; more tokens than that share cells."""
MAX_MAPS = 12
"""Maps in one figure."""
LOG_FLOOR = 1e-4
"""Weights below it have the colour of it on a logarithmic scale."""


def map_panels(
    run: Any,
    ids: str | Sequence[str],
    layer: int | Sequence[int] | None = None,
    head: int | Sequence[int] | None = None,
    *,
    each: bool = False,
    query: str | None = None,
    key: str | None = None,
    scale: str = "sqrt",
    cells: int = MAX_CELLS,
) -> tuple[MapPanel, ...]:
    """Arrange the attention of records token by token.

    A run that keeps `full` gives the square of all queries; one that keeps `rows` gives the rows
    at which the target's tokens are predicted, labelled by those tokens. What a query cannot see
    has no value. All maps share their limits.

    Args:
        run: An open run.
        ids: One record, or several to be set side by side (see `item_records`).
        layer: Layer, or layers; None for all.
        head: Query head, or heads; None for all.
        each: A map for every layer and head, instead of their mean.
        query: Role, or pattern of roles such as `step_*`, of the rows to zoom in to; all by
            default. As in all measures, a role of the target means the rows at which its tokens
            are predicted; a role of the prompt, those of its tokens themselves.
        key: Role, or pattern of roles, of the columns to zoom in to; all by default.
        scale: One of `SCALES`.
        cells: Most cells along a side; of longer records several tokens share one, which shows
            the largest of their weights.

    Returns:
        For each choice of heads the maps of all records, one after another.

    Raises:
        MeasureError: If the run holds no attention rows.
        SelectionError: If a record, layer, head or role is not there, or no chosen row sees a
            chosen column, or there would be too many maps.
    """
    find_scale(scale)
    ids = [ids] if isinstance(ids, str) else list(ids)
    if not {"rows", "full"} & set(run.keep):
        raise MeasureError(
            "the run does not hold attention rows", where=str(run.path),
            got=f"--keep {' '.join(run.keep)}",
            fix="extract again with --keep rows (where predicted tokens look) or --keep full "
            "(every token; for a few records)",
        )  # fmt: skip
    layers, heads = _listed(layer, run.layers), _listed(head, run.heads)
    _check_number(len(ids) * (len(layers) * len(heads) if each else 1), len(ids), cells)
    choices = [([one], [two]) for one in layers for two in heads] if each else [(layers, heads)]
    zoom = query, key
    grids = [_Grid.of(run, name, *choice, zoom) for choice in choices for name in ids]
    blocks = [tuple(-(-n // cells) for n in grid.weights.shape) for grid in grids]
    pooled = [largest(grid.weights, block) for grid, block in zip(grids, blocks, strict=True)]  # type: ignore[arg-type]
    limits = _limits(grids, scale)
    beyond = any(np.nanmax(grid.weights) > limits[1] for grid in grids)
    return tuple(
        MapPanel(
            values=values,
            rows=grid.rows,
            columns=grid.columns,
            title=grid.title,
            limits=limits,
            scale=scale,
            block=block,  # type: ignore[arg-type]
            note=with_notice(_note(grid, block, scale, limits[1] if beyond else None), run),
        )
        for grid, values, block in zip(grids, pooled, blocks, strict=True)
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """Weights of one record before cells are pooled."""

    weights: Float[np.ndarray, "row column"]
    rows: TokenAxis
    columns: TokenAxis
    title: str
    is_square: bool
    is_sink: Bool[np.ndarray, " column"]

    zoom: tuple[str | None, str | None] = (None, None)
    """Roles that rows and columns were cut down to."""

    @classmethod
    def of(
        cls,
        run: Any,
        record_id: str,
        layers: Sequence[int],
        heads: Sequence[int],
        zoom: tuple[str | None, str | None] = (None, None),
    ) -> "_Grid":
        """Average the chosen heads, one layer in memory at a time."""
        encoding = run.encoding(record_id)
        total: Any = 0.0
        queries, seen = np.empty(0, int), np.empty((0, 0), bool)
        for layer in layers:
            weights = run.weights(record_id, layer=layer, head=list(heads))
            mean = weights.mean(("layer", "head"), dtype=np.float64)
            total = total + mean.transpose("query", "key").values
            queries, seen = weights["query"].values, seen_keys(weights)
        values = np.where(seen, total / len(layers), np.nan)
        steps = np.asarray(encoding.step_queries)
        is_square = not np.array_equal(queries, steps)
        if is_square and _is_predicted(encoding, zoom[0]):
            at = np.flatnonzero(np.isin(queries, steps))
            values, queries, is_square = values[at], queries[at], False
        named = queries if is_square else queries + 1
        shown = _of_role(encoding, named, zoom[0], "query" if is_square else "predicted")
        keys = _of_role(encoding, np.arange(encoding.n_tokens), zoom[1], "key")
        values = values[np.ix_(shown, keys)]
        if np.isnan(values).all():
            raise SelectionError(
                "no chosen query sees a chosen key", where=f"record '{record_id}'",
                got=f"--query {zoom[0] or 'all'} --key {zoom[1] or 'all'}",
                fix="choose a key that comes before the query",
            )  # fmt: skip
        name = "token that looks (query)" if is_square else "predicted token"
        rows = token_axis(encoding, named[shown].tolist(), name)
        columns = token_axis(encoding, keys.tolist(), "token looked at (key)")
        is_sink = np.isin(keys, encoding.sinks)
        title = f"{heading(encoding)}: {_where(layers, heads, run)}"
        return cls(values, rows, columns, title, is_square, is_sink, zoom)


def _is_predicted(encoding: Encoding, asked: str | None) -> bool:
    """Tell whether a role, or a pattern of roles, is one of the target."""
    target = [span.role for span in encoding.spans if span.stop > encoding.n_prompt]
    return asked is not None and bool(match_roles(asked, target))


def _of_role(
    encoding: Encoding, positions: np.ndarray, asked: str | None, kind: str
) -> Int[np.ndarray, " place"]:
    """Find where tokens of a role, or of a pattern of roles, stand among some positions."""
    if asked is None:
        return np.arange(len(positions))
    names = [span.role for span in encoding.spans for _ in range(len(span))]
    roles = [names[position] for position in positions]
    places = match_roles(asked, roles)
    if not places:
        raise SelectionError(
            f"no {kind} token of role '{asked}'", where=f"record '{encoding.record.id}'",
            fix=nearest(asked, sort_roles(roles)),
        )  # fmt: skip
    return np.asarray(places)


def seen_keys(weights: xr.DataArray) -> np.ndarray:
    """Tell which keys each stored row covers, over (query, key)."""
    keys = weights["key"].values
    start, stop = weights["first_key"].values, weights["last_key"].values
    return (keys >= start[:, None]) & (keys <= stop[:, None])


def largest(
    values: Float[np.ndarray, "row column"], block: tuple[int, ...]
) -> Float[np.ndarray, "cell_row cell_column"]:
    """Reduce blocks of values to the largest of each; NaN where a block has no value.

    The last block of a side may be smaller.
    """
    if tuple(block) == (1, 1):
        return values
    filled = np.where(np.isnan(values), -np.inf, values)
    for axis, size in enumerate(block):
        filled = np.maximum.reduceat(filled, range(0, filled.shape[axis], size), axis=axis)
    return np.where(np.isneginf(filled), np.nan, filled)


def _listed(asked: int | Sequence[int] | None, there: Sequence[int]) -> list[int]:
    if asked is None:
        return list(there)
    return [asked] if isinstance(asked, int) else list(asked)


def _check_number(n_maps: int, n_records: int, cells: int) -> None:
    if n_maps > MAX_MAPS:
        raise SelectionError(
            "too many maps for one figure", got=f"{n_maps} maps of {n_records} records",
            expected=f"at most {MAX_MAPS}",
            fix="choose fewer by --layers and --heads, or draw their mean (without --each)",
        )  # fmt: skip
    if cells < 1:
        raise SelectionError("too few cells", where="cells", got=cells, expected="≥ 1")


def _limits(grids: Sequence["_Grid"], scale: str) -> tuple[float, float]:
    """Let the colours reach up to the largest weight on any key that is no sink."""
    low, high = limits_from_zero(*(grid.weights[:, ~grid.is_sink] for grid in grids))
    if scale == "log":
        return min(LOG_FLOOR, high / 10), high
    return low, high


def heading(encoding: Encoding) -> str:
    """Name a record by its style, where that says which record it is."""
    record = encoding.record
    return f"{record.style} ({record.item})" if record.style else record.id


def _where(layers: Sequence[int], heads: Sequence[int], run: Any) -> str:
    if len(layers) == len(heads) == 1:
        return f"layer {layers[0]} head {heads[0]}"
    return f"mean of {_words('layer', layers, run.layers)} and {_words('head', heads, run.heads)}"


def _words(what: str, chosen: Sequence[int], there: Sequence[int]) -> str:
    if len(chosen) == len(there) > 1:
        return f"all {len(there)} {what}s"
    return f"{what}{'s' * (len(chosen) > 1)} {', '.join(_ranges(chosen))}"


def _ranges(numbers: Sequence[int]) -> Iterator[str]:
    """Word ascending numbers shortly: `0`, `5-7`."""
    first = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            run = numbers[first:i]
            yield str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}"
            first = i


def _note(grid: _Grid, block: Sequence[int], scale: str, high: float | None) -> str:
    lines = []
    if grid.is_square:
        lines.append("Blank: keys that the query cannot see.")
    else:
        lines.append(
            "Each row shows where the model looks while it predicts the token that names the row "
            "(it is read one position before that token). Blank: keys it cannot see."
        )
    if any(grid.zoom):
        rows, columns = (role or "all" for role in grid.zoom)
        lines.append(f"Zoomed in to rows of {rows} and columns of {columns}.")
    if max(block) > 1:
        lines.append(
            f"A cell holds {block[0]} × {block[1]} tokens (rows × columns) and shows the largest "
            "of their weights."
        )
    if high is not None:
        lines.append(
            f"The colours end at {high:.2g}, the largest weight on a token that is no sink; sinks "
            "(the first four tokens and BOS) reach beyond."
        )
    if scale == "log":
        lines.append(f"Weights below {LOG_FLOOR:g} have the darkest colour.")
    return " ".join(lines)
