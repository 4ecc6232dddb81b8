"""Panels: results arranged for drawing. All that a figure shows is decided here."""

from attnprobe.panels.attributions import AttributionPanel, attribution_panel
from attnprobe.panels.bars import BarPanel
from attnprobe.panels.cells import MapPanel
from attnprobe.panels.changes import change_panels
from attnprobe.panels.confirmations import confirmation_panels
from attnprobe.panels.curves import curve_panels
from attnprobe.panels.heads import head_panel
from attnprobe.panels.items import item_records
from attnprobe.panels.lines import Line, LinePanel
from attnprobe.panels.maps import map_panels
from attnprobe.panels.notices import unfinished
from attnprobe.panels.panel import Panel, limits_around_zero, limits_from_zero
from attnprobe.panels.passfail import pass_fail_panel
from attnprobe.panels.segments import segment_panels
from attnprobe.panels.steps import record_step_panels, step_panels
from attnprobe.panels.tables import write_table
from attnprobe.panels.texts import TextPanel, attribution_texts
from attnprobe.panels.tokens import TokenAxis, TokenLabel, token_axis
from attnprobe.panels.training import read_training_log, training_panels

__all__ = [
    "AttributionPanel", "BarPanel", "Line", "LinePanel", "MapPanel", "Panel", "TextPanel",
    "TokenAxis", "TokenLabel", "attribution_panel", "attribution_texts", "change_panels",
    "confirmation_panels", "curve_panels", "head_panel", "item_records", "limits_around_zero",
    "limits_from_zero", "map_panels", "pass_fail_panel", "read_training_log", "record_step_panels",
    "segment_panels", "step_panels", "token_axis", "training_panels", "unfinished", "write_table",
]  # fmt: skip
