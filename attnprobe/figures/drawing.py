"""Panels → figure. Nothing is decided here but where the ink goes."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from attnprobe.errors import FigureError
from attnprobe.figures.fonts import already_warned, families
from attnprobe.figures.looks import DIVERGING, EMPTY, SEQUENTIAL, Look, find_look
from attnprobe.panels import Panel

_MM = 1 / 25.4
_POINT = 1 / 72
_GLYPH = 0.56
"""Width of a common glyph of the base font, as a share of its size."""
_GRID_UP_TO = 64
"""Cells are set apart by white lines up to this many in a row."""
_LARGEST_CELL_MM = 9.0


def draw(
    panels: Panel | Sequence[Panel], look: str = "paper", width_mm: float | None = None
) -> Figure:
    """Draw panels side by side.

    Neighbours with the same limits and meaning share a colour bar. Row labels are drawn once
    where they are the same. Cells without a value are hatched. Marked cells carry a dot, and a
    line below says what it means.

    Args:
        panels: One panel, or several of them.
        look: One of `LOOKS`.
        width_mm: Width of the figure; by the look if None.

    Returns:
        A figure with a canvas of its own, to be saved with `save`.

    Raises:
        FigureError: If there is no panel, no such look, or no room.
    """
    panels = [panels] if isinstance(panels, Panel) else list(panels)
    style = find_look(look)
    if not panels:
        raise FigureError("there is no panel to draw", expected="one or more")
    width = width_mm or (style.single_mm if len(panels) == 1 else style.wide_mm)
    caption = _caption(panels)
    with mpl.rc_context(_settings(style, families(_texts(panels, caption)))), already_warned():
        figure = Figure(figsize=(width * _MM, width * _MM), layout="constrained")
        FigureCanvasAgg(figure)
        row = figure.subplots(1, len(panels), squeeze=False)[0]
        meshes = [_fill(axes, panel, style) for axes, panel in zip(row, panels, strict=True)]
        _label_rows(row, panels)
        _add_bars(figure, row, panels, meshes, style)
        if caption:
            _write_caption(figure, caption, style)
        _fit(figure, row, panels, style)
    return figure


def _settings(look: Look, fonts: Sequence[str]) -> dict[str, Any]:
    return {
        "font.family": list(fonts),
        "font.size": look.font,
        "axes.titlesize": look.font * 1.1,
        "axes.labelsize": look.font,
        "xtick.labelsize": look.font * 0.9,
        "ytick.labelsize": look.font * 0.9,
        "axes.linewidth": look.line,
        "xtick.major.width": look.line,
        "ytick.major.width": look.line,
        "xtick.major.size": look.font * 0.3,
        "ytick.major.size": look.font * 0.3,
        "hatch.linewidth": look.line * 0.8,
        "axes.unicode_minus": True,
        "text.usetex": False,
    }


def _texts(panels: Sequence[Panel], caption: str) -> Iterator[str]:
    yield caption
    for panel in panels:
        yield from (panel.title, panel.row_axis, panel.column_axis, panel.name, panel.unit)
        yield from panel.rows
        yield from panel.columns
    yield "−•"


def _caption(panels: Sequence[Panel]) -> str:
    """Gather what the reader must know, each sentence once."""
    lines = []
    for panel in panels:
        marked = panel.marks is not None and panel.marks.any()
        lines.append(f"• {panel.mark_note}" if marked else panel.mark_note)
        lines.append(panel.note)
    if any(np.isnan(panel.values).any() for panel in panels):
        lines.append("Hatched: no value.")
    return "\n".join(dict.fromkeys(line for line in lines if line))


def _fill(axes: Axes, panel: Panel, look: Look) -> QuadMesh:
    """Draw the cells and the marks of one panel."""
    n_rows, n_columns = panel.values.shape
    fine = max(n_rows, n_columns) <= _GRID_UP_TO
    axes.set_facecolor(EMPTY)
    axes.patch.set(hatch="//////", edgecolor="#c4c4c4", linewidth=0)
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(panel.values),
        cmap=DIVERGING if panel.diverging else SEQUENTIAL,
        vmin=panel.limits[0],
        vmax=panel.limits[1],
        edgecolors="white" if fine else "face",
        linewidth=look.line * 0.6 if fine else 0.1,
    )
    axes.set_xlim(0, n_columns)
    axes.set_ylim(n_rows, 0)
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel(panel.column_axis)
    for spine in axes.spines.values():
        spine.set_color("#808080")
    if panel.marks is not None and panel.marks.any():
        rows, columns = np.nonzero(panel.marks)
        axes.scatter(
            columns + 0.5,
            rows + 0.5,
            s=1,  # sized when the cells are
            color="black",
            edgecolors="white",
            linewidths=look.line * 0.8,
            gid="marks",
        )
    return mesh


def _label_rows(row: Sequence[Axes], panels: Sequence[Panel]) -> None:
    for place, (axes, panel) in enumerate(zip(row, panels, strict=True)):
        if place == 0 or not _same_rows(panels[place - 1], panel):
            axes.set_ylabel(panel.row_axis)


def _same_rows(one: Panel, other: Panel) -> bool:
    return (one.rows, one.row_axis) == (other.rows, other.row_axis)


def _add_bars(
    figure: Figure,
    row: Sequence[Axes],
    panels: Sequence[Panel],
    meshes: Sequence[QuadMesh],
    look: Look,
) -> None:
    """Give each run of panels with one scale one colour bar."""

    def scale(place: int) -> tuple[object, ...]:
        panel = panels[place]
        return panel.limits, panel.name, panel.unit, panel.diverging

    for _, run in groupby(range(len(panels)), key=scale):
        places = list(run)
        panel = panels[places[0]]
        beside = len(panels) == 1
        bar = figure.colorbar(
            meshes[places[0]],
            ax=[row[place] for place in places],
            location="right" if beside else "bottom",
            shrink=1.0 if beside else 0.9 / len(places),
            aspect=30 if beside else 18,
            pad=0.02,
        )
        bar.set_label(f"{panel.name} ({panel.unit})" if panel.unit else panel.name)
        bar.locator = mpl.ticker.MaxNLocator(nbins=6 if beside else 4, symmetric=panel.diverging)
        bar.update_ticks()
        bar.outline.set(linewidth=look.line, edgecolor="#808080")  # type: ignore[operator]


def _write_caption(figure: Figure, caption: str, look: Look) -> None:
    size = look.font * 0.9
    per_line = int(figure.get_figwidth() / _POINT / (size * _GLYPH))
    lines = [part for line in caption.split("\n") for part in textwrap.wrap(line, per_line)]
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=size, linespacing=1.35)


def _fit(figure: Figure, row: Sequence[Axes], panels: Sequence[Panel], look: Look) -> None:
    """Settle ticks and height: labels change the cells, and cells the labels."""
    for _ in range(3):
        figure.draw_without_rendering()
        for place, (axes, panel) in enumerate(zip(row, panels, strict=True)):
            labelled = place == 0 or not _same_rows(panels[place - 1], panel)
            _set_ticks(axes, panel, look, labelled)
            _wrap_title(axes, panel, look)
        figure.draw_without_rendering()
        boxes = [axes.get_window_extent() for axes in row]
        if min(box.width for box in boxes) < 2 * look.font:
            raise FigureError(
                "there is no room left for the cells",
                got=f"{figure.get_figwidth() / _MM:.0f} mm for {len(row)} panels",
                fix="ask for a greater width (width_mm), or draw fewer panels",
            )
        wanted = max(
            _cells_height(panel, box.width / figure.dpi, look)
            for panel, box in zip(panels, boxes, strict=True)
        )
        surplus = figure.get_figheight() - boxes[0].height / figure.dpi
        figure.set_figheight(wanted + surplus)
    figure.draw_without_rendering()
    for axes, panel in zip(row, panels, strict=True):
        width, height = _cell_points(axes, panel)
        for collection in axes.collections:
            if collection.get_gid() == "marks":
                side = float(np.clip(0.35 * min(width, height), 1.5, look.font * 0.6))
                collection.set_sizes([side**2])


def _cells_height(panel: Panel, width: float, look: Look) -> float:
    """Choose the height of the cells' area, in inches: square cells, within reason."""
    n_rows, n_columns = panel.values.shape
    cell = min(width / n_columns, _LARGEST_CELL_MM * _MM * look.font / 7)
    height = min(cell * n_rows, look.tallest_mm * _MM)
    if _numbered(panel.rows):
        return max(height, 3 * look.font * _POINT)
    return max(height, n_rows * 1.4 * look.font * _POINT)


def _cell_points(axes: Axes, panel: Panel) -> tuple[float, float]:
    box = axes.get_window_extent()
    figure = axes.get_figure(root=True)
    assert figure is not None
    n_rows, n_columns = panel.values.shape
    return (
        box.width / figure.dpi / _POINT / n_columns,
        box.height / figure.dpi / _POINT / n_rows,
    )


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
    axes.set_yticks(
        [place + 0.5 for place in shown], [panel.rows[place] for place in shown] if labelled else []
    )


def _wrap_title(axes: Axes, panel: Panel, look: Look) -> None:
    width, _ = _cell_points(axes, panel)
    per_line = max(8, int(width * len(panel.columns) / (1.1 * look.font * _GLYPH)))
    axes.set_title("\n".join(textwrap.wrap(panel.title, per_line)), loc="left")


def _numbered(labels: Sequence[str]) -> bool:
    return all(label.isdecimal() for label in labels)


def _thin(needed: float) -> int:
    """Round the distance between labels up to a number that is easy to count by."""
    return next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if step >= needed)


def _length(label: str) -> float:
    """Count glyphs, Chinese ones as the two widths that they take."""
    return sum(1.8 if ord(sign) > 0x2E7F else 1.0 for sign in label)
