"""The way from a dataset to a run: planning, resuming, refusing."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import attnprobe
from attnprobe.encode import encode
from attnprobe.errors import (
    CertificateError,
    EncodeError,
    RecordError,
    SelectionError,
    StoreError,
)
from attnprobe.models import LoadedModel
from attnprobe.records import write_records
from attnprobe.workflows.extract import ExtractSettings, extract, plan
from tests.tiny import make_record, make_tokenizer, save_model, tiny_llama

CHUNKS_OF_2 = ExtractSettings(keep=("rows", "pooled"), records_per_chunk=2)


@pytest.fixture(scope="module")
def loaded():
    return LoadedModel(tiny_llama(), make_tokenizer(), "tiny")


def records(n=5):
    return [make_record(i, style) for i in range(n) for style in ("coarse", "stepwise")]


def decoded(run):
    """Everything a run says, as plain values."""
    with run:
        return {
            record: (
                run.weights(record).values,
                run.pooled(record).values if "pooled" in run.keep else None,
                run.predictions(record).log_prob.values,
            )
            for record in run.records.index
        }


def assert_identical(one, other):
    assert one.keys() == other.keys()
    for record, arrays in one.items():
        for a, b in zip(arrays, other[record], strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_plan_follows_the_order_and_both_limits(loaded):
    encodings = [encode(record, loaded.tokenizer) for record in records()]
    chunks = plan(iter(encodings), 4)
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    assert [r.id for chunk in chunks for r in chunk] == [e.record.id for e in encodings]
    long = [encode(make_record(i, length=5000), loaded.tokenizer) for i in range(4)]
    assert 11_000 < min(encoding.n_tokens for encoding in long) < 16_384  # two fit into a chunk
    assert [len(chunk) for chunk in plan(iter(long), 64)] == [2, 2]


def test_a_run_holds_what_the_model_did(loaded, tmp_path):
    run = extract(records(2), loaded, tmp_path / "run", CHUNKS_OF_2)
    assert run.complete
    assert list(run.records.index) == [record.id for record in records(2)]
    assert run.records["task"].tolist() == ["task-0", "task-0", "task-1", "task-1"]
    weights = run.weights("item-001/coarse", layer=2)
    np.testing.assert_allclose(weights.sum("key"), 1, atol=1e-3)
    encoding = run.encoding("item-001/coarse")
    assert encoding.record.meta == {"answer": [80, 93, 107], "名": "数列"}
    assert encoding.spans == encode(make_record(1), loaded.tokenizer).spans
    info = run.info()
    assert info["model"]["n_kv_heads"] == 2
    assert info["settings"]["versions"]["transformers"].startswith("5.")


def test_from_a_file_and_from_records_gives_the_same(loaded, tmp_path):
    write_records(records(2), tmp_path / "data.jsonl")
    one = extract(tmp_path / "data.jsonl", loaded, tmp_path / "a", CHUNKS_OF_2)
    other = extract(records(2), loaded, tmp_path / "b", CHUNKS_OF_2)
    assert_identical(decoded(one), decoded(other))


class InterruptionError(Exception):
    pass


def interrupt_after(n):
    def progress(done, total):
        if done >= n:
            raise InterruptionError

    return progress


@pytest.mark.parametrize("after", [1, 4, 7])
def test_an_interrupted_run_ends_as_if_it_had_never_stopped(loaded, tmp_path, after):
    whole = extract(records(), loaded, tmp_path / "whole", CHUNKS_OF_2)
    with pytest.raises(InterruptionError):
        extract(
            records(), loaded, tmp_path / "cut", CHUNKS_OF_2, on_progress=interrupt_after(after)
        )
    with attnprobe.open_run(tmp_path / "cut") as unfinished:
        assert not unfinished.complete
        assert len(unfinished.records) == (after - 1) // 2 * 2
    calls = []
    again = extract(
        records(), loaded, tmp_path / "cut", CHUNKS_OF_2,
        on_progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert calls[0] == ((after - 1) // 2 * 2, 10)
    assert calls[-1] == (10, 10)
    assert_identical(decoded(whole), decoded(again))


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from attnprobe.workflows.extract import ExtractSettings, extract
data, model, out = sys.argv[1:]
settings = ExtractSettings(keep=("rows", "pooled"), records_per_chunk=2, device="cpu")
extract(data, model, out, settings, on_progress=lambda done, total: print(done, flush=True))
"""


