"""Attention out of a running model: what it really used, proven, at the speed of its own kernel."""

from attnprobe.attention.canary import check_canary
from attnprobe.attention.certificate import Certificate
from attnprobe.attention.compat import Survey
from attnprobe.attention.recording import KEEPS, Recording, record

__all__ = ["KEEPS", "Certificate", "Recording", "Survey", "check_canary", "record"]
