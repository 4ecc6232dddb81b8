"""How the values of a map turn into colours, and the bar that says so."""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import FuncNorm, LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure

from attnprobe.figures.looks import POINT, Look
from attnprobe.panels.cells import MapPanel, find_scale


def colour_norm(panel: MapPanel) -> Normalize:
    """Return what turns values into colours."""
    low, high = panel.limits
    if panel.diverging:
        return diverging_norm(panel.limits, panel.scale)
    if panel.scale == "log":
        return LogNorm(low, high, clip=True)
    return PowerNorm(0.5, low, high) if panel.scale == "sqrt" else Normalize(low, high)


def diverging_norm(limits: tuple[float, float], scale: str) -> Normalize:
    """Return what turns values of either sign into colours."""
    if scale == "sqrt":
        return FuncNorm((_signed_root, _signed_square), *limits)
    return Normalize(*limits)


def _signed_root(values: Any) -> Any:
    return np.sign(values) * np.sqrt(np.abs(values))


def _signed_square(values: Any) -> Any:
    return np.sign(values) * np.square(values)


def add_colour_bar(
    row: Sequence[Axes], image: Any, panels: Sequence[MapPanel], look: Look, *, beside: bool
) -> Colorbar:
    """Draw the one colour bar of maps that share their limits, beside or below them."""
    panel, figure = panels[0], cast(Figure, row[0].figure)
    bar = figure.colorbar(
        image,
        ax=list(row),
        extend=_beyond(panels),
        location="right" if beside else "bottom",
        shrink=0.9 if beside else 0.5,
        aspect=30,
        pad=0.04 if beside else 0.03,
    )
    bar.set_label(
        f"{panel.name} ({', '.join(filter(None, (panel.unit, find_scale(panel.scale))))})"
    )
    length = 0.9 * (figure.get_figheight() if beside else 0.5 * figure.get_figwidth()) / POINT
    gap = max(0.11, (1.5 if beside else 4) * look.font / length)
    bar_ticks(bar, panel.limits, panel.scale, diverging=panel.diverging, gap=gap)
    bar.outline.set(linewidth=look.line, edgecolor="#808080")  # type: ignore[operator]
    return bar


def bar_ticks(
    bar: Colorbar,
    limits: tuple[float, float],
    scale: str,
    *,
    diverging: bool,
    gap: float = 0.11,
) -> None:
    """Put round numbers along a bar of a square-root scale; other scales find their own.

    Between two of them lies at least a share `gap` of the bar.
    """
    if scale != "sqrt":
        return
    ticks = _even_ticks(limits[1], 2 * gap if diverging else gap)
    if diverging:
        ticks = [*(-tick for tick in ticks[:0:-1]), *ticks]
    bar.set_ticks(ticks, labels=[f"{tick:g}".replace("-", "−") for tick in ticks])


def _beyond(panels: Sequence[MapPanel]) -> Any:
    """Say at which ends values reach beyond the colours."""
    below = any(panel.diverging and np.nanmin(panel.values) < panel.limits[0] for panel in panels)
    above = any(np.nanmax(panel.values) > panel.limits[1] for panel in panels)
    return {(0, 0): "neither", (0, 1): "max", (1, 0): "min", (1, 1): "both"}[below, above]


def _even_ticks(high: float, gap: float = 0.11) -> list[float]:
    """Choose round numbers that lie a share of the way apart on a square-root scale."""
    round_numbers = [m * 10.0**p for p in range(-6, 7) for m in (1, 2, 5)]
    ticks, above = [0.0], 1 + gap / 2
    for number in reversed([number for number in round_numbers if number <= high]):
        share = math.sqrt(number / high)
        if above - share > gap and share > 0.7 * gap:
            ticks.append(number)
            above = share
    return sorted(ticks)
