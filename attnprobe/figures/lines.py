"""Lines and stacked shares → figure."""

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from attnprobe.errors import FigureError
from attnprobe.figures.drawing import margins, settings
from attnprobe.figures.fitting import lay_out, wrap
from attnprobe.figures.fonts import already_warned, families
from attnprobe.figures.legends import Ink, add_legend, inks_of
from attnprobe.figures.looks import MM, POINT, Look, find_look
from attnprobe.figures.tokens import UNNAMED, UNNAMED_NOTE, draw_tokens
from attnprobe.panels.lines import Line, LinePanel

_MARKED_UP_TO = 12
"""Points of a line up to which each gets a dot."""
_SHAPE, _LOW_SHAPE = 0.62, 0.42
"""Height of axes as a share of their width: of a figure with one panel abreast, or of areas."""
_ABREAST = 3
_NARROWEST = 22
"""Width of a panel, in sizes of type, below which fewer stand in a row."""


def draw_lines(
    panels: LinePanel | Sequence[LinePanel],
    look: str = "paper",
    width_mm: float | None = None,
    *,
    abreast: int | None = None,
) -> Figure:
    """Draw lines, panel by panel, with one legend above all of them.

    Lines of one label look alike in all panels. Colours repeat after the eighth, patterns after
    the fifth. An interval is a pale band around its line, and a bar at a line of one point.

    Args:
        panels: One panel, or several of them.
        look: One of `LOOKS`.
        width_mm: Width of the figure; by the look if None.
        abreast: Most panels in a row; three by default, and fewer where the figure is narrow.

    Returns:
        A figure with a canvas of its own, to be saved with `save`.

    Raises:
        FigureError: If there is no panel, no such look, or no room.
    """
    panels = [panels] if isinstance(panels, LinePanel) else list(panels)
    style = find_look(look)
    if not panels:
        raise FigureError("there is no panel to draw", expected="one or more")
    n_columns = min(len(panels), abreast or _ABREAST)
    narrow = n_columns == 1 and not any(panel.tokens for panel in panels)
    width = width_mm or (style.single_mm if narrow else style.wide_mm)
    caption = _caption(panels)
    n_columns = max(1, min(n_columns, int(width * MM / (_NARROWEST * style.font * POINT))))
    n_rows = math.ceil(len(panels) / n_columns)
    with mpl.rc_context(settings(style, families(_texts(panels)))), already_warned():
        figure = Figure(figsize=(width * MM, (1 + n_rows) * width * MM), layout=margins(style))
        FigureCanvasAgg(figure)
        grid = figure.subplots(n_rows, n_columns, squeeze=False)
        row = list(grid.flat)[: len(panels)]
        for axes in list(grid.flat)[len(panels) :]:
            axes.remove()
        inks = inks_of(panels)
        for axes, panel in zip(row, panels, strict=True):
            _fill(axes, panel, inks, style)
        add_legend(figure, panels, inks, style)
        if caption:
            below = figure.supxlabel(
                "", x=0.01, ha="left", fontsize=style.font * 0.9, linespacing=1.35
            )
            wrap(below, caption, 0.98 * figure.get_figwidth() * figure.dpi)
        _fit(figure, row, panels, n_columns, style)
    return figure


def _caption(panels: Sequence[LinePanel]) -> str:
    lines = [panel.note for panel in panels if panel.note]
    spans = [span for panel in panels if panel.tokens for span in panel.tokens.spans]
    if any(span.role in UNNAMED for span in spans):
        lines.append(UNNAMED_NOTE)
    return "\n".join(dict.fromkeys(lines))


def _fill(axes: Axes, panel: LinePanel, inks: dict[str, Ink], look: Look) -> None:
    """Draw the lines or areas of one panel."""
    axes.set_yscale(panel.scale)
    if panel.stacked:
        _stack(axes, panel, inks, look)
    else:
        axes.grid(axis="y", color="#e4e4e4", linewidth=look.line)
        axes.set_axisbelow(True)
        for line in panel.lines:
            _line(axes, line, inks[line.label], look)
    if panel.level is not None:
        axes.axhline(
            panel.level, color="#404040", linewidth=look.line, linestyle=(0, (2, 2)), zorder=1.5
        )
    places = np.concatenate([line.x for line in panel.lines])
    if panel.tokens is not None:
        axes.set_xlim(0, len(panel.tokens))
    elif panel.x_limits is not None:
        axes.set_xlim(panel.x_limits)
    elif panel.stacked or places.min() == places.max():
        axes.set_xlim(places.min() - 0.5, places.max() + 0.5)
    else:
        axes.margins(x=0.02)
    if panel.limits is not None:
        axes.set_ylim(panel.limits)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#808080")
    _ticks(axes, panel, bool((places == np.round(places)).all()))


