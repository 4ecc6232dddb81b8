"""Laws that hold of every run, whatever was captured: tried on made-up captures of odd shapes."""

import dataclasses
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprobe import store
from attnprobe.types import Capture, Encoding, Masses, Record, Rows, Segment, Span
from tests.store.builders import group_sums, open_writer, write_missing


@dataclasses.dataclass(frozen=True)
class Shape:
    """What shapes one record: its length, the mask of its model, and how sharply rows look."""

    n_tokens: int
    n_prompt: int
    n_spans: int
    kind: str
    window: int
    sharpness: float
    seed: int


@st.composite
def shapes(draw):
    n_tokens = draw(st.integers(1, 24))
    return Shape(
        n_tokens, draw(st.integers(1, n_tokens)), draw(st.integers(1, 4)),
        draw(st.sampled_from(["causal", "prefix", "sliding"])), draw(st.integers(1, 8)),
        draw(st.sampled_from([0.0, 3.0, 200.0])), draw(st.integers(0, 2**32 - 1)),
    )  # fmt: skip


def capture_of(shape, n_layers, n_heads, record_id):
    queries = np.arange(shape.n_prompt - 1, shape.n_tokens - 1)
    start, stop = visible_keys(shape.kind, queries, shape.n_prompt, shape.window)
    weights = np.zeros((n_layers, n_heads, len(queries), shape.n_tokens), np.float32)
    rng = np.random.default_rng(shape.seed)
    for row, (first, last) in enumerate(zip(start, stop, strict=True)):
        scores = rng.normal(size=(n_layers, n_heads, last - first)) * shape.sharpness
        odds = np.exp(scores - scores.max(-1, keepdims=True))
        weights[:, :, row, first:last] = odds / odds.sum(-1, keepdims=True)
    encoding = made_encoding(shape.n_tokens, shape.n_prompt, shape.n_spans, record_id)
    return made_capture(encoding, queries, start, stop, weights)


def visible_keys(kind, queries, n_prompt, window):
    """Which keys each query sees: all before it, the whole prompt besides, or the last few."""
    stop = queries + 1
    if kind == "prefix":
        stop = np.maximum(stop, n_prompt)
    start = np.maximum(queries + 1 - window, 0) if kind == "sliding" else np.zeros_like(queries)
    return start, stop


def made_encoding(n_tokens, n_prompt, n_spans, record_id="r"):
    edges = sorted({0, n_tokens, *np.linspace(0, n_tokens, n_spans + 1).astype(int).tolist()})
    spans = tuple(
        Span(start, stop, f"role_{i}") for i, (start, stop) in enumerate(itertools.pairwise(edges))
    )
    record = Record(record_id, "item", "style", (Segment("a", "x"),), (Segment("b", "y"),))
    return Encoding(
        record, np.arange(n_tokens, dtype=np.int32), tuple(f"t{i}" for i in range(n_tokens)),
        spans, n_prompt, (0,),
    )  # fmt: skip


def made_capture(encoding, queries, start, stop, weights):
    n_layers, n_heads = weights.shape[:2]
    queries = queries.astype(np.int32)
    rows = [
        weights[:, :, row, first:last]
        for row, (first, last) in enumerate(zip(start, stop, strict=True))
    ] or [weights[:, :, 0, :0] if len(queries) else np.zeros((n_layers, n_heads, 0), np.float32)]
    n_groups = len(encoding.groups)
    return Capture(
        encoding=encoding,
        visible=np.ones((n_layers, len(queries), n_groups), np.int32),
        visible_queries=queries,
        log_probs=np.full(encoding.n_steps, -1.5, np.float32),
        predicted=np.zeros(encoding.n_steps, np.int32),
        errors=np.zeros(n_layers, np.float32),
        rows=Rows(
            queries, start.astype(np.int32), (stop - start).astype(np.int32),
            np.ascontiguousarray(np.concatenate(rows, axis=-1)),
        ),
        step_mass=Masses(queries, np.minimum(group_sums(encoding, weights), 1)),
    )  # fmt: skip


def dense(capture):
    """Rows as [layer, head, row, key]."""
    rows, n_tokens = capture.rows, capture.encoding.n_tokens
    square = np.zeros((*rows.weights.shape[:2], len(rows.queries), n_tokens), np.float32)
    ends = np.cumsum(rows.length)
    for row, end in enumerate(ends):
        first, length = rows.start[row], rows.length[row]
        square[:, :, row, first : first + length] = rows.weights[:, :, end - length : end]
    return square


