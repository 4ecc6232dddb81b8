"""Whole HDF5 chunks, run through the declared filters before HDF5 sees them, and back.

Most of the time that writing a run takes goes into deflate, and most of that into the low bytes of
the weights, which are noise. So large datasets are filtered here and handed to HDF5 ready: noise is
stored as it is inside the deflate stream, and libdeflate makes the rest. What lies on disk is what
the dataset declares, shuffle, deflate and Fletcher-32; any HDF5 reads it, and checks the checksum.

Reading goes the same way, because HDF5 inflates whatever a stranger's chunk inflates to, and
because it is faster: here a chunk has the size that its dataset declares, or is refused.
"""

import zlib

import deflate
import h5py
import numpy as np
from h5py import h5d  # pyright: ignore[reportAttributeAccessIssue]
from jaxtyping import Num, UInt8

LEVEL, LEVEL_BESIDE_NOISE = 4, 1
"""libdeflate's levels; beside noise the lowest is also the smallest, because it matches least."""
DEFLATE_SKIPPED = 0b010
"""HDF5 leaves deflate out, and notes it, where it would make a chunk longer."""

_MODULUS = 65535
_SAMPLE, _NOISE = 1024, 1000
_LONGEST_STORED = 65535
_CHECKSUM = 4
_FALLING = np.arange(65536, 0, -1, dtype=np.float64)
_FEW_BYTES = 8
"""Up to this size of a value its bytes are put back one after another, above it all at once."""


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
    checksum = fletcher32(packed).to_bytes(_CHECKSUM, "little")
    dataset.id.write_direct_chunk(offset, packed + checksum)


def largest_packed(n_bytes: int) -> int:
    """Return how many bytes a chunk of `n_bytes` may take in the file at most."""
    return n_bytes + n_bytes // 1000 + 128


def read_chunk(
    dataset: h5d.DatasetID, offset: tuple[int, ...], n_values: int, dtype: np.dtype,
    buffer: bytearray,
) -> np.ndarray:  # fmt: skip
    """Read one whole chunk.

    Args:
        dataset: Declared with shuffle, gzip and fletcher32, in this order.
        offset: Index of the chunk's first element.
        n_values: How many values the chunk holds.
        dtype: Their type.
        buffer: Room for the chunk as it lies in the file, `largest_packed` bytes.

    Raises:
        ValueError: If the chunk is not what the dataset declares.
        OSError: If it is not there, or cannot be read.
        RuntimeError: Likewise.
    """
    skipped, packed = dataset.read_direct_chunk(offset, out=buffer)
    if skipped & ~DEFLATE_SKIPPED:
        raise ValueError(f"the chunk at {offset} goes without its filters")
    body, checksum = packed[:-_CHECKSUM], packed[-_CHECKSUM:]
    if fletcher32(body) != int.from_bytes(checksum, "little") or not len(body):
        raise ValueError(f"the checksum of the chunk at {offset} does not hold")
    n_bytes = n_values * dtype.itemsize
    try:
        plain = body if skipped else deflate.zlib_decompress(body, n_bytes)
    except deflate.DeflateError:
        raise ValueError(f"the chunk at {offset} does not inflate to {n_bytes} bytes") from None
    if len(plain) != n_bytes:
        raise ValueError(f"the chunk at {offset} has {len(plain)} bytes instead of {n_bytes}")
    return unshuffle(np.frombuffer(plain, np.uint8).reshape(dtype.itemsize, n_values), dtype)


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


def unshuffle(planes: UInt8[np.ndarray, "byte value"], dtype: np.dtype) -> np.ndarray:
    """Undo `shuffle`."""
    n_bytes, n_values = planes.shape
    values = np.empty((n_values, n_bytes), np.uint8)
    if n_bytes > _FEW_BYTES:
        values[:] = planes.T
    else:
        for byte in range(n_bytes):
            values[:, byte] = planes[byte]
    return values.view(dtype)[:, 0]


def fletcher32(data: bytes | bytearray | memoryview) -> int:
    """Return HDF5's Fletcher-32 checksum: big-endian 16-bit words, sums modulo 65535.

    The sums are folded as HDF5 folds them, so that a multiple of 65535 other than 0 is 65535.
    """
    words = np.frombuffer(data, "<u2", len(data) // 2)
    left, plain, rising = -(-len(data) // 2), 0, 0
    for start in range(0, len(words), len(_FALLING)):
        part = words[start : start + len(_FALLING)].byteswap().astype(np.float64)
        total, left = int(part.sum()), left - len(part)
        plain += total
        rising += int(part @ _FALLING[-len(part) :]) + left * total
    if len(data) % 2:
        plain += data[-1] << 8
        rising += data[-1] << 8
    return _fold(rising) << 16 | _fold(plain)


def _fold(total: int) -> int:
    return (total - 1) % _MODULUS + 1 if total else 0
