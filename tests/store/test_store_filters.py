"""Chunks filtered by hand are what HDF5's own filters make of them."""

import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprobe.store.filters import compressed, fletcher32, shuffle, write_chunk

FILTERS = {"shuffle": True, "compression": "gzip", "compression_opts": 4, "fletcher32": True}


def by_hdf5(data):
    """The checksum that HDF5 itself writes behind a chunk."""
    with h5py.File("x.h5", "w", driver="core", backing_store=False) as file:
        values = np.frombuffer(data, np.uint8)
        dataset = file.create_dataset("d", data=values, chunks=values.shape, fletcher32=True)
        _, chunk = dataset.id.read_direct_chunk((0,))
    return int.from_bytes(chunk[-4:], "little")


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=3000))
def test_the_checksum_is_hdf5s_own(data):
    assert fletcher32(data) == by_hdf5(data)


@pytest.mark.parametrize(
    "data", [b"\xff" * 8000, b"\x00" * 10, b"\xff\xff", b"\x01", b"\xff" * 70001]
)
def test_the_checksum_of_odd_and_overflowing_data_is_hdf5s_own(data):
    assert fletcher32(data) == by_hdf5(data)


NOISE = np.random.default_rng(1)
CASES = {
    "weights": np.sqrt(NOISE.dirichlet(np.full(60, 0.1), 300)).ravel() * 65535,
    "counts": np.arange(20_000) % 50,
    "zeros": np.zeros(16_384),
    "noise": NOISE.integers(0, 65536, 16_384),
    "more noise than a block holds": NOISE.integers(0, 65536, 200_000),
    "a few": np.arange(5),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<f4", "<f8"])
def test_the_stream_is_zlib_and_holds_the_shuffled_bytes(case, dtype):
    values = (CASES[case] % 256 if dtype == "u1" else CASES[case] / 7).astype(dtype)
    planes = shuffle(values)
    packed = compressed(planes)
    assert zlib.decompress(packed) == planes.tobytes()
    assert len(packed) <= planes.size + planes.size // 1000 + 64


def test_noise_is_stored_and_the_rest_still_gets_small():
    values = CASES["weights"].astype("<u2")
    assert len(compressed(shuffle(values))) < 1.7 * len(values)
    assert len(compressed(shuffle(CASES["counts"].astype("<u4")))) < 0.1 * 20_000


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<f4", "<i8"])
def test_stock_h5py_reads_the_chunks_back(tmp_path, dtype):
    values = (np.random.default_rng(0).random((2, 3, 100)) * 200).astype(dtype)
    with h5py.File(tmp_path / "x.h5", "w", libver=("v110", "v110")) as file:
        dataset = file.create_dataset("d", values.shape, dtype, chunks=(1, 1, 50), **FILTERS)
        for layer, head, start in np.ndindex(2, 3, 2):
            part = values[layer, head, start * 50 : start * 50 + 50]
            write_chunk(dataset, (layer, head, start * 50), part)
    with h5py.File(tmp_path / "x.h5") as file:
        np.testing.assert_array_equal(file["d"][...], values)
        chunk = file["d"].id.get_chunk_info(3)
    raw = bytearray((tmp_path / "x.h5").read_bytes())
    raw[chunk.byte_offset + chunk.size // 2] ^= 1
    (tmp_path / "x.h5").write_bytes(raw)
    with pytest.raises(OSError), h5py.File(tmp_path / "x.h5") as file:
        file["d"][...]