@settings(max_examples=40, deadline=None)
@given(
    made=st.lists(shapes(), min_size=1, max_size=4),
    n_layers=st.integers(1, 2),
    n_heads=st.integers(1, 3),
    encoding=st.sampled_from(["u16", "u8", "f32"]),
    chunk_size=st.integers(1, 3),
)
def test_what_was_captured_comes_back_within_the_bounds(
    made, n_layers, n_heads, encoding, chunk_size
):
    code = store.CODES[encoding]
    made = [capture_of(shape, n_layers, n_heads, f"r{i}") for i, shape in enumerate(made)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run")
        keep = ("rows", "steps")
        writer = open_writer(path, made, keep=keep, encoding=encoding, chunk_size=chunk_size)
        write_missing(writer, made, chunk_size=chunk_size)
        with store.open_run(path) as run:
            for capture in made:
                check_weights(run, capture, code)
            check_all_at_once(run)
            check_in_sequence(run)


def check_weights(run, capture, code):
    record_id, expected = capture.encoding.record.id, dense(capture)
    if not expected.size:
        return
    array = run.weights(record_id)
    values = array.values.astype(float)
    assert array["query"].values.tolist() == capture.rows.queries.tolist()
    assert abs(values - expected).max() <= code.max_error
    assert (values[expected == 0] == 0).all()
    assert (values[expected == 1] == 1).all()
    if code.levels:
        drift = abs(values.sum(-1) - expected.sum(-1, dtype=float))
        n_keys = capture.rows.length
        bound = np.sqrt(n_keys) / code.levels + n_keys / (4 * code.levels**2)
        assert (drift <= bound + 1e-6).all()
    assert abs(run.step_mass(record_id).values - capture.step_mass.mass).max() <= 1.6e-5


def check_all_at_once(run):
    table = run.step_masses()
    for number, record_id in enumerate(table["id"].values.tolist()):
        mass = run.step_mass(record_id)
        shape = int(table["n_steps"][number]), int(table["n_groups"][number])
        start, first = int(table["first_cell"][number]), int(table["first_group"][number])
        cells = table["step_mass"].values[..., start : start + shape[0] * shape[1]]
        assert np.array_equal(cells.reshape(*cells.shape[:2], *shape), mass.values)
        roles = table["role"].values[first : first + shape[1]].tolist()
        assert roles == mass["role"].values.tolist()


def check_in_sequence(run):
    for record_id, array in run.iter_weights():
        assert array.identical(run.weights(record_id))


def test_all_at_once_is_the_same_from_rows_as_from_stored_masses(tmp_path):
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(6), (2, 3, 4)).astype(np.float32)
    queries = np.array([2, 3, 4, 5])
    made = made_capture(
        made_encoding(7, 3, 3), queries, queries * 0, queries * 0 + 6,
        np.concatenate([weights, weights[..., :1] * 0], axis=-1),
    )  # fmt: skip
    tables = []
    for keep in ("rows", "steps"):
        write_missing(open_writer(tmp_path / keep, [made], keep=(keep,)), [made])
        with store.open_run(tmp_path / keep) as run:
            tables.append(run.step_masses(layer=1, head=[2, 0], ids=["r"]))
    assert tables[0].sizes == tables[1].sizes
    assert abs(tables[0]["step_mass"].values - tables[1]["step_mass"].values).max() <= 1e-4
    assert tables[0]["head"].values.tolist() == [2, 0]


@pytest.mark.parametrize("encoding", ["u16", "u8", "f32"])
def test_one_token_one_head_and_no_step(tmp_path, encoding):
    none = np.zeros(0, int)
    made = made_capture(
        made_encoding(1, 1, 1), none, none, none, np.zeros((1, 1, 0, 1), np.float32)
    )
    path = tmp_path / "run"
    write_missing(open_writer(path, [made], keep=("rows", "steps"), encoding=encoding), [made])
    with store.open_run(path) as run:
        assert run.step_mass("r").sizes["step"] == 0
        assert run.encoding("r").texts == ("t0",)
        assert run.step_masses().sizes["cell"] == 0
