import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attnprobe.errors import SelectionError, StoreError
from attnprobe.store import codes
from attnprobe.store.codes import CODES

PROBABILITIES = hnp.arrays(
    np.float32,
    hnp.array_shapes(max_dims=3, max_side=40),
    elements=st.floats(0, 1, width=32),
)


@pytest.mark.parametrize("name", ["u16", "u8", "f32"])
@given(values=PROBABILITIES)
def test_error_is_within_the_stated_bound(name, values):
    code = CODES[name]
    stored = codes.encode(values, code)
    assert stored.dtype == code.dtype
    back = codes.decode(stored, code)
    assert back.dtype == np.float32
    assert abs(back.astype(float) - values).max() <= code.max_error


@pytest.mark.parametrize("name", ["u16", "u8"])
def test_no_value_anywhere_breaks_the_bound(name):
    # The error is largest half-way between two codes, so look there, for every pair of codes.
    code = CODES[name]
    halfway = (((np.arange(code.levels) + 0.5) / code.levels) ** 2).astype(np.float32)
    around = np.concatenate([halfway, np.nextafter(halfway, 0), np.nextafter(halfway, 1)])
    back = codes.decode(codes.encode(around, code), code)
    assert abs(back.astype(float) - around).max() <= code.max_error


@pytest.mark.parametrize("name", ["u16", "u8", "f32"])
def test_zero_and_one_are_exact(name):
    ends = np.array([0.0, -0.0, 1.0, 1.0005], np.float32)
    assert codes.decode(codes.encode(ends, CODES[name]), CODES[name]).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("name", ["u16", "u8"])
def test_every_code_survives_decoding_and_encoding(name):
    code = CODES[name]
    every = np.arange(code.levels + 1).astype(code.dtype)
    assert (codes.encode(codes.decode(every, code), code) == every).all()


@given(
    scores=hnp.arrays(
        np.float32, st.integers(1, 300), elements=st.floats(-20, 20, width=32)
    )
)  # fmt: skip
def test_rows_still_sum_to_one_within_the_stated_bound(scores):
    row = np.exp(scores - scores.max())
    row = (row / row.sum()).astype(np.float32)
    back = codes.decode(codes.encode(row, CODES["u16"]), CODES["u16"])
    assert abs(back.sum(dtype=float) - row.sum(dtype=float)) <= np.sqrt(len(row)) / 65535 + 1e-7


def test_larger_weights_never_get_smaller_codes():
    values = np.sort(np.random.default_rng(0).random(10_000, np.float32))
    assert (np.diff(codes.encode(values, CODES["u16"]).astype(int)) >= 0).all()


@pytest.mark.parametrize("bad", [np.nan, -1e-6, 1.01, np.inf])
def test_what_is_no_probability_is_refused(bad):
    with pytest.raises(StoreError) as error:
        codes.encode(np.array([0.5, bad], np.float32), CODES["f32"], "record 'r', /weights")
    text = str(error.value)
    assert text.startswith("record 'r', /weights: values are no probabilities; got ")
    assert "expected 0 to 1 (at most 0.001 above)" in text


def test_unknown_encoding_names_the_nearest():
    with pytest.raises(SelectionError, match="did you mean 'u16'"):
        codes.code_named("u61")


def test_masses_are_never_coarser_than_u16():
    assert [codes.mass_code(CODES[n]).name for n in ("u8", "u16", "f32")] == ["u16", "u16", "f32"]
