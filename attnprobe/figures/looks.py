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


def chosen_width(look: str, width_mm: float | None, columns: int | None) -> float | None:
    """Return the width that was asked for, in millimetres; None for the look's own choice.

    Args:
        look: One of `LOOKS`.
        width_mm: A width, or:
        columns: Columns of a journal's page that the figure takes: 1 or 2. On slides, half of
            them or all.

    Raises:
        FigureError: If both are given, or one of them makes no figure.
    """
    style = find_look(look)
    if width_mm is not None and columns is not None:
        raise FigureError("a width in mm and one in columns were asked for", fix="give one of them")
    if columns is not None and columns not in (1, 2):
        raise FigureError("a page has one or two columns", got=columns, expected="1 or 2")
    if width_mm is not None and not 0 < width_mm < float("inf"):
        raise FigureError("a figure needs a width above 0 mm", got=width_mm)
    if columns is None:
        return width_mm
    return style.single_mm if columns == 1 else style.wide_mm
