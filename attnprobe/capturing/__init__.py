"""Encodings → captures: what the model should write or did write, and where it looked meanwhile.

`capture` runs a model over encodings and hands the captures to a sink. With a `Decoding` the model
writes first (`generate`), and what it wrote is captured as a target would be.
"""

from attnprobe.capturing.captures import (
    KEEPS,
    CaptureSettings,
    batches,
    capture,
    capture_batch,
)
from attnprobe.capturing.decoding import Decoding, generate, token_limit
from attnprobe.capturing.overlap import overlapping

__all__ = [
    "KEEPS", "CaptureSettings", "Decoding", "batches", "capture", "capture_batch", "generate",
    "overlapping", "token_limit",
]  # fmt: skip