def _line(axes: Axes, line: Line, ink: Ink, look: Look) -> None:
    n_shown = int((~np.isnan(line.y)).sum())
    axes.plot(
        line.x, line.y, color=ink.colour, linestyle=ink.dash, linewidth=2.2 * look.line,
        marker="o" if n_shown <= _MARKED_UP_TO else "", markersize=0.4 * look.font,
        markeredgewidth=0, gid=line.label,
    )  # fmt: skip
    if line.low is None or line.high is None:
        return
    if n_shown == 1:
        ends = np.stack([line.y - line.low, line.high - line.y])
        axes.errorbar(
            line.x, line.y, ends, color=ink.colour, linewidth=2 * look.line, linestyle="",
            capsize=0.3 * look.font,
        )  # fmt: skip
    else:
        axes.fill_between(line.x, line.low, line.high, color=ink.colour, alpha=0.18, linewidth=0)


def _stack(axes: Axes, panel: LinePanel, inks: dict[str, Ink], look: Look) -> None:
    """Draw each place as a column that is cut into shares, the first line's at the bottom."""
    places = panel.lines[0].x
    edges = np.append(places - 0.5, places[-1] + 0.5)
    base = np.zeros(len(places))
    for line in panel.lines:
        ink, top = inks[line.label], base + np.nan_to_num(line.y)
        axes.stairs(
            top, edges, baseline=base, fill=True, facecolor=ink.colour, edgecolor="white",
            linewidth=0.4 * look.line, hatch=ink.hatch, gid=line.label,
        )  # fmt: skip
        base = top


def _ticks(axes: Axes, panel: LinePanel, whole: bool) -> None:
    """Put ticks at numbers that are easy to read, without offsets and powers."""
    axes.xaxis.set_major_locator(
        MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=whole, min_n_ticks=1)
    )
    plain = FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−"))
    axes.xaxis.set_major_formatter(plain)
    if panel.scale == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=_log_steps(axes)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(plain)


def _log_steps(axes: Axes) -> tuple[float, ...]:
    """Label more numbers of each power of ten where the axis holds few powers."""
    low, high = axes.get_ylim()
    return (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)


def _texts(panels: Sequence[LinePanel]) -> list[str]:
    texts = ["+−.…()0123456789"]
    for panel in panels:
        if panel.tokens is not None:
            texts += [panel.tokens.name, *(label.text for label in panel.tokens.labels)]
            texts += [span.role for span in panel.tokens.spans]
        texts += [panel.title, panel.x_axis, panel.name, panel.unit, panel.note]
        texts += [name for line in panel.lines for name in (line.label, line.hue, line.dash)]
    return texts


def _x_axis(axes: Axes, panel: LinePanel) -> str:
    """Name the x axis; an axis of tokens says itself whether it shows positions."""
    return panel.x_axis if panel.tokens is None else axes.get_xlabel().replace("\n", " ")


def _fit(
    figure: Figure,
    row: Sequence[Axes],
    panels: Sequence[LinePanel],
    n_columns: int,
    look: Look,
) -> None:
    """Settle line breaks and height: labels change the axes, and axes the labels."""
    for _ in range(3):
        lay_out(figure)
        boxes = [axes.get_window_extent() for axes in row]
        if min(box.width for box in boxes) < 8 * look.font:
            raise FigureError(
                "there is no room left for the lines",
                got=f"a width of {figure.get_figwidth() / MM:.0f} mm",
                fix="ask for a greater width (width_mm), or draw fewer panels",
            )
        for place, (axes, panel, box) in enumerate(zip(row, panels, boxes, strict=True)):
            above = look.font * 0.6
            if panel.tokens is not None:
                above += draw_tokens(axes, panel.tokens, "x", look)
            title = axes.set_title(panel.title, loc="left", pad=above, parse_math=False)
            wrap(title, panel.title, box.width)
            wrap(axes.xaxis.label, _x_axis(axes, panel), box.width)
            if place % n_columns == 0 or panels[place - 1].name != panel.name:
                words = f"{panel.name} ({panel.unit})" if panel.unit else panel.name
                wrap(axes.yaxis.label, words, 1.1 * box.height)
        shape = _LOW_SHAPE if panels[0].stacked else _SHAPE
        wanted = [min(shape * box.width / figure.dpi, 0.6 * look.tallest_mm * MM) for box in boxes]
        lines = [slice(i, i + n_columns) for i in range(0, len(row), n_columns)]
        heights = [max(box.height for box in boxes[line]) / figure.dpi for line in lines]
        surplus = figure.get_figheight() - sum(heights)
        figure.set_figheight(sum(max(wanted[line]) for line in lines) + surplus)
    lay_out(figure)
    figure.set_layout_engine("none")
