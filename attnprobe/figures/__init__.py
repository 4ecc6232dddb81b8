"""Figures: panels drawn with matplotlib, without any global state."""

from typing import Any

from matplotlib.figure import Figure

from attnprobe.figures.drawing import draw
from attnprobe.figures.fonts import already_warned
from attnprobe.figures.lines import draw_lines
from attnprobe.figures.looks import LOOKS, Look
from attnprobe.figures.maps import draw_attribution, draw_maps
from attnprobe.figures.saving import save
from attnprobe.figures.tokens import draw_tokens
from attnprobe.panels import AttributionPanel, LinePanel, MapPanel

__all__ = [
    "LOOKS", "Look", "already_warned", "draw", "draw_any", "draw_attribution", "draw_lines",
    "draw_maps", "draw_tokens", "save",
]  # fmt: skip


def draw_any(panel: Any, look: str = "paper") -> Figure:
    """Draw one panel of whatever kind."""
    if isinstance(panel, AttributionPanel):
        return draw_attribution(panel, look)
    if isinstance(panel, MapPanel):
        return draw_maps(panel, look)
    if isinstance(panel, LinePanel):
        return draw_lines(panel, look)
    return draw(panel, look)
