"""Attention out of a running model: what it really used, proven, at the speed of its own kernel."""

from attnprobe.attention.ablating import HeadOutputs, ablate_heads, head_outputs
from attnprobe.attention.canary import check_canary
from attnprobe.attention.certificate import Certificate
from attnprobe.attention.edits import Edge
from attnprobe.attention.kinds import KEEPS, KindRecording
from attnprobe.attention.knocking import knockout
from attnprobe.attention.recorder import record
from attnprobe.attention.recording import Recording
from attnprobe.attention.survey import ROUTES, Survey
from attnprobe.attention.value_norms import ValueNorms, measured_values

__all__ = [
    "KEEPS",
    "ROUTES",
    "Certificate",
    "Edge",
    "HeadOutputs",
    "KindRecording",
    "Recording",
    "Survey",
    "ValueNorms",
    "ablate_heads",
    "check_canary",
    "head_outputs",
    "knockout",
    "measured_values",
    "record",
]
