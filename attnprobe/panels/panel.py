"""The value that a figure draws."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from attnprobe.errors import FigureError
from attnprobe.panels.showing import shown_in_notebook


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """A labelled grid of values, ready to draw: the first row is drawn on top."""

    values: Float[np.ndarray, "row column"]
    """What the colours show; NaN where there is no value."""
    rows: tuple[str, ...]
    """A label per row."""
    columns: tuple[str, ...]
    """A label per column."""
    title: str
    """Short heading."""
    row_axis: str
    """What the rows are."""
    column_axis: str
    """What the columns are."""
    name: str
    """What the values are, for the colour bar."""
    unit: str
    """Unit of the values."""
    limits: tuple[float, float]
    """Values at the two ends of the colours."""
    diverging: bool = False
    """Whether 0 is a middle that values depart from to both sides."""
    marks: Bool[np.ndarray, "_ _"] | None = None
    """Cells to mark, of the shape of `values`."""
    mark_note: str = ""
    """What a mark means; without any mark, what their absence means."""
    empty: str = "no value"
    """What a cell without a value means."""
    note: str = ""
    """Anything else the reader must know."""

    def __post_init__(self) -> None:
        shape = (len(self.rows), len(self.columns))
        if self.values.shape != shape or 0 in shape:
            raise FigureError(
                "a panel needs a label per row and per column",
                where=f"panel '{self.title}'",
                got=f"{len(self.rows)} × {len(self.columns)} labels",
                expected=f"labels for {' × '.join(map(str, self.values.shape))} values",
            )
        if self.marks is not None and self.marks.shape != shape:
            raise FigureError(
                "marks must match the values cell by cell",
                where=f"panel '{self.title}'",
                got=self.marks.shape,
                expected=shape,
            )
        low, high = self.limits
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise FigureError(
                "colour limits must be two finite numbers, the lower first",
                where=f"panel '{self.title}'",
                got=self.limits,
            )
        if self.diverging and low != -high:
            raise FigureError(
                "diverging colours need limits symmetric about 0, or the middle colour lies",
                where=f"panel '{self.title}'",
                got=self.limits,
                expected=(-max(abs(low), abs(high)), max(abs(low), abs(high))),
            )

    def to_table(self) -> list[dict[str, Any]]:
        """Return one row per cell that has a value, with its labels."""
        return [
            {"panel": self.title, "row": self.rows[row], "column": self.columns[column],
             "value": float(self.values[row, column]), "name": self.name, "unit": self.unit,
             "marked": bool(self.marks is not None and self.marks[row, column])}
            for row, column in np.argwhere(~np.isnan(self.values)).tolist()
        ]  # fmt: skip

    def _repr_html_(self) -> str:
        return shown_in_notebook(self)


def limits_around_zero(*values: Float[np.ndarray, "..."]) -> tuple[float, float]:
    """Return limits symmetric about 0 that hold every value; ±1 where all are 0 or NaN."""
    reach = max((_largest(np.abs(part)) for part in values), default=0.0) or 1.0
    return -reach, reach


def limits_from_zero(*values: Float[np.ndarray, "..."]) -> tuple[float, float]:
    """Return limits from 0 to the largest value; (0, 1) where none is above 0."""
    reach = max((_largest(part) for part in values), default=0.0)
    return 0.0, reach if reach > 0 else 1.0


def _largest(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.max()) if defined.size else 0.0
