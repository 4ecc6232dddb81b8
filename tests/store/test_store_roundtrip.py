"""What goes in comes out, whatever its shape."""

import gc
import tempfile
import time
import weakref
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprobe import store
from attnprobe.store import layout, shardwriter, stretches
from attnprobe.types import Capture, Encoding, Masses, Record, Rows, Segment, Span
from tests.store.builders import (
    causal_weights,
    group_sums,
    make_captures,
    make_run,
    open_writer,
    write_missing,
)

ALL = ("rows", "steps", "pooled")
BOUND = 1.6e-5


@pytest.fixture(scope="module")
def captures():
    return make_captures(tasks=2)


@pytest.fixture(scope="module")
def run(captures, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "run"
    write_missing(open_writer(path, captures, keep=ALL, chunk_size=3), captures, chunk_size=3)
    with store.open_run(path) as opened:
        yield opened


def test_every_encoding_comes_back_exactly(run, captures):
    for capture in captures:
        there = capture.encoding
        back = run.encoding(there.record.id)
        assert back.record == there.record
        assert back.ids.tolist() == there.ids.tolist()
        assert (back.texts, back.spans, back.sinks) == (there.texts, there.spans, there.sinks)
        assert (back.digest, back.groups) == (there.digest, there.groups)


def test_weights_are_the_captured_rows(run, captures):
    for capture in captures:
        array = run.weights(capture.encoding.record.id)
        assert array.dims == ("layer", "head", "query", "key")
        assert array["query"].values.tolist() == capture.rows.queries.tolist()
        assert abs(array.values - dense(capture)).max() <= BOUND
        assert not array.values[dense(capture) == 0].any()


def dense(capture: Capture) -> np.ndarray:
    """Rows as [layer, head, row, key], one by one."""
    rows = capture.rows
    square = np.zeros((*rows.weights.shape[:2], len(rows.queries), capture.encoding.n_tokens))
    at = 0
    for row, (start, length) in enumerate(zip(rows.start, rows.length, strict=True)):
        square[:, :, row, start : start + length] = rows.weights[:, :, at : at + length]
        at += length
    return square


def test_masses_agree_whatever_they_are_read_from(tmp_path, captures):
    encoding = captures[0].encoding
    expected = captures[0].step_mass.mass
    for keep in ALL:
        path = tmp_path / keep
        write_missing(open_writer(path, captures[:2], keep=(keep,)), captures[:2])
        with store.open_run(path) as run:
            mass = run.step_mass(encoding.record.id)
        assert mass.dims == ("layer", "head", "step", "group")
        # From rows, the errors of all keys of a group add up.
        bound = BOUND if keep != "rows" else np.sqrt(encoding.n_tokens) / 65535
        assert abs(mass.values - expected).max() <= bound
        assert mass["visible"].values.shape == (2, encoding.n_steps, len(encoding.groups))


def test_iterating_gives_the_same_as_asking_one_by_one(run):
    ids = run.records.index.tolist()
    for record_id, mass in run.iter_step_mass(layer=1, head=[2, 0]):
        assert record_id == ids.pop(0)
        assert mass.identical(run.step_mass(record_id, layer=1, head=[2, 0]))
    assert ids == []


@pytest.mark.parametrize("keep", ALL)
def test_windows_smaller_than_a_record_change_nothing(monkeypatch, tmp_path, captures, keep):
    monkeypatch.setattr(layout, "PAIRS_PER_CHUNK", 64)
    monkeypatch.setattr(shardwriter, "ONE_CHUNK_BYTES", 0)
    monkeypatch.setattr(stretches, "WINDOW_BYTES", 5000)
    write_missing(open_writer(tmp_path / "run", captures, keep=(keep,)), captures)
    with store.open_run(tmp_path / "run") as run:
        ids = [record_id for i, record_id in enumerate(run.records.index) if i != 2]
        seen = dict(run.iter_step_mass(ids[::-1]))
        assert list(seen) == ids
        for record_id in ids:
            assert seen[record_id].identical(run.step_mass(record_id))


@dataclass
class Odd:
    """What an odd capture is made of; plain, because strategies must not build checked values."""

    n: int
    n_prompt: int
    cuts: list[int]
    sinks: list[int]
    texts: list[str]
    generated: str | None
    rows: list[tuple[int, int]]
    """First key and length of each row."""


@st.composite
def odd(draw):
    """Rows that start late, stop early, leave keys out; records of one token or without steps."""
    n = draw(st.integers(1, 9))
    n_prompt = draw(st.integers(1, n))
    starts = [draw(st.integers(0, n - 1)) for _ in range(n - n_prompt)]
    return Odd(
        n=n,
        n_prompt=n_prompt,
        cuts=sorted({0, n_prompt, n, *draw(st.lists(st.integers(0, n), max_size=3))}),
        sinks=sorted(draw(st.sets(st.integers(0, n - 1), max_size=3))),
        texts=draw(st.lists(st.text(max_size=4), min_size=n, max_size=n)),
        generated=draw(st.none() | st.text(max_size=4)),
        rows=[(start, draw(st.integers(1, n - start))) for start in starts],
    )


def spread(*shape):
    """Different values in [0, 1)."""
    return (np.arange(np.prod(shape), dtype=np.float32) * np.float32(0.618) % 1).reshape(shape)


def odd_capture(odd: Odd, number: int, n_layers: int, n_heads: int) -> Capture:
    record = Record(
        id=f"r{number}", item="i", style="s", prompt=(Segment("role", odd.texts[0]),),
        joiner=odd.texts[-1], meta={"any": [odd.texts[0], None, 1.5, {"deep": True}]},
    )  # fmt: skip
    encoding = Encoding(
        record, np.arange(odd.n, dtype=np.int32), tuple(odd.texts),
        tuple(Span(a, b, f"role_{a % 2}") for a, b in pairwise(odd.cuts)),
        odd.n_prompt, tuple(odd.sinks), odd.generated,
    )  # fmt: skip
    queries, n_groups = np.array(encoding.step_queries, np.int32), len(encoding.groups)
    starts, lengths = (np.array([row[i] for row in odd.rows], np.int32) for i in (0, 1))
    weights = spread(n_layers, n_heads, int(lengths.sum()))
    weights[..., ::3], weights[..., 1::5] = 0, 1
    return Capture(
        encoding=encoding,
        visible=np.ones((n_layers, len(queries), n_groups), np.int32),
        visible_queries=queries,
        log_probs=np.full(encoding.n_steps, -np.inf, np.float32),
        predicted=np.zeros(encoding.n_steps, np.int32),
        errors=np.zeros(n_layers, np.float32),
        rows=Rows(queries, starts, lengths, weights),
        step_mass=Masses(queries, spread(n_layers, n_heads, len(queries), n_groups)),
    )


@settings(max_examples=12, deadline=None)
@given(
    odds=st.lists(odd(), min_size=1, max_size=3),
    n_layers=st.integers(1, 2),
    n_heads=st.integers(1, 3),
    encoding=st.sampled_from(["u16", "u8", "f32"]),
)
def test_odd_shapes_come_back(odds, n_layers, n_heads, encoding):
    captures = [odd_capture(one, i, n_layers, n_heads) for i, one in enumerate(odds)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run")
        keep = ("rows", "steps")
        writer = open_writer(path, captures, keep=keep, encoding=encoding)
        write_missing(writer, captures)
        with store.open_run(path) as run:
            for capture in captures:
                assert_comes_back(run, capture, store.CODES[encoding].max_error)


def assert_comes_back(run, capture, bound):
    there, record_id = capture.encoding, capture.encoding.record.id
    back = run.encoding(record_id)
    assert (back.record, back.texts, back.groups) == (there.record, there.texts, there.groups)
    assert (back.generated, back.digest) == (there.generated, there.digest)
    assert run.predictions(record_id).sizes["step"] == there.n_steps
    assert run.step_mass(record_id).sizes["step"] == there.n_steps
    if there.n_steps:
        weights, expected = run.weights(record_id).values, dense(capture)
        assert abs(weights - expected).max() <= bound
        assert (weights[expected == 0] == 0).all()
        assert (weights[expected == 1] == 1).all()
        assert abs(run.step_mass(record_id).values - capture.step_mass.mass).max() <= bound


def test_masses_from_rows_that_leave_keys_out(tmp_path):
    # Rows see a window only, so most groups lie outside of some rows.
    [capture] = make_captures(tasks=1, items_per_task=1, styles=("coarse",))
    encoding, steps = capture.encoding, np.array(capture.encoding.step_queries)
    weights = causal_weights(encoding, 2, 3, np.random.default_rng(0))
    start = steps - 5
    for row, query in enumerate(steps):
        weights[:, :, query, : start[row]] = 0
    pairs = [weights[:, :, q, s : q - 1] for q, s in zip(steps, start, strict=True)]
    windowed = Capture(
        encoding, capture.visible, capture.visible_queries, capture.log_probs, capture.predicted,
        capture.errors,
        rows=Rows(
            steps.astype(np.int32), start.astype(np.int32), np.full(len(steps), 4, np.int32),
            np.concatenate(pairs, axis=-1),
        ),
    )  # fmt: skip
    write_missing(open_writer(tmp_path / "run", [windowed], keep=("rows",)), [windowed])
    for row, query in enumerate(steps):
        weights[:, :, query, start[row] + 4 :] = 0
    with store.open_run(tmp_path / "run") as run:
        mass = run.step_mass(encoding.record.id).values
    assert abs(mass - group_sums(encoding, weights)[:, :, steps]).max() <= 1e-4


def test_the_same_captures_give_the_same_bytes(tmp_path, captures):
    write_missing(open_writer(tmp_path / "a", captures), captures)
    time.sleep(1.1)  # whole seconds would show if HDF5 stored when it wrote
    write_missing(open_writer(tmp_path / "b", captures), captures)
    for file in sorted((tmp_path / "a/shards").iterdir()):
        assert file.read_bytes() == (tmp_path / "b/shards" / file.name).read_bytes()


def test_make_run_plants_its_effect(tmp_path):
    def answer_mass(path):
        with store.open_run(path) as run:
            mass = run.step_mass("task0-000/coarse")
        return mass[:, :, mass.step_role == "answer", mass.role == "history"].sum("group").mean()

    without, planted = (
        make_run(tmp_path / "a", tasks=1),
        make_run(tmp_path / "b", tasks=1, effect=2.0),
    )
    assert answer_mass(planted) > 1.5 * answer_mass(without)


def test_make_run_makes_a_complete_run(tmp_path):
    with store.open_run(make_run(tmp_path / "run")) as run:
        assert run.complete
        assert len(run.records) == 24


def test_a_shard_that_is_closed_leaves_nothing_in_memory(tmp_path):
    captures = make_captures(tasks=1)
    writer = open_writer(tmp_path / "run", captures)
    gc.collect()
    gc.disable()
    try:
        with writer.chunk(0) as sink:
            for capture in captures[: len(writer.manifest.plan[0])]:
                sink.append(capture)
            seen = weakref.ref(sink)
        del sink
        assert seen() is None
    finally:
        gc.enable()
