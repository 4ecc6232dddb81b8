"""Signed sums as bars, several series side by side."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from attnprobe.errors import FigureError


@dataclass(frozen=True, slots=True, eq=False)
class BarPanel:
    """A signed sum for each bar of each series, with its positive and its negative part."""

    positive: Float[np.ndarray, "series bar"]
    """Sum of what is above 0; NaN where a series lacks the bar."""
    negative: Float[np.ndarray, "series bar"]
    """Sum of what is below 0; NaN where a series lacks the bar."""
    series: tuple[str, ...]
    """A name per series."""
    bars: tuple[str, ...]
    """A label per bar."""
    title: str
    """Short heading."""
    name: str
    """What the sums are, for the axis."""
    unit: str
    """Unit of the sums."""
    note: str = ""
    """Anything else the reader must know."""

    def __post_init__(self) -> None:
        shape = (len(self.series), len(self.bars))
        if self.positive.shape != shape or self.negative.shape != shape or 0 in shape:
            raise FigureError(
                "bars need a label each, and a name per series", where=f"bars '{self.title}'",
                got=f"{len(self.series)} × {len(self.bars)} labels",
                expected=f"labels for {' × '.join(map(str, self.positive.shape))} values",
            )  # fmt: skip
        if np.isinf(self.values).any() or (self.positive < 0).any() or (self.negative > 0).any():
            raise FigureError(
                "bars need finite positive and negative parts", where=f"bars '{self.title}'"
            )

    @property
    def values(self) -> Float[np.ndarray, "series bar"]:
        """The sums."""
        return self.positive + self.negative

    def to_table(self) -> list[dict[str, Any]]:
        """Return one row per bar that is there: its sum, and what counts for and against."""
        values = self.values
        return [
            {"panel": self.title, "series": self.series[series], "bar": self.bars[bar],
             "value": float(values[series, bar]), "positive": float(self.positive[series, bar]),
             "negative": float(self.negative[series, bar]), "name": self.name, "unit": self.unit}
            for series, bar in np.argwhere(~np.isnan(values)).tolist()
        ]  # fmt: skip
