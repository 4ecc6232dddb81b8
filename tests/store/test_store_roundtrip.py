import numpy as np
import pytest

from attnprobe import store
from tests.store.builders import make_captures, make_run, open_writer, write_missing


@pytest.fixture(scope="module")
def captures():
    return make_captures(tasks=2)


@pytest.fixture(scope="module")
def run(captures, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "run"
    writer = open_writer(path, captures, keep=("rows", "steps", "pooled"), chunk_size=3)
    write_missing(writer, captures, chunk_size=3)
    with store.open_run(path) as opened:
        yield opened


def test_every_encoding_comes_back_exactly(run, captures):
    for capture in captures:
        there = capture.encoding
        back = run.encoding(there.record.id)
        assert back.record == there.record
        assert back.ids.tolist() == there.ids.tolist()
        assert (back.texts, back.spans, back.sinks) == (there.texts, there.spans, there.sinks)
        assert back.digest == there.digest


def test_weights_are_the_captured_rows(run, captures):
    for capture in captures:
        rows, there = capture.rows, capture.encoding
        array = run.weights(there.record.id)
        assert array.dims == ("layer", "head", "query", "key")
        assert array.shape == (2, 3, there.n_steps, there.n_tokens)
        assert array["query"].values.tolist() == rows.queries.tolist()
        stop = np.cumsum(rows.length)
        for r, query in enumerate(rows.queries):
            stored = array.values[:, :, r]
            expected = rows.weights[:, :, stop[r] - rows.length[r] : stop[r]]
            assert abs(stored[..., : query + 1] - expected).max() <= 1.6e-5
            assert not stored[..., query + 1 :].any()


def test_make_run_makes_a_complete_run(tmp_path):
    with store.open_run(make_run(tmp_path / "run")) as run:
        assert run.complete
        assert len(run.records) == 24
        ids = [record_id for record_id, _ in run.iter_step_mass()]
        assert ids == run.records.index.tolist()
