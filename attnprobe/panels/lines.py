"""Values along an axis: lines with their uncertainty, or shares that are stacked to a whole."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from attnprobe.errors import FigureError
from attnprobe.panels.showing import shown_in_notebook
from attnprobe.panels.tokens import TokenAxis

LINE_SCALES = ("linear", "log")
"""How the values lie along the y axis."""


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """Values at places along the x axis."""

    label: str
    """For the legend; lines of one label look alike in all panels of a figure."""
    x: Float[np.ndarray, " point"]
    """Places, ascending."""
    y: Float[np.ndarray, " point"]
    """Value at each place; the line is broken where it is NaN."""
    low: Float[np.ndarray, " point"] | None = None
    """Lower end of the interval at each place."""
    high: Float[np.ndarray, " point"] | None = None
    """Upper end of the interval at each place."""
    hue: str = ""
    """Lines of one hue share a colour; by default lines of one label."""
    dash: str = ""
    """Lines of one dash share the pattern of the line; by default lines of one label. Lines that
    have both are named in the legend by their hue and their dash, each once."""

    def __post_init__(self) -> None:
        where = f"line '{self.label}'"
        if not len(self.x) or not np.isfinite(self.x).all() or (np.diff(self.x) < 0).any():
            raise FigureError("a line needs places in ascending order", where=where, got=self.x)
        if (self.low is None) != (self.high is None):
            raise FigureError("an interval needs both of its ends", where=where)
        if np.isinf(self.y).any():
            raise FigureError("a line needs finite values, or NaN for none", where=where)
        if self.low is not None and self.high is not None and (self.low > self.high).any():
            raise FigureError("an interval whose lower end is above its upper end", where=where)


@dataclass(frozen=True, slots=True, eq=False)
class LinePanel:
    """Lines over one x axis, ready to draw."""

    lines: tuple[Line, ...]
    """What is drawn, in the order of the legend."""
    title: str
    """Short heading."""
    x_axis: str
    """What the places are, with their unit."""
    name: str
    """What the values are, for the y axis."""
    unit: str
    """Unit of the values."""
    limits: tuple[float, float] | None = None
    """Ends of the y axis; by the values if None."""
    x_limits: tuple[float, float] | None = None
    """Ends of the x axis; by the places if None."""
    scale: str = "linear"
    """One of `LINE_SCALES`."""
    level: float | None = None
    """A value to compare with, such as chance: a thin line across; the note says what it is."""
    stacked: bool = False
    """Whether values are shares of a whole, to be drawn one on top of another as areas."""
    note: str = ""
    """Anything else the reader must know."""
    tokens: TokenAxis | None = None
    """What stands below the places, where they are tokens: the i-th of them lies at i + 0.5."""

    def __post_init__(self) -> None:
        where = f"panel '{self.title}'"
        if not self.lines:
            raise FigureError("there is no line to draw", where=where, expected="one or more")
        labels = [line.label for line in self.lines]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise FigureError("two lines of one label cannot be told apart", where=where, got=twice)
        if self.scale not in LINE_SCALES:
            raise FigureError(
                "no scale of that name for lines", where=where, got=self.scale,
                expected=" or ".join(LINE_SCALES),
            )  # fmt: skip
        for ends in filter(None, (self.limits, self.x_limits)):
            if not ends[0] < ends[1]:
                raise FigureError("limits need the lower end first", where=where, got=ends)
        if self.scale == "log" and not all(
            (line.y[~np.isnan(line.y)] > 0).all() for line in self.lines
        ):
            raise FigureError(
                "a logarithmic scale needs values above 0", where=where, fix="use scale='linear'"
            )
        if self.stacked:
            self._check_stack(where)
        if self.tokens is not None:
            ends = [(float(line.x[0]), float(line.x[-1])) for line in self.lines]
            low, high = min(low for low, _ in ends), max(high for _, high in ends)
            if low < 0 or high > len(self.tokens):
                raise FigureError(
                    "places beyond the tokens of the axis", where=where, got=(low, high),
                    expected=f"0 to {len(self.tokens)}",
                )  # fmt: skip

    def to_table(self) -> list[dict[str, Any]]:
        """Return one row per point that has a value, with its interval where there is one."""
        return [
            {"panel": self.title, "line": line.label, "x": float(line.x[i]),
             "value": float(line.y[i]), "low": None if line.low is None else float(line.low[i]),
             "high": None if line.high is None else float(line.high[i]),
             "x_axis": self.x_axis, "name": self.name, "unit": self.unit}
            for line in self.lines
            for i in np.flatnonzero(~np.isnan(line.y)).tolist()
        ]  # fmt: skip

    def _check_stack(self, where: str) -> None:
        first = self.lines[0].x
        for line in self.lines:
            if not np.array_equal(line.x, first):
                raise FigureError(
                    "areas can be stacked only over the same places", where=where, got=line.label
                )
            if (line.y < 0).any():
                raise FigureError("a share below 0 cannot be stacked", where=where, got=line.label)

    def _repr_html_(self) -> str:
        return shown_in_notebook(self)
