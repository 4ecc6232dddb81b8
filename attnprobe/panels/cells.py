"""A value for each pair of tokens, ready to draw."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from attnprobe.errors import FigureError, nearest
from attnprobe.panels.showing import shown_in_notebook
from attnprobe.panels.tokens import TokenAxis

SCALES = {"sqrt": "square-root scale", "log": "logarithmic scale", "linear": "linear scale"}
"""How weights turn into colours. Attention is heavy-tailed: next to a sink, everything else would
look like nothing on a linear scale."""


@dataclass(frozen=True, slots=True, eq=False)
class MapPanel:
    """A value for pairs of tokens of one record: queries (the first on top) by keys."""

    values: Float[np.ndarray, "row column"]
    """A number per cell, such as a probability; NaN where no query of the cell sees a key of it."""
    rows: TokenAxis
    """The queries, or the tokens predicted there."""
    columns: TokenAxis
    """The keys, or the tokens that are credited."""
    title: str
    """Short heading."""
    limits: tuple[float, float]
    """Values at the two ends of the colours; what reaches beyond has the colour of the end."""
    scale: str = "sqrt"
    """One of `SCALES`."""
    block: tuple[int, int] = (1, 1)
    """Tokens that share a cell, along rows and columns."""
    note: str = ""
    """Anything else the reader must know."""
    name: str = "attention"
    """What the values are, for the colour bar."""
    unit: str = "probability"
    """Unit of the values."""
    diverging: bool = False
    """Whether 0 is a middle that values depart from to both sides."""

    def __post_init__(self) -> None:
        sides = len(self.rows), len(self.columns)
        expected = tuple(-(-n // b) for n, b in zip(sides, self.block, strict=True))
        if self.values.shape != expected:
            raise FigureError(
                "a map needs one value per cell", where=f"map '{self.title}'",
                got=self.values.shape, expected=expected,
            )  # fmt: skip
        find_scale(self.scale)
        low, high = self.limits
        if self.diverging:
            self._check_diverging()
        elif not (np.isfinite(high) and 0 <= low < high) or (self.scale == "log" and low == 0):
            raise FigureError(
                "colour limits must be two numbers from 0 on, the lower first",
                where=f"map '{self.title}'", got=self.limits,
                expected="above 0 on a logarithmic scale" if self.scale == "log" else None,
            )  # fmt: skip

    def to_table(self) -> list[dict[str, Any]]:
        """Return one row per cell that has a value, named by its first tokens."""
        rows, columns = (
            [axis.named(cell * block) for cell in range(-(-len(axis) // block))]
            for axis, block in zip((self.rows, self.columns), self.block, strict=True)
        )
        there = np.argwhere(~np.isnan(self.values)).tolist()
        row_names, column_names = (
            [f"{side}{part}" for part in ("", "_text", "_role")] for side in ("row", "column")
        )
        return [
            {"panel": self.title, **dict(zip(row_names, rows[row], strict=True)),
             **dict(zip(column_names, columns[column], strict=True)),
             "value": float(self.values[row, column]), "name": self.name, "unit": self.unit}
            for row, column in there
        ]  # fmt: skip

    def _check_diverging(self) -> None:
        low, high = self.limits
        if self.scale == "log" or not (np.isfinite(high) and low == -high < 0):
            raise FigureError(
                "diverging colours need limits symmetric about 0, and no logarithmic scale",
                where=f"map '{self.title}'", got=f"{self.limits}, scale '{self.scale}'",
            )  # fmt: skip

    def _repr_html_(self) -> str:
        return shown_in_notebook(self)


def find_scale(name: str) -> str:
    """Return the words for a scale.

    Raises:
        FigureError: If there is none of that name.
    """
    if name not in SCALES:
        raise FigureError(
            "no colour scale of that name", got=f"'{name}'", fix=nearest(name, SCALES)
        )
    return SCALES[name]
