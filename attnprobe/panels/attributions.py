"""Which tokens a prediction owes itself to, token by token and summed by segment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from attnprobe.errors import SelectionError
from attnprobe.measures.roles import match_roles, require_role, sort_roles
from attnprobe.panels.bars import BarPanel
from attnprobe.panels.cells import MapPanel
from attnprobe.panels.maps import MAX_CELLS, heading
from attnprobe.panels.notices import with_notice
from attnprobe.panels.panel import limits_around_zero
from attnprobe.panels.segments import collapse_roles
from attnprobe.panels.showing import shown_in_notebook
from attnprobe.panels.tokens import TokenAxis, token_axis

SCALES = ("sqrt", "linear")
"""How scores turn into colours; a few tokens have most of the credit, so a root comes first."""


@dataclass(frozen=True, slots=True, eq=False)
class AttributionPanel:
    """Attributions of one record or several: a map of each, and their sums by segment."""

    maps: tuple[MapPanel, ...]
    """Predicted tokens (the first on top) by the tokens that are credited; one for each record."""
    bars: BarPanel
    """Credit of each segment, a series for each record."""

    @property
    def title(self) -> str:
        """Short heading."""
        return self.bars.title

    def to_table(self) -> list[dict[str, Any]]:
        """Return one row per cell of the maps, then one per bar."""
        return [row for panel in (*self.maps, self.bars) for row in panel.to_table()]

    def _repr_html_(self) -> str:
        return shown_in_notebook(self)


def attribution_panel(
    run: Any,
    ids: str | Sequence[str],
    method: str | None = None,
    query: str | None = None,
    *,
    scale: str = "sqrt",
    cells: int = MAX_CELLS,
) -> AttributionPanel:
    """Arrange the attributions of records token by token, and sum them by segment.

    Args:
        run: An open run.
        ids: One record, or several to be set beside each other (see `item_records`).
        method: Attribution method; the run's only one by default.
        query: Role, or pattern of roles, of the predicted tokens to take; all by default.
        scale: `sqrt` (of either sign) or `linear`.
        cells: Most cells along a side; of longer records several tokens share one, which shows
            the score farthest from 0.

    Returns:
        Maps that share their limits, and bars.

    Raises:
        SelectionError: If a record, method, role or scale is not there.
    """
    ids = [ids] if isinstance(ids, str) else list(ids)
    if not ids:
        raise SelectionError("no record was asked for", expected="one or more")
    if scale not in SCALES:
        raise SelectionError(
            "no scale of that name for attributions", got=f"'{scale}'",
            expected=" or ".join(SCALES),
        )  # fmt: skip
    if cells < 1:
        raise SelectionError("too few cells", where="cells", got=cells, expected="≥ 1")
    grids = [_Grid.of(run, record_id, method, query) for record_id in ids]
    limits = limits_around_zero(*(grid.scores[:, ~grid.is_sink] for grid in grids))
    bars = _bars(grids, query)
    return AttributionPanel(
        tuple(_map(grid, limits, scale, cells) for grid in grids),
        replace(bars, note=with_notice(bars.note, run)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """Scores of one record before cells are pooled."""

    scores: Float[np.ndarray, "step source"]
    rows: TokenAxis
    columns: TokenAxis
    roles: tuple[str, ...]
    """Role of each source."""
    is_sink: Bool[np.ndarray, " source"]
    title: str
    series: str
    attrs: dict[str, Any]

    @classmethod
    def of(cls, run: Any, record_id: str, method: str | None, query: str | None) -> "_Grid":
        """Take the chosen steps, and the tokens that come before the last of them."""
        array, encoding = run.attribution(record_id, method), run.encoding(record_id)
        steps = _steps(array, query, record_id)
        positions = array["position"].values[steps]
        n_sources = int(positions[-1])
        name, n_steps = encoding.record.style or record_id, len(steps)
        return cls(
            scores=array.values[steps, :n_sources].astype(np.float64),
            rows=token_axis(encoding, positions.tolist(), "predicted token"),
            columns=token_axis(encoding, range(n_sources), "token that is credited"),
            roles=tuple(array["source_role"].values[:n_sources].tolist()),
            is_sink=np.isin(np.arange(n_sources), encoding.sinks),
            title=f"{heading(encoding)}: {array.attrs['method']}",
            series=f"{name} ({n_steps} predicted token{'s' * (n_steps > 1)})",
            attrs=array.attrs,
        )

    @property
    def name(self) -> str:
        """What the scores are."""
        return credit_name(self.attrs)

    @property
    def unit(self) -> str:
        """Unit of the scores."""
        return str(self.attrs["units"])


def credit_name(attrs: Mapping[str, Any]) -> str:
    """Say what the scores of an attribution are."""
    credited = {"logprob": "log-probability", "logit": "logit"}
    target = str(attrs.get("target", "prediction"))
    return f"credit for the {credited.get(target, target)}"


def _steps(array: xr.DataArray, query: str | None, record_id: str) -> list[int]:
    roles = array["step_role"].values.tolist()
    if query is not None:
        require_role(query, roles, "predicted role")
    steps = list(range(len(roles))) if query is None else match_roles(query, roles)
    if not steps:
        raise SelectionError("the record has no predicted token", where=f"record '{record_id}'")
    return steps


def _map(grid: _Grid, limits: tuple[float, float], scale: str, cells: int) -> MapPanel:
    n_rows, n_columns = grid.scores.shape
    block = (-(-n_rows // cells), -(-n_columns // cells))
    notes = [
        "Each row credits the tokens before the predicted token that names it: red speaks for it, "
        "blue against it. Blank: not before it."
    ]
    if max(block) > 1:
        notes.append(
            f"A cell holds {block[0]} × {block[1]} tokens (rows × columns) and shows the score "
            "farthest from 0."
        )
    if np.nanmax(np.abs(grid.scores)) > limits[1]:
        notes.append(
            f"The colours end at {limits[1]:.2g}, the largest score of a token that is no sink; "
            "sinks (the first four tokens and BOS) reach beyond."
        )
    return MapPanel(
        values=farthest_from_zero(grid.scores, block),
        rows=grid.rows,
        columns=grid.columns,
        title=grid.title,
        limits=limits,
        scale=scale,
        block=block,
        note=" ".join(notes),
        name=grid.name,
        unit=grid.unit,
        diverging=True,
    )


def farthest_from_zero(
    values: Float[np.ndarray, "row column"], block: tuple[int, int]
) -> Float[np.ndarray, "cell_row cell_column"]:
    """Reduce blocks of values to the one farthest from 0; NaN where a block has no value.

    The last block of a side may be smaller.
    """
    for axis, size in enumerate(block):
        edges = range(0, values.shape[axis], size)
        low = np.fmin.reduceat(values, edges, axis=axis)
        high = np.fmax.reduceat(values, edges, axis=axis)
        values = np.where(-low > high, low, high)
    return values


def _bars(grids: Sequence[_Grid], query: str | None) -> BarPanel:
    """Sum over predicted tokens and over the tokens of each segment."""
    roles = sort_roles(role for grid in grids for role in grid.roles)
    bars = collapse_roles(roles)
    parts = np.full((2, len(grids), len(bars)), np.nan)
    for series, grid in enumerate(grids):
        scores = np.nan_to_num(grid.scores)
        for bar, role in enumerate(bars):
            if sources := match_roles(role, grid.roles):
                chosen = scores[:, sources]
                parts[:, series, bar] = chosen[chosen > 0].sum(), chosen[chosen < 0].sum()
    return BarPanel(
        positive=parts[0],
        negative=parts[1],
        series=_distinct([grid.series for grid in grids]),
        bars=bars,
        title="by segment" if query is None else f"by segment, of role {query}",
        name=f"{grids[0].name}, summed over tokens",
        unit=grids[0].unit,
        note="Bars: the sum by segment, over all its tokens and all predicted tokens that are "
        "shown; behind them, pale, what counts for and what against.",
    )


def _distinct(names: list[str]) -> tuple[str, ...]:
    """Number names that stand more than once."""
    if len(set(names)) == len(names):
        return tuple(names)
    return tuple(f"{name} [{number}]" for number, name in enumerate(names, 1))
