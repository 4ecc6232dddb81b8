"""Looks: sizes and colours for paper and for slides."""

from dataclasses import dataclass

from attnprobe.errors import FigureError, nearest

MM = 1 / 25.4
"""Inches in a millimetre."""
POINT = 1 / 72
"""Inches in a point."""
DIVERGING = "RdBu_r"
"""Red for more, blue for less, white for 0: told apart with every common colour blindness
(ColorBrewer lists it as colour-blind safe), and even in lightness on both sides."""
SEQUENTIAL = "viridis"
"""Even steps in lightness, with or without colour vision, and in print."""
EMPTY = "#ececec"
"""Ground of cells without a value."""


@dataclass(frozen=True, slots=True)
class Look:
    """Sizes that suit one medium."""

    font: float
    """Size of labels, in points."""
    single_mm: float
    """Width of a figure with one panel."""
    wide_mm: float
    """Width of a figure with several."""
    tallest_mm: float
    """Height beyond which the cells of a panel shrink."""
    line: float
    """Width of frames and ticks, in points."""


LOOKS: dict[str, Look] = {
    "paper": Look(font=7.0, single_mm=88.0, wide_mm=180.0, tallest_mm=120.0, line=0.5),
    "slides": Look(font=14.0, single_mm=200.0, wide_mm=320.0, tallest_mm=130.0, line=1.0),
}
"""Every look by name: `paper` is one or two journal columns wide, `slides` a 16:9 slide."""


def find_look(name: str) -> Look:
    """Look a look up by name.

    Raises:
        FigureError: If there is none of that name.
    """
    if name not in LOOKS:
        raise FigureError("no look of that name", got=f"'{name}'", fix=nearest(name, LOOKS))
    return LOOKS[name]
