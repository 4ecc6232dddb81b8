"""Encodings → captures: what the model should write or did write, and where it looked meanwhile.

`capture` runs a model over encodings and hands the captures to a sink. With a `Decoding` the model
writes first (`generate`), and what it wrote is captured as a target would be.
"""

from attnprobe.capturing.captures import (
    KEEPS,
    CaptureSettings,
    as_recorded,
    batches,
    capture,
    capture_batch,
)
from attnprobe.capturing.crediting import Crediting
from attnprobe.capturing.decoding import Decoding, generate, token_limit
from attnprobe.capturing.overlap import overlapping
from attnprobe.capturing.padding import can_pad, padded_ids
from attnprobe.capturing.virtual import count_virtual, refuse_attribution

__all__ = [
    "KEEPS", "CaptureSettings", "Crediting", "Decoding", "as_recorded", "batches", "can_pad",
    "capture", "capture_batch", "count_virtual", "generate", "overlapping", "padded_ids",
    "refuse_attribution", "token_limit",
]  # fmt: skip
