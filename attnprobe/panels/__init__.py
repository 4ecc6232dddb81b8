"""Panels: results arranged for drawing. All that a figure shows is decided here."""

from attnprobe.panels.heads import head_panel
from attnprobe.panels.maps import MapPanel, item_records, map_panels
from attnprobe.panels.panel import Panel, limits_around_zero, limits_from_zero
from attnprobe.panels.segments import segment_panels
from attnprobe.panels.tokens import TokenAxis, TokenLabel, token_axis

__all__ = [
    "MapPanel", "Panel", "TokenAxis", "TokenLabel", "head_panel", "item_records",
    "limits_around_zero", "limits_from_zero", "map_panels", "segment_panels", "token_axis",
]  # fmt: skip
