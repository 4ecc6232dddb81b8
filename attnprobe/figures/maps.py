"""Maps of tokens → figure."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from attnprobe.errors import FigureError
from attnprobe.figures.bars import bars_height, fill_bars
from attnprobe.figures.drawing import margins, settings
from attnprobe.figures.fitting import lay_out, wrap
from attnprobe.figures.fonts import already_warned, families
from attnprobe.figures.looks import DIVERGING, EMPTY, MM, POINT, SEQUENTIAL, Look, find_look
from attnprobe.figures.scales import add_colour_bar, colour_norm
from attnprobe.figures.tokens import UNNAMED, UNNAMED_NOTE, draw_tokens
from attnprobe.panels.attributions import AttributionPanel
from attnprobe.panels.bars import BarPanel
from attnprobe.panels.cells import MapPanel, find_scale

_FLAT = 0.5
"""Maps with fewer rows per column than this are set one below the other."""
_SINGLE = 0.67
"""Width of a figure with one square map, as a share of the look's widest."""
_MOST_ABREAST = 3
_ROOMY = 1.6
"""How much higher a figure is while its labels find their places."""


def draw_attribution(
    panel: AttributionPanel, look: str = "paper", width_mm: float | None = None
) -> Figure:
    """Draw attributions: maps of tokens, and below them the sums by segment.

    Args:
        panel: What `attribution_panel` returned.
        look: One of `LOOKS`.
        width_mm: Width of the figure; by the look if None.

    Returns:
        A figure with a canvas of its own, to be saved with `save`.

    Raises:
        FigureError: If there is no such look, or no room.
    """
    return draw_maps(panel.maps, look, width_mm, panel.bars)


def draw_maps(
    panels: MapPanel | Sequence[MapPanel],
    look: str = "paper",
    width_mm: float | None = None,
    bars: BarPanel | None = None,
) -> Figure:
    """Draw maps of tokens, side by side, or below each other where they are wide and low.

    Args:
        panels: What `map_panels` returned.
        look: One of `LOOKS`.
        width_mm: Width of the figure; by the look if None.
        bars: To be drawn below the maps.

    Returns:
        A figure with a canvas of its own, to be saved with `save`.

    Raises:
        FigureError: If there is no map, no such look, or no room.
    """
    panels = [panels] if isinstance(panels, MapPanel) else list(panels)
    style = find_look(look)
    if not panels:
        raise FigureError("there is no map to draw", expected="one or more")
    grid = _arrange(panels)
    width = width_mm or style.wide_mm * (_SINGLE if grid[1] == 1 and not _is_flat(panels) else 1)
    caption = _caption(panels, bars)
    fonts = families(_texts(panels, caption, bars))
    with mpl.rc_context(settings(style, fonts)), already_warned():
        height = _first_height(panels, grid, width * MM, style, bars)
        figure = Figure(figsize=(width * MM, height), layout=margins(style))
        FigureCanvasAgg(figure)
        cells = GridSpec(
            grid[0] + (bars is not None), grid[1], figure,
            height_ratios=[*_heights(panels, grid), *([1.0] if bars else [])],
        )  # fmt: skip
        places = [divmod(i, grid[1]) for i in range(len(panels))]
        row = [figure.add_subplot(cells[place]) for place in places]
        images = [_fill(axes, panel) for axes, panel in zip(row, panels, strict=True)]
        beside = len(row) == 1 and not _is_flat(panels)
        bar = add_colour_bar(row, images[0], panels, style, beside=beside)
        if bars is not None:
            fill_bars(figure.add_subplot(cells[-1, :]), bars, style)
        if caption:
            below = figure.supxlabel(
                "", x=0.01, ha="left", fontsize=style.font * 0.9, linespacing=1.35
            )
            wrap(below, caption, 0.96 * figure.get_figwidth() * figure.dpi)
        _fit(figure, row, panels, cells, bar, style, bars)
    return figure


def _is_flat(panels: Sequence[MapPanel]) -> bool:
    return all(len(panel.rows) < _FLAT * len(panel.columns) for panel in panels)


def _arrange(panels: Sequence[MapPanel]) -> tuple[int, int]:
    """Choose rows and columns of maps; a pair stays in one row."""
    if _is_flat(panels):
        return len(panels), 1
    n = len(panels)
    columns = n if n <= _MOST_ABREAST else 2 if n == 4 else _MOST_ABREAST
    return math.ceil(n / columns), columns


def _texts(panels: Sequence[MapPanel], caption: str, bars: BarPanel | None) -> list[str]:
    texts = [caption, "+−•.…", find_scale(panels[0].scale)]
    if bars is not None:
        texts += [*bars.series, *bars.bars, bars.title, bars.name, bars.unit]
    for panel in panels:
        texts += [panel.title, panel.name, panel.unit]
        for axis in (panel.rows, panel.columns):
            texts += [axis.name, *(label.text for label in axis.labels)]
            texts += [span.role for span in axis.spans]
    return texts


