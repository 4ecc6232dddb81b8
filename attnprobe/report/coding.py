"""How numbers travel to the page: JSON without NaN, and codes of one byte for what is large."""

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

DIGITS = 4
"""Significant digits of numbers that are written out."""
LEVELS, SIGNED_LEVELS = 255, 127
"""The code of the largest value, where values are from 0 on and where they have a sign."""


def plain(values: np.ndarray, digits: int = DIGITS) -> Any:
    """Turn an array into nested lists of a few significant digits; NaN and ±∞ become None."""
    numbers = np.asarray(values, np.float64)
    finite = np.isfinite(numbers)
    size = np.where(finite & (numbers != 0), np.abs(numbers), 1.0)
    power = digits - 1 - np.floor(np.log10(size))
    shift = 10.0 ** np.clip(power, -300, 300)
    rounded = np.where(finite, np.round(np.where(finite, numbers, 0) * shift) / shift, np.nan)
    listed = rounded.astype(object)
    listed[~finite] = None
    return listed.tolist()


def coded_rows(
    values: Float[np.ndarray, "row column"],
    first: Sequence[int] | np.ndarray,
    length: Sequence[int] | np.ndarray,
    *,
    signed: bool = False,
) -> dict[str, Any]:
    """Write rows of weights or scores with one byte each, on a square-root scale.

    Row r covers the columns `[first[r], first[r] + length[r])`; they lie one after another. A code
    c means `(c / 255)² · max`, or, with a sign, `sign(c) · (c / 127)² · max`: small values, of
    which such rows are full, get the finer steps. NaN counts as 0.

    Returns:
        `first`, `length`, `max`, `signed`, and `codes`: the bytes (of two's complement where
        signed), zlib-compressed, in base64.
    """
    inside = _inside(values.shape[1], np.asarray(first), np.asarray(length))
    numbers = np.nan_to_num(values[inside].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    reach = float(np.abs(numbers).max(initial=0.0))
    shares = np.sqrt(np.abs(numbers) / reach) if reach else np.zeros_like(numbers)
    if signed:
        codes = np.rint(np.copysign(shares, numbers) * SIGNED_LEVELS).astype(np.int8)
    else:
        codes = np.rint(shares * LEVELS).astype(np.uint8)
    return {
        "first": [int(n) for n in first],
        "length": [int(n) for n in length],
        "max": reach,
        "signed": signed,
        "codes": packed(codes.tobytes()),
    }


def decoded_rows(piece: dict[str, Any], n_columns: int) -> Float[np.ndarray, "row column"]:
    """Read what `coded_rows` wrote; NaN where a row has no column."""
    raw = zlib.decompress(base64.b64decode(piece["codes"]))
    codes = np.frombuffer(raw, np.int8 if piece["signed"] else np.uint8).astype(np.float64)
    shares = codes / (SIGNED_LEVELS if piece["signed"] else LEVELS)
    inside = _inside(n_columns, np.asarray(piece["first"]), np.asarray(piece["length"]))
    values = np.full(inside.shape, np.nan)
    values[inside] = np.sign(shares) * shares**2 * piece["max"]
    return values


def packed(raw: bytes) -> str:
    """Compress bytes (zlib) and write them in base64."""
    return base64.b64encode(zlib.compress(raw, 9)).decode("ascii")


def _inside(
    n_columns: int, first: np.ndarray, length: np.ndarray
) -> Bool[np.ndarray, "row column"]:
    columns = np.arange(n_columns)
    return (columns >= first[:, None]) & (columns < (first + length)[:, None])
