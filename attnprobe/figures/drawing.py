"""Panels → figure. Nothing is decided here but where the ink goes."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from attnprobe.errors import FigureError
from attnprobe.figures.fitting import fit, wrap
from attnprobe.figures.fonts import already_warned, families
from attnprobe.figures.looks import (
    DIVERGING,
    EMPTY,
    MM,
    POINT,
    SEQUENTIAL,
    Look,
    find_look,
)
from attnprobe.panels import Panel

_GRID_UP_TO = 64
"""Cells are set apart by white lines up to this many in a row."""


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
    with mpl.rc_context(settings(style, families(_texts(panels, caption)))), already_warned():
        figure = Figure(figsize=(width * MM, 2 * width * MM), layout=margins(style))
        FigureCanvasAgg(figure)
        row = list(figure.subplots(1, len(panels), squeeze=False)[0])
        meshes = [_fill(axes, panel, style) for axes, panel in zip(row, panels, strict=True)]
        bars = _add_bars(figure, row, panels, meshes, style)
        if caption:
            below = figure.supxlabel(
                "", x=0.01, ha="left", fontsize=style.font * 0.9, linespacing=1.35
            )
            wrap(below, caption, 0.98 * figure.get_figwidth() * figure.dpi)
        fit(figure, row, panels, bars, style)
    return figure


def settings(look: Look, fonts: Sequence[str]) -> Any:
    """Return matplotlib's settings for a look."""
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


def margins(look: Look) -> ConstrainedLayoutEngine:
    """Return a layout with margins in keeping with the type."""
    pad = 0.5 * look.font * POINT
    return ConstrainedLayoutEngine(w_pad=pad, h_pad=pad)


def _texts(panels: Sequence[Panel], caption: str) -> Iterator[str]:
    yield caption
    for panel in panels:
        yield from (panel.title, panel.row_axis, panel.column_axis, panel.name, panel.unit)
        yield from panel.rows
        yield from panel.columns
    yield "+−•."


def _caption(panels: Sequence[Panel]) -> str:
    """Gather what the reader must know, each sentence once.

    Where one panel has marks, another without any needs no words for their absence.
    """
    marked = [panel.marks is not None and bool(panel.marks.any()) for panel in panels]
    lines = []
    for panel, has_marks in zip(panels, marked, strict=True):
        if has_marks:
            lines.append(f"• {panel.mark_note}")
        elif not any(marked):
            lines.append(panel.mark_note)
        lines.append(panel.note)
    for panel in panels:
        if np.isnan(panel.values).any():
            lines.append(f"Hatched: {panel.empty}.")
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


def _add_bars(
    figure: Figure,
    row: Sequence[Axes],
    panels: Sequence[Panel],
    meshes: Sequence[QuadMesh],
    look: Look,
) -> list[Colorbar]:
    """Give each run of panels with one scale one colour bar."""

    def scale(place: int) -> tuple[object, ...]:
        panel = panels[place]
        return panel.limits, panel.name, panel.unit, panel.diverging

    bars = []
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
            pad=0.02 if beside else 0.04,
        )
        bar.set_label(f"{panel.name} ({panel.unit})" if panel.unit else panel.name)
        low, high = panel.limits
        ticks = MaxNLocator(nbins=8 if beside else 4, steps=[1, 2, 5, 10]).tick_values(low, high)
        bar.set_ticks([tick for tick in ticks if low <= tick <= high])
        bar.outline.set(linewidth=look.line, edgecolor="#808080")  # type: ignore[operator]
        bars.append(bar)
    return bars
