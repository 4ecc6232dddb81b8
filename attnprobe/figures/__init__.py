"""Figures: panels drawn with matplotlib, without any global state."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from attnprobe.figures.drawing import draw
from attnprobe.figures.fonts import already_warned
from attnprobe.figures.lines import draw_lines
from attnprobe.figures.looks import LOOKS, Look
from attnprobe.figures.maps import draw_attribution, draw_maps
from attnprobe.figures.saving import save
from attnprobe.figures.texts import draw_texts
from attnprobe.figures.tokens import draw_tokens
from attnprobe.panels import AttributionPanel, LinePanel, MapPanel, TextPanel

__all__ = [
    "LOOKS", "Look", "already_warned", "draw", "draw_any", "draw_attribution", "draw_lines",
    "draw_maps", "draw_texts", "draw_tokens", "save",
]  # fmt: skip


_DRAWN_BY: dict[type, Callable[..., Figure]] = {
    AttributionPanel: draw_attribution,
    LinePanel: draw_lines,
    MapPanel: draw_maps,
    TextPanel: draw_texts,
}
"""Which function draws panels of a kind; grids are drawn by `draw`."""


def draw_any(panels: Any, look: str = "paper", width_mm: float | None = None) -> Figure:
    """Draw panels of whatever kind: one, or several of one kind."""
    several = isinstance(panels, Sequence)
    kind = type(panels[0]) if several and panels else type(panels)
    return _DRAWN_BY.get(kind, draw)(panels, look, width_mm)