def _caption(panels: Sequence[MapPanel], bars: BarPanel | None) -> str:
    lines = [panel.note for panel in panels]
    if bars is not None:
        lines.append(bars.note)
    if any(s.role in UNNAMED for p in panels for s in (*p.rows.spans, *p.columns.spans)):
        lines.append(UNNAMED_NOTE)
    return "\n".join(dict.fromkeys(line for line in lines if line))


def _fill(axes: Axes, panel: MapPanel) -> Any:
    """Draw the cells; each covers `block` tokens."""
    n_rows, n_columns = panel.values.shape
    axes.set_facecolor(EMPTY)
    image = axes.imshow(
        np.ma.masked_invalid(panel.values),
        cmap=DIVERGING if panel.diverging else SEQUENTIAL,
        norm=colour_norm(panel),
        extent=(0, n_columns * panel.block[1], n_rows * panel.block[0], 0),
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_xlim(0, len(panel.columns))
    axes.set_ylim(len(panel.rows), 0)
    for spine in axes.spines.values():
        spine.set_color("#808080")
    return image


def _fit(
    figure: Figure,
    row: Sequence[Axes],
    panels: Sequence[MapPanel],
    cells: GridSpec,
    bar: Colorbar,
    look: Look,
    bars: BarPanel | None,
) -> None:
    """Settle labels and height: labels change the cells, and cells the labels."""
    for _ in range(3):
        lay_out(figure)
        boxes = [axes.get_window_extent() for axes in row]
        if min(box.width for box in boxes) < 6 * look.font:
            raise FigureError(
                "there is no room left for the map",
                got=f"a width of {figure.get_figwidth() / MM:.0f} mm",
                fix="ask for a greater width (width_mm), or draw fewer maps",
            )
        _label(row, panels, look)
        label = bar.ax.yaxis.label if bar.orientation == "vertical" else bar.ax.xaxis.label
        box = bar.ax.get_window_extent()
        wrap(label, label.get_text().replace("\n", " "), max(box.width, box.height))
        # Labels must have their room before the height shrinks, or they squeeze out the cells.
        figure.set_figheight(_ROOMY * figure.get_figheight())
        lay_out(figure)
        boxes = [axes.get_window_extent() for axes in row]
        heights = [box.height / figure.dpi for box in boxes]
        wanted = [
            _height(panel, box.width / figure.dpi, look)
            for panel, box in zip(panels, boxes, strict=True)
        ]
        lines = [slice(i, i + cells.ncols) for i in range(0, len(row), cells.ncols)]
        surplus = figure.get_figheight() - sum(max(heights[line]) for line in lines)
        rows = [max(wanted[line]) for line in lines]
        if bars is not None:
            surplus -= figure.axes[-1].get_window_extent().height / figure.dpi
            rows.append(bars_height(bars, look))
        cells.set_height_ratios(rows)
        figure.set_figheight(sum(rows) + surplus)
    lay_out(figure)
    _label(row, panels, look)
    lay_out(figure)
    figure.set_layout_engine("none")


def _label(row: Sequence[Axes], panels: Sequence[MapPanel], look: Look) -> None:
    """Write tokens, segments and titles; titles of one row of maps stand at one height."""
    reach: dict[float, float] = defaultdict(float)
    for axes, panel in zip(row, panels, strict=True):
        draw_tokens(axes, panel.rows, "y", look)
        line = round(axes.get_position().y0, 3)
        reach[line] = max(reach[line], draw_tokens(axes, panel.columns, "x", look))
        box = axes.get_window_extent()
        for label, room in ((axes.xaxis.label, box.width), (axes.yaxis.label, box.height)):
            wrap(label, label.get_text(), max(room, 8 * look.font * axes.figure.dpi / 72))
    for axes, panel in zip(row, panels, strict=True):
        above = reach[round(axes.get_position().y0, 3)] + look.font
        title = axes.set_title(panel.title, loc="left", pad=above)
        wrap(title, panel.title, axes.get_window_extent().width)


def _height(panel: MapPanel, width: float, look: Look) -> float:
    """Choose the height of a map, in inches: square, or low but with room for its labels."""
    n_rows, n_columns = len(panel.rows), len(panel.columns)
    if n_rows >= _FLAT * n_columns:
        return width
    return min(max(width * n_rows / n_columns, n_rows * 1.1 * look.font * POINT), width)


def _first_height(
    panels: Sequence[MapPanel],
    grid: tuple[int, int],
    width: float,
    look: Look,
    bars: BarPanel | None,
) -> float:
    """Guess the height of the figure, in inches, so that settling it begins near the end."""
    each = 0.75 * width / grid[1]
    maps = [_height(panel, each, look) for panel in panels[:: grid[1]]]
    around = (14 * grid[0] + 24) * look.font * POINT
    return sum(maps) + around + (bars_height(bars, look) if bars else 0.0)


def _heights(panels: Sequence[MapPanel], grid: tuple[int, int]) -> list[float]:
    """Share the height among rows of maps."""
    if not _is_flat(panels):
        return [1.0] * grid[0]
    return [float(len(panel.rows)) for panel in panels]
