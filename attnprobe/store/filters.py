"""Whole HDF5 chunks, run through the declared filters before HDF5 sees them.

Most of the time that writing a run takes goes into deflate. libdeflate makes the same kind of
stream twice as fast as the zlib inside HDF5, so large datasets are filtered here and handed over
ready. What lies on disk is what the dataset declares: shuffle, deflate, Fletcher-32; any HDF5 reads
it, and checks the checksum as it does.
"""

import deflate
import h5py
import numpy as np
from jaxtyping import Num, UInt8

DEFLATE_LEVEL = 4
_MODULUS = 65535


def write_chunk(
    dataset: h5py.Dataset, offset: tuple[int, ...], values: Num[np.ndarray, "*chunk"]
) -> None:
    """Write one whole chunk.

    Args:
        dataset: Declared with shuffle, gzip and fletcher32, in this order.
        offset: Index of the chunk's first element.
        values: As many as the chunk holds, of the dataset's type.
    """
    packed = bytes(deflate.zlib_compress(shuffle(values).tobytes(), DEFLATE_LEVEL))
    checksum = fletcher32(packed).to_bytes(4, "little")
    dataset.id.write_direct_chunk(offset, packed + checksum)


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
