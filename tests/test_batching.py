"""Memory that runs out, batches that fit it, and writing that overlaps the model."""

import threading
import time

import numpy as np
import pytest
import torch

from attnprobe.attention import recording
from attnprobe.capturing import CaptureSettings, capture, captures, overlapping
from attnprobe.encode import encode
from attnprobe.errors import CertificateError, ModelError, SelectionError
from attnprobe.models import LoadedModel, is_out_of_memory
from attnprobe.workflows import extract as workflow
from attnprobe.workflows.extract import ExtractSettings, extract
from tests.tiny import make_record, make_tokenizer, tiny_llama


@pytest.fixture(scope="module")
def loaded():
    return LoadedModel(tiny_llama(), make_tokenizer(), "tiny")


def encodings_of(loaded, n=7):
    return [encode(make_record(k, length=3 + k), loaded.tokenizer) for k in range(n)]


def refuse_more_than(most, monkeypatch):
    original = captures.capture_batch

    def capture_batch(loaded, encodings, settings, survey):
        if len(encodings) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(loaded, encodings, settings, survey)

    monkeypatch.setattr(captures, "capture_batch", capture_batch)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_batch_that_does_not_fit_is_halved_and_recorded(loaded, monkeypatch, most):
    encodings = encodings_of(loaded)
    whole, halved = [], []
    capture(loaded, encodings, CaptureSettings(batch_size=4), whole)
    refuse_more_than(most, monkeypatch)
    capture(loaded, encodings, CaptureSettings(batch_size=4), halved)
    assert [c.encoding.record.id for c in halved] == [e.record.id for e in encodings]
    assert max(c.batch_size for c in whole) == 4
    assert max(c.batch_size for c in halved) <= most
    for one, other in zip(whole, halved, strict=True):
        np.testing.assert_allclose(one.rows.weights, other.rows.weights, atol=5e-5)


def test_a_record_that_does_not_fit_alone_says_what_to_do(loaded, monkeypatch):
    refuse_more_than(0, monkeypatch)
    with pytest.raises(ModelError) as caught:
        capture(loaded, encodings_of(loaded, 1), CaptureSettings(), [])
    assert str(caught.value).startswith(
        "record 'item-000/coarse': memory does not suffice for this record; got "
    )
    assert "--keep steps" in str(caught.value)


def test_other_errors_are_not_taken_for_missing_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("anything"))
    assert is_out_of_memory(
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
    )
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_the_batch_size_follows_the_free_memory(loaded, monkeypatch, tmp_path):
    sizes = []
    for free in (10**6, 10**8, 10**12):
        monkeypatch.setattr(workflow, "free_memory", lambda _, free=free: free)
        sizes.append(workflow._batch_size(loaded, 100, tmp_path))
    assert sizes == sorted(sizes)
    assert sizes[0] >= 1
    assert sizes[-1] == workflow.MOST_AT_ONCE


def test_a_continued_run_keeps_its_batch_size(loaded, monkeypatch, tmp_path):
    records = [make_record(k) for k in range(6)]
    monkeypatch.setattr(workflow, "free_memory", lambda _: 10**12)

    def stop(done, total):
        if done >= 3:
            raise KeyboardInterrupt

    settings = ExtractSettings(records_per_chunk=2)
    with pytest.raises(KeyboardInterrupt):
        extract(records, loaded, tmp_path / "run", settings, on_progress=stop)
    monkeypatch.setattr(workflow, "free_memory", lambda _: 10**5)
    run = extract(records, loaded, tmp_path / "run", settings)
    assert run.settings["batch_size"] == workflow.MOST_AT_ONCE
    assert run.records["batch_size"].tolist() == [2] * 6


# --- long records --------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [("full",), ("full", "steps", "pooled")])
@pytest.mark.parametrize("heads", [None, (2, 0)])
def test_full_attention_through_a_file_is_the_same(loaded, monkeypatch, keep, heads):
    encodings = encodings_of(loaded, 3)
    settings = CaptureSettings(keep=keep, layers=(0, 2), heads=heads)
    in_memory, through_file = [], []
    capture(loaded, encodings, settings, in_memory)
    monkeypatch.setattr(captures, "FULL_IN_MEMORY", 0)
    monkeypatch.setattr(recording, "BLOCK_WEIGHTS", 4 * 40 * 7)  # seven rows at a time
    capture(loaded, encodings, settings, through_file)
    for one, other in zip(in_memory, through_file, strict=True):
        assert isinstance(other.rows.weights, np.memmap)
        np.testing.assert_allclose(one.rows.weights, other.rows.weights, atol=1e-6)
        for name in ("queries", "start", "length"):
            np.testing.assert_array_equal(getattr(one.rows, name), getattr(other.rows, name))
        for name in ("step_mass", "pooled"):
            if name in keep or (name == "step_mass" and "steps" in keep):
                mine, theirs = getattr(one, name).mass, getattr(other, name).mass
                np.testing.assert_allclose(mine, theirs, atol=1e-6)
        np.testing.assert_array_equal(one.visible, other.visible)
        np.testing.assert_allclose(one.errors, other.errors, atol=1e-5)


