"""Listing, labels, selections, and what is said when something is not there."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attnprobe import store
from attnprobe.errors import MeasureError, SelectionError
from attnprobe.store import opened, reader
from tests.store.builders import (
    causal_weights,
    chunked,
    make_capture,
    make_captures,
    make_encoding,
    make_record,
    make_run,
    open_writer,
    write_missing,
)

COARSE, STEPWISE = "task0-000/coarse", "task0-000/stepwise"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = make_run(tmp_path_factory.mktemp("reader") / "run", tasks=2)
    with store.open_run(path) as opened:
        yield opened


def test_listing_opens_no_shard(monkeypatch, run):
    monkeypatch.setattr(reader.Shard, "open", None)
    with store.open_run(run.path) as fresh:
        records = fresh.records
        fresh.info()
        repr(fresh)
    assert records.index.name == "id"
    assert list(records.columns) == [
        "item", "style", "task", "split", "n_prompt", "n_tokens", "n_steps", "batch_size",
        "worst_error", "shard",
    ]  # fmt: skip
    first = records.loc[COARSE]
    assert (first["item"], first["style"], first["task"]) == ("task0-000", "coarse", "task_0")
    assert (first.n_steps, first["shard"]) == (3, "chunk-00000.h5")
    assert first.worst_error == pytest.approx(3e-5)


def test_info_says_what_there_is(run):
    info = run.info()
    json.dumps(info, allow_nan=False)
    assert info["complete"] is True
    assert info["records"] == {"sealed": 8, "planned": 8}
    assert info["styles"] == {"coarse": 4, "stepwise": 4}
    assert info["tasks"] == {"task_0": 4, "task_1": 4}
    assert info["items"] == 4
    assert info["keep"] == ["rows", "pooled"]
    assert info["counts"]["step"] == info["steps"] == 4 * 3 + 4 * 7
    assert info["bytes"] == (run.path / "shards/chunk-00000.h5").stat().st_size
    assert repr(run).endswith("8 records, 2 layers × 3 heads, keep rows+pooled, complete)")


def test_weights_carry_texts_and_roles(run):
    array = run.weights(STEPWISE)
    encoding = run.encoding(STEPWISE)
    assert array.attrs["units"] == "probability"
    assert tuple(array["key_text"].values) == encoding.texts
    roles = [span.role for span in encoding.spans for _ in range(len(span))]
    assert array["key_role"].values.tolist() == roles
    assert array["query_role"].values.tolist() == [roles[q] for q in encoding.step_queries]
    assert array["query_text"].values.tolist() == [encoding.texts[q] for q in encoding.step_queries]
    assert np.allclose(array.sum("key"), 1, atol=1e-3)


def test_step_mass_carries_roles_of_predicted_tokens_and_groups(run):
    mass, encoding = run.step_mass(STEPWISE), run.encoding(STEPWISE)
    assert mass["step_role"].values.tolist() == ["step_1"] * 2 + ["step_2"] * 2 + ["answer"] * 3
    assert mass["step_text"].values.tolist() == list(encoding.texts[encoding.n_prompt :])
    groups = encoding.groups
    assert mass["role"].values.tolist() == [encoding.spans[g.span].role for g in groups]
    assert mass["is_sink"].values.tolist() == [g.is_sink for g in groups]
    assert mass["group_start"].values.tolist() == [g.start for g in groups]
    assert mass["group_stop"].values.tolist() == [g.stop for g in groups]
    # A causal mask leaves query + 1 keys visible.
    assert (mass["visible"].sum("group").values == np.array(encoding.step_queries) + 1).all()
    assert np.allclose(mass.sum("group"), 1, atol=1e-3)


def test_pooled_speaks_of_every_query(run):
    pooled, encoding = run.pooled(COARSE), run.encoding(COARSE)
    assert pooled.dims == ("layer", "head", "query", "group")
    assert pooled.sizes["query"] == encoding.n_tokens
    assert (pooled["visible"].sum("group").values == np.arange(encoding.n_tokens) + 1).all()
    steps = pooled.sel(query=list(encoding.step_queries)).values
    assert np.allclose(steps, run.step_mass(COARSE).values, atol=1e-3)


def test_predictions_are_labelled(run):
    table, encoding = run.predictions(COARSE), run.encoding(COARSE)
    assert table["target"].values.tolist() == encoding.ids[encoding.n_prompt :].tolist()
    assert table["predicted"].values.tolist() == (encoding.ids[encoding.n_prompt :] + 1).tolist()
    assert table["log_prob"].attrs["units"] == "nat"
    assert table["log_prob"].values[0] == -0.5


@pytest.mark.parametrize(
    ("layer", "head"),
    [(1, 2), ([1, 0], None), (None, [2, 0]), (np.int64(1), range(2)), (1, [1, 1])],
)
def test_selections_keep_order_and_dims(run, layer, head):
    def numbers(wanted, there):
        return there if wanted is None else np.atleast_1d(np.array(wanted)).tolist()

    layers, heads = numbers(layer, [0, 1]), numbers(head, [0, 1, 2])
    part, whole = run.weights(COARSE, layer=layer, head=head), run.weights(COARSE)
    assert part["layer"].values.tolist() == layers
    assert part["head"].values.tolist() == heads
    assert np.array_equal(part.values, whole.values[layers][:, heads])
    visible = run.step_mass(COARSE, layer=layer, head=head)["visible"].values
    assert np.array_equal(visible, run.step_mass(COARSE)["visible"].values[layers])


def test_layers_go_by_their_number_in_the_model(tmp_path):
    captures = make_captures(tasks=1, items_per_task=1)
    plan = [[store.PlannedRecord.of(c.encoding) for c in captures]]
    settings = {"keep": ["rows"], "encoding": "u16"}
    writer = store.RunWriter.open(tmp_path / "run", settings, {}, (5, 9), (0, 2, 7), plan)
    with writer.chunk(0) as sink:
        for capture in captures:
            sink.append(capture)
    with store.open_run(tmp_path / "run") as run:
        assert (run.layers, run.heads) == ((5, 9), (0, 2, 7))
        part = run.weights(COARSE, layer=9, head=7)
        assert np.array_equal(part.values[0, 0], run.weights(COARSE).values[1, 2])
        with pytest.raises(SelectionError, match=r"layer 0 is not stored; expected one of 5, 9"):
            run.weights(COARSE, layer=0)
        with pytest.raises(SelectionError, match=r"head 3 is not stored; expected one of 0, 2, 7"):
            run.step_mass(COARSE, head=[0, 3])
        with pytest.raises(SelectionError, match=r"no head was asked for"):
            run.step_mass(COARSE, head=[])


def test_an_unknown_record_names_the_nearest(run):
    with pytest.raises(SelectionError) as error:
        run.weights("task0-000/coarze")
    assert str(error.value).startswith(
        f"{run.path}: no record 'task0-000/coarze'; did you mean 'task0-000/coarse'? there is: "
    )
    with pytest.raises(SelectionError, match="no record 'x'"):
        next(run.iter_step_mass(["x"]))


@pytest.mark.parametrize(
    ("keep", "call", "text"),
    [
        ("pooled", "weights", "does not hold attention rows; extract again with --keep rows"),
        ("steps", "weights", "does not hold attention rows; extract again with --keep rows"),
        ("rows", "pooled", "the attention of every query; extract again with --keep pooled"),
        ("steps", "pooled", "the attention of every query; extract again with --keep pooled"),
    ],
)
def test_what_was_not_kept_is_named(tmp_path, keep, call, text):
    run = make_run(tmp_path / "run", tasks=1, items_per_task=1, keep=(keep,))
    with store.open_run(run) as opened, pytest.raises(MeasureError, match=text) as error:
        getattr(opened, call)(COARSE)
    assert str(error.value).startswith(f"record '{COARSE}': the run does not hold ")


def test_many_shards_stay_few_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(opened, "MAX_OPEN", 2)
    captures = make_captures(tasks=2)
    writer = open_writer(tmp_path / "run", captures, chunk_size=2)
    for index, chunk in enumerate(chunked(captures, 2)):
        with writer.chunk(index) as sink:
            for capture in chunk:
                sink.append(capture)
    writer.complete()
    with store.open_run(tmp_path / "run") as run:
        for record_id, mass in run.iter_step_mass():
            run.weights(COARSE)
            assert mass.attrs["record"] == record_id
            assert len(run._shards) <= 2


def test_writing_needs_neither_xarray_nor_torch():
    code = (
        "import sys, attnprobe.store; "
        "print(sorted({'xarray', 'pandas', 'torch', 'scipy'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_unknown_names_of_the_package_are_named():
    with pytest.raises(AttributeError, match=r"'attnprobe\.store' has no attribute 'nothing'"):
        store.nothing  # noqa: B018


def test_builders_make_honest_encodings():
    for style in ("coarse", "stepwise"):
        encoding = make_encoding(make_record(style, 0, 0, np.random.default_rng(0)))
        roles = [span.role for span in encoding.spans]
        assert ("coarse_history" in roles) == (style == "coarse")
        assert ("step_1" in roles) == (style == "stepwise")
        assert roles[-1] == "answer"


def test_a_record_without_a_target_has_no_steps_but_no_fault_either(tmp_path):
    rng = np.random.default_rng(0)
    records = [make_record("coarse", 0, item, rng) for item in range(2)]
    records[0] = replace(records[0], target=())
    encodings = [make_encoding(record) for record in records]
    captures = [make_capture(e, causal_weights(e, 2, 3, rng)) for e in encodings]
    write_missing(open_writer(tmp_path / "run", captures), captures)
    with store.open_run(tmp_path / "run") as run:
        sizes = {record_id: mass.sizes["step"] for record_id, mass in run.iter_step_mass()}
        assert list(sizes.values()) == [0, 3]
        assert run.weights(records[0].id).sizes["query"] == 0
        assert run.pooled(records[0].id).sizes["query"] == encodings[0].n_tokens