def test_kill_minus_nine_in_the_middle_loses_one_chunk_at_most(tmp_path):
    save_model(tmp_path / "model")
    write_records(records(20), tmp_path / "data.jsonl")

    def command(out):
        arguments = [str(tmp_path / name) for name in ("data.jsonl", "model", out)]
        return [sys.executable, "-c", SCRIPT, *arguments]

    subprocess.run(command("whole"), check=True, capture_output=True)
    for kill_at in (3, 12, 25):
        process = subprocess.Popen(command("cut"), stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if int(line) >= kill_at:
                os.kill(process.pid, signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        with attnprobe.open_run(tmp_path / "cut") as run:
            assert kill_at - 3 <= len(run.records) < 40
            assert not run.complete
    subprocess.run(command("cut"), check=True, capture_output=True)
    assert_identical(
        decoded(attnprobe.open_run(tmp_path / "whole")),
        decoded(attnprobe.open_run(tmp_path / "cut")),
    )
    for shard in sorted((tmp_path / "whole" / "shards").glob("*.h5")):
        assert shard.read_bytes() == (tmp_path / "cut" / "shards" / shard.name).read_bytes()
    assert not list((tmp_path / "cut").rglob("*.tmp"))


def test_a_finished_run_is_not_run_again(loaded, tmp_path):
    extract(records(2), loaded, tmp_path / "run", CHUNKS_OF_2).close()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.h5")}
    time.sleep(0.01)
    extract(records(2), loaded, tmp_path / "run", CHUNKS_OF_2).close()
    assert before == {path: path.stat().st_mtime_ns for path in before}


def fault(error, *args, **kwargs):
    with pytest.raises(error) as caught:
        extract(*args, **kwargs)
    return str(caught.value)


def test_other_settings_another_model_or_other_data_are_refused(loaded, tmp_path):
    run = tmp_path / "run"
    extract(records(2), loaded, run, CHUNKS_OF_2).close()
    other = ExtractSettings(keep=("rows",), records_per_chunk=2)
    message = fault(StoreError, records(2), loaded, run, other)
    assert "keep" in message
    assert "rows" in message
    stranger = LoadedModel(tiny_llama(seed=7), make_tokenizer(), "tiny")
    assert "fingerprint" in fault(StoreError, records(2), stranger, run, CHUNKS_OF_2)
    changed = [*records(2)[:3], make_record(9, "stepwise")]
    assert "item-009/stepwise" in fault(StoreError, changed, loaded, run, CHUNKS_OF_2)
    replaced = extract(records(2), loaded, run, other, overwrite=True)
    assert replaced.keep == ("rows",)


def test_bad_requests_are_refused_with_what_there_is(loaded, tmp_path):
    with pytest.raises(SelectionError) as caught:
        ExtractSettings(keep=("row",))
    assert str(caught.value) == (
        "--keep: unknown kind of capture; got row; did you mean 'rows'? there is: full, pooled, "
        "rows, steps, value_norms."
    )
    with pytest.raises(SelectionError, match="--decode: unknown decoding; got sampel"):
        ExtractSettings(decode="sampel")
    with pytest.raises(SelectionError, match="--encoding: unknown encoding; got u17"):
        ExtractSettings(encoding="u17")
    with pytest.raises(SelectionError, match="--batch-size: too small; got 0"):
        ExtractSettings(batch_size=0)
    assert fault(
        SelectionError, records(1), loaded, tmp_path / "r", ExtractSettings(layers=(0, 3))
    ) == ("--layers: the model has no such layer; got 3, expected 0 to 2.")
    assert "no records to extract" in fault(RecordError, [], loaded, tmp_path / "r")
    assert "longer than the model's context" in fault(
        EncodeError, [make_record(length=600)], loaded, tmp_path / "r"
    )
    assert not (tmp_path / "r").exists()


def test_the_canary_runs_once_per_model_settings_and_versions(loaded, tmp_path, monkeypatch):
    from attnprobe.workflows import extract as workflow

    monkeypatch.setenv("ATTNPROBE_CACHE", str(tmp_path / "cache"))
    ran = []
    monkeypatch.setattr(workflow, "check_canary", lambda model, keep, *_: ran.append(tuple(keep)))
    extract(records(1), loaded, tmp_path / "a").close()
    extract(records(1), loaded, tmp_path / "b").close()
    assert ran == [("rows",)]
    extract(records(1), loaded, tmp_path / "c", ExtractSettings(keep=("pooled",))).close()
    stranger = LoadedModel(tiny_llama(seed=3), make_tokenizer(), "tiny")
    extract(records(1), stranger, tmp_path / "d").close()
    assert ran == [("rows",), ("pooled",), ("rows",)]
    monkeypatch.setattr(workflow.importlib.metadata, "version", lambda _: "0.0.new")
    extract(records(1), loaded, tmp_path / "e").close()
    assert len(ran) == 4


def test_a_failing_canary_is_not_noted(loaded, tmp_path, monkeypatch):
    from attnprobe.attention import compat

    monkeypatch.setenv("ATTNPROBE_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(compat, "_mask", lambda *args, **kwargs: None)
        for _ in range(2):
            with pytest.raises(CertificateError, match="answers differently"):
                extract(records(1), loaded, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.h5*"))


def test_a_failing_certificate_stores_nothing(loaded, tmp_path, monkeypatch):
    from attnprobe.attention import recording

    original = recording.softmax_rows
    monkeypatch.setattr(recording, "softmax_rows", lambda *args: original(*args).roll(1, dims=-1))
    with pytest.raises(CertificateError):
        extract(records(1), loaded, tmp_path / "run", CHUNKS_OF_2)
    assert not list((tmp_path / "run").rglob("*.h5*"))
