"""Panels: results arranged for drawing. All that a figure shows is decided here."""

from attnprobe.panels.heads import head_panel
from attnprobe.panels.panel import Panel, limits_around_zero, limits_from_zero
from attnprobe.panels.segments import segment_panels

__all__ = ["Panel", "head_panel", "limits_around_zero", "limits_from_zero", "segment_panels"]
