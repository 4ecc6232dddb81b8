"""Contrasts: paired differences between two styles of prompting, with their uncertainty."""

from attnprobe.contrasts.across import contrast_runs
from attnprobe.contrasts.comparing import compare
from attnprobe.contrasts.discriminating import discriminate
from attnprobe.contrasts.inference import MIN_UNITS, SCALES, SCREENINGS, Inference
from attnprobe.contrasts.interacting import compare_groups
from attnprobe.contrasts.interventions import Changes, Outcomes, changes, read_changes
from attnprobe.contrasts.omnibus import Omnibus
from attnprobe.contrasts.pairing import pair_items, select_styles
from attnprobe.contrasts.passfail import PassFail
from attnprobe.contrasts.predicting import Prediction, PredictionSettings, predict_passes
from attnprobe.contrasts.result import Contrast
from attnprobe.contrasts.styles import contrast

__all__ = [
    "MIN_UNITS", "SCALES", "SCREENINGS", "Changes", "Contrast", "Inference", "Omnibus", "Outcomes",
    "PassFail", "Prediction", "PredictionSettings", "changes", "compare", "compare_groups",
    "contrast", "contrast_runs", "discriminate", "pair_items", "predict_passes", "read_changes",
    "select_styles",
]  # fmt: skip
