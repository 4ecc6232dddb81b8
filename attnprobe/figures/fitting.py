"""Settling a figure: ticks, line breaks, height and numbers that fit into the cells."""

import re
import textwrap
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.text import Text

from attnprobe.errors import FigureError
from attnprobe.figures.looks import MM, POINT, Look
from attnprobe.panels import Panel

_GLYPH = 0.56
"""Width of a common glyph of the base font, as a share of its size."""
_LARGEST_CELL_MM = 9.0
"""Height beyond which cells do not grow in a figure with 7-point labels."""


def wrap(text: Text, words: str, room: float) -> None:
    """Break words into lines of at most `room` pixels, measured as they are drawn."""
    lines = []
    # `coarse − stepwise` and `answer → history` stay whole: textwrap keeps no-break spaces.
    for line in re.sub(r" ([−→]) ", "\u00a0\\1\u00a0", words).split("\n"):
        length = _length_of(text, line)
        per_line, broken = int(len(line) * room / max(length, 1.0)), [line]
        while length > room:  # glyphs differ in width, so that a line may still be too long
            per_line = max(6, per_line)
            broken = textwrap.wrap(line, per_line)
            length = max(_length_of(text, part) for part in broken) if per_line > 6 else 0.0
            per_line -= max(1, per_line // 12)
        lines += broken
    text.set_text("\n".join(lines).replace("\u00a0", " "))


def _length_of(text: Text, words: str) -> float:
    """Measure how long words become in a text's type and direction, in pixels."""
    text.set_text(words)
    box = text.get_window_extent()
    return box.height if text.get_rotation() == 90 else box.width


def fit(
    figure: Figure,
    row: Sequence[Axes],
    panels: Sequence[Panel],
    bars: Sequence[Colorbar],
    look: Look,
) -> None:
    """Settle ticks and height: labels change the cells, and cells the labels."""
    for turn in range(3):
        lay_out(figure)
        for place, (axes, panel) in enumerate(zip(row, panels, strict=True)):
            labelled = place == 0 or not _same_rows(panels[place - 1], panel)
            _set_ticks(axes, panel, look, labelled)
            _wrap_words(axes, panel, labelled)
        for bar in bars:
            beside = bar.orientation == "vertical"
            box = bar.ax.get_window_extent()
            label = bar.ax.yaxis.label if beside else bar.ax.xaxis.label
            wrap(label, label.get_text().replace("\n", " "), box.height if beside else box.width)
        if turn == 0:  # long labels must have their room before the height shrinks
            lay_out(figure)
        boxes = [axes.get_window_extent() for axes in row]
        if min(box.width for box in boxes) < 2 * look.font:
            raise _no_room(figure)
        wanted = max(
            _cells_height(panel, box.width / figure.dpi, look)
            for panel, box in zip(panels, boxes, strict=True)
        )
        surplus = figure.get_figheight() - boxes[0].height / figure.dpi
        figure.set_figheight(wanted + surplus)
    lay_out(figure)
    figure.set_layout_engine("none")  # what fits stays as it is, and saving is faster
    marked = any(panel.marks is not None and panel.marks.any() for panel in panels)
    for axes, panel in zip(row, panels, strict=True):
        width, height = _cell_points(axes, panel)
        for collection in axes.collections:
            if isinstance(collection, PathCollection):
                side = float(np.clip(0.35 * min(width, height), 1.5, look.font * 0.6))
                collection.set_sizes([side**2])
        if not _numbered(panel.rows) and not marked:
            _write_values(axes, panel, 0.75 * look.font, width)


def _write_values(axes: Axes, panel: Panel, size: float, width: float) -> None:
    """Write the numbers into the cells, if all of them fit."""
    largest = max(map(abs, panel.limits))
    decimals = max(0, 1 - int(np.floor(np.log10(largest))))
    words = {
        place: _number(float(value), decimals, panel.diverging)
        for place, value in np.ndenumerate(panel.values)
        if not np.isnan(value)
    }
    if not words or max(map(len, words.values())) * _GLYPH * size > 0.95 * width:
        return
    mesh = next(part for part in axes.collections if isinstance(part, QuadMesh))
    for (row, column), word in words.items():
        red, green, blue, _ = mesh.to_rgba(panel.values[row, column])
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.45
        axes.text(
            column + 0.5,
            row + 0.5,
            word,
            ha="center",
            va="center_baseline",
            fontsize=size,
            color="white" if dark else "black",
        )


def _number(value: float, decimals: int, signed: bool) -> str:
    """Word a value shortly; what rounds to 0 has no sign."""
    word = f"{value:{'+' if signed else ''}.{decimals}f}"
    return "0" if float(word) == 0 else word.replace("-", "−")


def lay_out(figure: Figure) -> None:
    """Give every part of a figure its place.

    Raises:
        FigureError: If there is no room.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="constrained_layout not applied")
        try:
            figure.get_layout_engine().execute(figure)  # type: ignore[union-attr]
        except UserWarning as fault:
            raise _no_room(figure) from fault


def _no_room(figure: Figure) -> FigureError:
    return FigureError(
        "there is no room left for the cells",
        got=f"a width of {figure.get_figwidth() / MM:.0f} mm",
        fix="ask for a greater width (width_mm), or draw fewer panels",
    )


def _cells_height(panel: Panel, width: float, look: Look) -> float:
    """Choose the height of the cells' area, in inches: square cells, within reason."""
    n_rows, n_columns = panel.values.shape
    cell = min(width / n_columns, _LARGEST_CELL_MM * MM * look.font / 7)
    height = min(cell * n_rows, look.tallest_mm * MM)
    if _numbered(panel.rows):
        return max(height, 6 * look.font * POINT)
    return max(height, n_rows * 1.4 * look.font * POINT)


def _cell_points(axes: Axes, panel: Panel) -> tuple[float, float]:
    box = axes.get_window_extent()
    n_rows, n_columns = panel.values.shape
    points = 72 / axes.figure.dpi
    return box.width * points / n_columns, box.height * points / n_rows


def _set_ticks(axes: Axes, panel: Panel, look: Look, labelled: bool) -> None:
    """Label rows and columns; of numbers only as many as fit."""
    width, height = _cell_points(axes, panel)
    size = look.font * 0.9
    longest = max(map(_length, panel.columns)) * _GLYPH * size
    numbers = _numbered(panel.columns)
    upright = not numbers and longest > 0.95 * width
    step = _thin((longest + 0.6 * size) / width) if numbers else 1
    shown = range(0, len(panel.columns), step)
    axes.set_xticks(
        [place + 0.5 for place in shown],
        [panel.columns[place] for place in shown],
        rotation=90 if upright else 0,
    )
    step = _thin(1.2 * size / height) if _numbered(panel.rows) else 1
    shown = range(0, len(panel.rows), step)
    shown = shown if labelled else range(0)
    axes.set_yticks([place + 0.5 for place in shown], [panel.rows[place] for place in shown])


def _wrap_words(axes: Axes, panel: Panel, labelled: bool) -> None:
    """Keep headings within the cells' area, so that they touch nothing else."""
    box = axes.get_window_extent()
    wrap(axes.set_title(panel.title, loc="left"), panel.title, box.width)
    wrap(axes.xaxis.label, panel.column_axis, box.width)
    if labelled:
        wrap(axes.yaxis.label, panel.row_axis, box.height)


def _numbered(labels: Sequence[str]) -> bool:
    return all(label.isdecimal() for label in labels)


def _thin(needed: float) -> int:
    """Round the distance between labels up to a number that is easy to count by."""
    return next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if step >= needed)


def _length(label: str) -> float:
    """Count glyphs, Chinese ones as the two widths that they take."""
    return sum(1.8 if ord(sign) > 0x2E7F else 1.0 for sign in label)


def _same_rows(one: Panel, other: Panel) -> bool:
    return (one.rows, one.row_axis) == (other.rows, other.row_axis)
