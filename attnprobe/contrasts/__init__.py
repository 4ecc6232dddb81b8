"""Contrasts: paired differences between two styles of prompting, with their uncertainty."""

from attnprobe.contrasts.across import contrast_runs
from attnprobe.contrasts.comparing import compare
from attnprobe.contrasts.inference import MIN_UNITS, SCALES, SCREENINGS, Inference
from attnprobe.contrasts.interacting import compare_groups
from attnprobe.contrasts.interventions import Changes, Outcomes, changes, read_changes
from attnprobe.contrasts.omnibus import Omnibus
from attnprobe.contrasts.pairing import pair_items, select_styles
from attnprobe.contrasts.result import Contrast
from attnprobe.contrasts.styles import contrast

__all__ = [
    "MIN_UNITS", "SCALES", "SCREENINGS", "Changes", "Contrast", "Inference", "Omnibus", "Outcomes",
    "changes", "compare", "compare_groups", "contrast", "contrast_runs", "pair_items",
    "read_changes", "select_styles",
]  # fmt: skip
