"""Runs of every format version that was ever written are still read, and read the same."""

from pathlib import Path

import numpy as np
import pytest

from attnprobe import store
from tests.store.builders import make_captures
from tests.store.sample import write_sample

DATA = Path(__file__).parents[1] / "data"
SAMPLES = sorted(DATA.glob("run-*"))


def test_there_is_a_sample_of_this_version():
    assert f"run-{'.'.join(map(str, store.FORMAT_VERSION))}" in {path.name for path in SAMPLES}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_old_runs_are_read(path):
    assert store.verify(path, full=True).faults == ()
    captures = make_captures(tasks=1, items_per_task=1, n_heads=2)
    with store.open_run(path) as run:
        assert run.records.index.tolist() == [c.encoding.record.id for c in captures]
        for capture in captures:
            encoding, record_id = capture.encoding, capture.encoding.record.id
            assert run.encoding(record_id).digest == encoding.digest
            rows, masses = capture.rows, capture.pooled
            assert rows is not None
            assert masses is not None
            weights = run.weights(record_id).values
            for row, query in enumerate(rows.queries):
                stop = int(rows.length[: row + 1].sum())
                there = rows.weights[..., stop - query - 1 : stop]
                assert np.abs(weights[:, :, row, : query + 1] - there).max() <= 1.6e-5
            pooled = run.pooled(record_id).values
            assert np.abs(pooled - masses.mass).max() <= 1.6e-5
            assert np.array_equal(run.predictions(record_id).log_prob, capture.log_probs)


def test_the_sample_of_this_version_is_written_alike(tmp_path):
    """Compressed bytes depend on the library; the manifest names all that does not."""
    write_sample(tmp_path / "run")
    version = ".".join(map(str, store.FORMAT_VERSION))
    new, old = (store.read_manifest(path) for path in (tmp_path / "run", DATA / f"run-{version}"))
    assert new.settings_hash == old.settings_hash
    assert new.plan == old.plan
    assert [r.counts for r in new.receipts] == [r.counts for r in old.receipts]
    assert [r.records for r in new.receipts] == [r.records for r in old.receipts]
