"""Contrasts: paired differences between two styles of prompting, with their uncertainty."""

from attnprobe.contrasts.comparing import MIN_UNITS, compare
from attnprobe.contrasts.result import Contrast
from attnprobe.contrasts.styles import contrast, pair_items, select_styles

__all__ = ["MIN_UNITS", "Contrast", "compare", "contrast", "pair_items", "select_styles"]
