"""Bars of signed sums, drawn into axes that are there."""

from matplotlib.axes import Axes

from attnprobe.figures.looks import MM, POINT, Look
from attnprobe.panels.bars import BarPanel

SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Colours of series (Okabe & Ito 2008): told apart with every common colour blindness."""
_THICK = 0.72
"""Share of a bar's place that its series fill."""


def fill_bars(axes: Axes, panel: BarPanel, look: Look) -> None:
    """Draw bars from 0 to the right and left, the first on top, series one below the other.

    Behind each sum stand its positive and its negative part, pale.
    """
    n_series, n_bars = panel.values.shape
    each = _THICK / n_series
    for series in range(n_series):
        colour = SERIES[series % len(SERIES)]
        places = [bar + 0.5 + (series - (n_series - 1) / 2) * each for bar in range(n_bars)]
        for part in (panel.positive, panel.negative):
            axes.barh(places, part[series], 0.92 * each, color=colour, alpha=0.25)
        axes.barh(
            places, panel.values[series], 0.42 * each, color=colour, label=panel.series[series]
        )
    axes.axvline(0, color="#404040", linewidth=look.line)
    axes.set_ylim(n_bars, 0)
    axes.set_yticks([bar + 0.5 for bar in range(n_bars)], panel.bars, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(panel.title, loc="left", parse_math=False)
    axes.set_xlabel(f"{panel.name} ({panel.unit})" if panel.unit else panel.name)
    axes.grid(axis="x", color="#e4e4e4", linewidth=look.line)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color("#808080")
    axes.legend(
        frameon=False, fontsize=0.9 * look.font, loc="lower right", bbox_to_anchor=(1, 1),
        borderaxespad=0.2, handlelength=1.2, ncols=n_series if n_series < 3 else 1,
    )  # fmt: skip


def bars_height(panel: BarPanel, look: Look) -> float:
    """Choose the height of the bars' axes, in inches, so that labels have room."""
    n_series, n_bars = panel.values.shape
    each = max(1.5 * look.font, 0.9 * look.font * n_series) * POINT
    return max(n_bars * each, 12 * MM * look.font / 7)
