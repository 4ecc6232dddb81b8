"""How probabilities become small integers: square-root codes, and plain float32.

A weight w in [0, 1] is stored as `code = round(levels · √w)` and read as `w = (code / levels)²`.
Small weights, of which a softmax row is full, get the finer steps. With the half step
δ = 0.5 / levels the error of one weight is at most 2δ√w + δ², so

- u16 (65535 levels): at most 1.6e-5, and exactly 0 for w = 0 and w = 1;
- u8 (255 levels): at most 4e-3, and exactly 0 for w = 0 and w = 1;
- f32: none.

A row over n keys sums to 1 within √n / levels + n / (4·levels²), because Σ√w ≤ √n (Cauchy-Schwarz)
and each of its weights adds δ² at most.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Num

from attnprobe.errors import SelectionError, StoreError, nearest

TOLERANCE = 1e-3
"""How far above 1 a probability may lie, from rounding in low precision, before it is refused."""


@dataclass(frozen=True, slots=True)
class Code:
    """One way to store probabilities."""

    name: str
    dtype: str
    """Numpy type on disk, little-endian."""
    levels: int
    """The code of probability 1; 0 where values are stored as they are."""
    max_error: float
    """Largest absolute error of one decoded value."""


CODES = {
    "u16": Code("u16", "<u2", 65535, 1.6e-5),
    "u8": Code("u8", "|u1", 255, 4e-3),
    "f32": Code("f32", "<f4", 0, 0.0),
}


def code_named(name: str) -> Code:
    """Look an encoding up by name.

    Raises:
        SelectionError: If there is no such encoding.
    """
    if name not in CODES:
        raise SelectionError(f"no encoding is called '{name}'", fix=nearest(name, CODES))
    return CODES[name]


def mass_code(weights: Code) -> Code:
    """Choose the code of masses in a run whose weights have the code `weights`.

    Masses are few and go into logarithms, so they are never coarser than u16.
    """
    return CODES["u16"] if weights.name == "u8" else weights


def encode(
    values: Float32[np.ndarray, "*shape"], code: Code, where: str = "weights"
) -> Num[np.ndarray, "*shape"]:
    """Turn probabilities into codes.

    Args:
        values: Probabilities in [0, 1 + `TOLERANCE`]; what lies above 1 is stored as 1.
        code: How to store them.
        where: What they are, for the error message.

    Raises:
        StoreError: If a value is NaN or outside that range.
    """
    if not values.size:
        return values.astype(code.dtype)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1 + TOLERANCE):  # written so that NaN fails as well
        raise StoreError(
            "values are no probabilities",
            where=where,
            got=f"{low:g} to {high:g}",
            expected=f"0 to 1 (at most {TOLERANCE:g} above)",
            fix="this is a fault of the capture, not of the data; nothing of this chunk was stored",
        )
    clipped = np.minimum(values, np.float32(1)) if high > 1 else values
    if not code.levels:
        return np.ascontiguousarray(clipped, dtype=code.dtype)
    scaled = np.sqrt(clipped)
    scaled *= np.float32(code.levels)
    scaled += np.float32(0.5)
    return scaled.astype(code.dtype)


def decode(codes: Num[np.ndarray, "*shape"], code: Code) -> Float32[np.ndarray, "*shape"]:
    """Turn codes back into probabilities.

    The arithmetic is float32 throughout, so that every reader gets the same bits.
    """
    values = codes.astype(np.float32)
    if code.levels:
        values /= np.float32(code.levels)
        values *= values
    return values
