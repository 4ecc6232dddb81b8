"""Whole HDF5 chunks, run through the declared filters before HDF5 sees them.

Most of the time that writing a run takes goes into deflate, and most of that into the low bytes of
the weights, which are noise. So large datasets are filtered here and handed to HDF5 ready: noise is
stored as it is inside the deflate stream, and libdeflate makes the rest. What lies on disk is what
the dataset declares, shuffle, deflate and Fletcher-32; any HDF5 reads it, and checks the checksum.
"""

import zlib

import deflate
import h5py
import numpy as np
from jaxtyping import Num, UInt8

LEVEL, LEVEL_BESIDE_NOISE = 4, 1
"""libdeflate's levels; beside noise the lowest is also the smallest, because it matches least."""

_MODULUS = 65535
_SAMPLE, _NOISE = 1024, 1000
_LONGEST_STORED = 65535


def write_chunk(
    dataset: h5py.Dataset, offset: tuple[int, ...], values: Num[np.ndarray, "*chunk"]
) -> None:
    """Write one whole chunk.

    Args:
        dataset: Declared with shuffle, gzip and fletcher32, in this order.
        offset: Index of the chunk's first element.
        values: As many as the chunk holds, of the dataset's type.
    """
    packed = compressed(shuffle(values))
    checksum = fletcher32(packed).to_bytes(4, "little")
    dataset.id.write_direct_chunk(offset, packed + checksum)


def compressed(planes: UInt8[np.ndarray, "byte value"]) -> bytes:
    """Make a zlib stream of shuffled bytes; leading planes of noise are stored in it.

    Args:
        planes: The first bytes of all values, the second, and so on.
    """
    n_stored = 0
    while n_stored < len(planes) - 1 and _is_noise(planes[n_stored]):
        n_stored += 1
    if not n_stored:
        return bytes(deflate.zlib_compress(planes.tobytes(), LEVEL))
    head, rest = planes[:n_stored].tobytes(), planes[n_stored:].tobytes()
    stored = [
        _stored_block(head[start : start + _LONGEST_STORED])
        for start in range(0, len(head), _LONGEST_STORED)
    ]
    packed = bytes(deflate.deflate_compress(rest, LEVEL_BESIDE_NOISE))
    checksum = zlib.adler32(rest, zlib.adler32(head)).to_bytes(4, "big")
    return b"".join([b"\x78\x01", *stored, packed, checksum])


def _is_noise(plane: UInt8[np.ndarray, " value"]) -> bool:
    """Whether a sample of the plane does not get smaller."""
    sample = plane[:_SAMPLE].tobytes()
    return len(sample) == _SAMPLE and len(deflate.deflate_compress(sample, 1)) > _NOISE


def _stored_block(data: bytes) -> bytes:
    """Wrap bytes in a deflate block that is not the last (RFC 1951, 3.2.4)."""
    size = len(data)
    return b"\x00" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little") + data


def shuffle(values: Num[np.ndarray, "*chunk"]) -> UInt8[np.ndarray, "byte value"]:
    """Bring the first bytes of all values together, then the second, and so on."""
    data = np.ascontiguousarray(values)
    return np.ascontiguousarray(data.reshape(-1).view(np.uint8).reshape(-1, data.itemsize).T)


def fletcher32(data: bytes) -> int:
    """Return HDF5's Fletcher-32 checksum: big-endian 16-bit words, sums modulo 65535.

    The sums are folded as HDF5 folds them, so that a multiple of 65535 other than 0 is 65535.
    """
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(np.int64)
    weights = np.arange(len(words), 0, -1, dtype=np.int64) % _MODULUS
    return _fold(int(weights @ words)) << 16 | _fold(int(words.sum()))


def _fold(total: int) -> int:
    return (total - 1) % _MODULUS + 1 if total else 0
