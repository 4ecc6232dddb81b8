"""Contrasts: paired differences between two styles of prompting, with their uncertainty."""

from attnprobe.contrasts.comparing import MIN_UNITS, compare
from attnprobe.contrasts.interventions import Changes, Outcomes, changes, read_changes
from attnprobe.contrasts.result import Contrast
from attnprobe.contrasts.styles import contrast, pair_items, select_styles

__all__ = [
    "MIN_UNITS", "Changes", "Contrast", "Outcomes", "changes", "compare", "contrast", "pair_items",
    "read_changes", "select_styles",
]  # fmt: skip