def test_streamed_rows_are_certified_too(loaded, monkeypatch):
    monkeypatch.setattr(captures, "FULL_IN_MEMORY", 0)
    monkeypatch.setattr(recording, "BLOCK_WEIGHTS", 4 * 40 * 7)
    original = recording.softmax_rows
    monkeypatch.setattr(recording, "softmax_rows", lambda *args: original(*args).roll(1, 1))
    with pytest.raises(CertificateError, match="not what the model used"):
        capture(loaded, encodings_of(loaded, 1), CaptureSettings(keep=("full",)), [])


def test_a_long_record_goes_into_the_run_whole(loaded, monkeypatch, tmp_path):
    from attnprobe.store import shardwriter

    records = [make_record(1, length=30)]
    settings = ExtractSettings(keep=("full",))
    plain = extract(records, loaded, tmp_path / "a", settings)
    monkeypatch.setattr(captures, "FULL_IN_MEMORY", 0)
    monkeypatch.setattr(shardwriter, "ALL_HEADS", 0)
    streamed = extract(records, loaded, tmp_path / "b", settings)
    one, other = (run.weights(records[0].id).values for run in (plain, streamed))
    np.testing.assert_array_equal(one, other)


def test_only_attending_layers_are_in_the_run_of_a_hybrid(tmp_path):
    from tests.architectures.zoo import ZOO

    hybrid = LoadedModel(widened(ZOO["lfm2"]()), make_tokenizer(), "hybrid")
    run = extract([make_record(1)], hybrid, tmp_path / "run")
    assert run.layers == (1,)
    settings = ExtractSettings(layers=(0,))
    with pytest.raises(SelectionError, match="--layers: the model has no such layer; got 0"):
        extract([make_record(1)], hybrid, tmp_path / "other", settings)


def widened(model):
    """Give a model of the zoo the tokenizer's vocabulary."""
    model.resize_token_embeddings(300)
    return model


class SlowSink:
    def __init__(self, fail_at=None):
        self.taken, self.threads, self.fail_at = [], set(), fail_at

    def append(self, capture):
        time.sleep(0.01)
        self.threads.add(threading.current_thread().name)
        if len(self.taken) == self.fail_at:
            raise OSError(28, "No space left on device")
        self.taken.append(capture)


@pytest.fixture(scope="module")
def some(loaded):
    """Twenty captures."""
    taken = []
    capture(loaded, encodings_of(loaded, 20), CaptureSettings(), taken)
    return taken


def test_captures_pass_through_another_thread_in_order(some):
    sink = SlowSink()
    with overlapping(sink) as ours:
        for number, one in enumerate(some):
            ours.append(one)
            assert number - len(sink.taken) <= 4  # the model waits for a slow disk
    assert [one is other for one, other in zip(sink.taken, some, strict=True)] == [True] * 20
    assert sink.threads == {"attnprobe-writer"}


def feed(sink, captures):
    with overlapping(sink) as ours:
        for one in captures:
            ours.append(one)


@pytest.mark.parametrize(("fail_at", "n"), [(0, 20), (5, 20), (3, 4)])
def test_an_error_of_the_sink_reaches_the_model(fail_at, n, some):
    with pytest.raises(OSError, match="No space left"):
        feed(SlowSink(fail_at), some[:n])
    assert "attnprobe-writer" not in [thread.name for thread in threading.enumerate()]


def test_an_error_of_the_model_drops_what_waits(some):
    sink = SlowSink()

    def fail():
        with overlapping(sink) as ours:
            for one in some[:3]:
                ours.append(one)
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    assert len(sink.taken) <= 3
    assert "attnprobe-writer" not in [thread.name for thread in threading.enumerate()]
