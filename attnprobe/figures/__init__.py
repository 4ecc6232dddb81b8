"""Figures: panels drawn with matplotlib, without any global state."""

from attnprobe.figures.drawing import draw
from attnprobe.figures.looks import LOOKS, Look
from attnprobe.figures.saving import save

__all__ = ["LOOKS", "Look", "draw", "save"]
