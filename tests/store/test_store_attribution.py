"""Attributions in a run: stored exactly, labelled, checked on the way in and on the way out."""

import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

from attnprobe import store
from attnprobe.errors import FormatError, SelectionError, StoreError
from attnprobe.store.exporting import export
from attnprobe.store.layout import RAGGED
from attnprobe.store.manifest import Manifest
from attnprobe.types import Attribution, is_source
from tests.store.builders import chunked, make_captures, open_writer, write_missing

PARAMS = {
    "alpha": {"target": "logprob", "unit": "nat"},
    "beta_2": {"target": "logit", "unit": "logit", "points": 8},
}
SETTINGS = {"attribute": ["alpha", "beta_2"], "attribute_params": PARAMS}


def attributed(capture, seed, methods=tuple(PARAMS)):
    """A capture with random scores; `alpha` has no delta."""
    rng, encoding = np.random.default_rng(seed), capture.encoding
    made = {}
    for method in methods:
        shape = (encoding.n_steps, encoding.n_tokens)
        scores = rng.normal(size=shape).astype(np.float32)
        scores[~is_source(encoding.n_prompt, encoding.n_steps)] = np.nan
        delta = rng.normal(size=shape[:1]).astype(np.float32)
        if method == "alpha":
            delta[:] = np.nan
        made[method] = Attribution(scores, delta, method, PARAMS[method])
    return replace(capture, attributions=made)


@pytest.fixture(scope="module")
def captures():
    return [attributed(capture, seed) for seed, capture in enumerate(make_captures(tasks=2))]


@pytest.fixture(scope="module")
def path(captures, tmp_path_factory):
    path = tmp_path_factory.mktemp("attribution") / "run"
    writer = open_writer(path, captures, chunk_size=3, settings=SETTINGS)
    write_missing(writer, captures, chunk_size=3)
    return path


def test_the_sources_of_a_step_are_the_tokens_before_its_own():
    assert is_source(2, 3).astype(int).tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
    ]
    assert is_source(4, 0).shape == (0, 4)


def test_scores_come_back_exactly_with_labels(captures, path):
    with store.open_run(path) as run:
        assert run.attributions == PARAMS
        for capture in captures:
            encoding = capture.encoding
            for method, params in PARAMS.items():
                array = run.attribution(encoding.record.id, method)
                there = capture.attributions[method]
                assert array.dims == ("step", "source")
                assert np.array_equal(array.values, there.scores, equal_nan=True)
                assert np.array_equal(array["delta"].values, there.delta, equal_nan=True)
                assert tuple(array["source_text"].values) == encoding.texts
                assert tuple(array["step_text"].values) == encoding.texts[encoding.n_prompt :]
                assert array["position"].values[0] == encoding.n_prompt
                roles = [span.role for span in encoding.spans for _ in range(len(span))]
                assert array["source_role"].values.tolist() == roles
                assert array["step_role"].values.tolist() == roles[encoding.n_prompt :]
                assert array.attrs["units"] == params["unit"]
                assert array.attrs["target"] == params["target"]
                assert (array.attrs["method"], array.attrs["record"]) == (
                    method,
                    encoding.record.id,
                )
        assert run.attribution(encoding.record.id, "beta_2").attrs["points"] == 8


def test_stock_h5py_reads_the_cells_as_the_page_says(captures, path):
    with h5py.File(path / "shards/chunk-00001.h5") as file:
        counts = file["record/counts"][:, RAGGED.index("attribution_cell")]
        starts = np.cumsum(counts) - counts
        for at, capture in enumerate(captures[3:6]):
            encoding = capture.encoding
            n, p = encoding.n_steps, encoding.n_prompt
            assert counts[at] == n * p + n * (n - 1) // 2
            cells = file["attribution/beta_2"][starts[at] : starts[at] + counts[at]]
            scores = capture.attributions["beta_2"].scores
            rows = [scores[i, : p + i] for i in range(n)]
            assert np.array_equal(cells, np.concatenate(rows))
        assert file["attribution/beta_2"].attrs["unit"] == b"logit"
        assert file["attribution/alpha"].attrs["dims"] == b"attribution_cell"


def test_a_run_without_attributions_has_no_such_dataset_and_says_so(tmp_path):
    captures = make_captures(tasks=1)
    write_missing(open_writer(tmp_path / "run", captures), captures)
    with h5py.File(tmp_path / "run/shards/chunk-00000.h5") as file:
        assert not {"attribution", "attribution_delta"} & set(file)
    with store.open_run(tmp_path / "run") as run, pytest.raises(SelectionError) as error:
        run.attribution(captures[0].encoding.record.id)
    assert str(error.value) == (
        f"{tmp_path / 'run'}: the run holds no attribution; "
        "extract again with --attribute input_x_gradient."
    )


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (
            None,
            "the run holds several attributions; expected one of alpha, beta_2; name the method.",
        ),
        (
            "alpa",
            "no attribution by 'alpa'; did you mean 'alpha'? there is: alpha, beta_2; to have it, "
            "extract again with --attribute alpa.",
        ),
    ],
)
def test_a_method_that_is_not_there_is_named(path, method, words):
    with store.open_run(path) as run, pytest.raises(SelectionError) as error:
        run.attribution("task0-000/coarse", method)
    assert str(error.value) == f"{path}: {words}"


def edited(capture, **change):
    made = dict(capture.attributions)
    made["alpha"] = replace(made["alpha"], **change)
    return replace(capture, attributions=made)


def with_score(capture, step, token, value):
    scores = capture.attributions["alpha"].scores.copy()
    scores[step, token] = value
    return edited(capture, scores=scores)


def refusals(capture):
    encoding = capture.encoding
    where = f"record '{encoding.record.id}'"
    p, n, total = encoding.n_prompt, encoding.n_steps, encoding.n_tokens
    cells = "; got {}, expected finite numbers before the step's token, NaN from there on."
    yield (
        replace(capture, attributions={}),
        f"{where}: the capture lacks the attribution 'alpha', which the run keeps.",
    )
    yield (
        with_score(capture, 1, 2, np.nan),
        f"{where}, step 1, token 2: a score of `attributions['alpha']` cannot be stored"
        + cells.format("nan"),
    )
    yield (
        with_score(capture, 0, p - 1, np.inf),
        f"{where}, step 0, token {p - 1}: a score of `attributions['alpha']` cannot be stored"
        + cells.format("inf"),
    )
    yield (
        with_score(capture, 0, p, 0),
        f"{where}, step 0, token {p}: a score of `attributions['alpha']` cannot be stored"
        + cells.format("0.0"),
    )
    yield (
        edited(capture, scores=np.zeros((n, total - 1), np.float32)),
        f"{where}: `attributions['alpha'].scores` has the wrong shape; got {(n, total - 1)}, "
        f"expected {(n, total)}.",
    )
    yield (
        edited(capture, delta=np.full(n, -np.inf, np.float32)),
        f"{where}: `attributions['alpha'].delta` is infinite.",
    )


@pytest.mark.parametrize("number", range(6))
def test_what_is_no_attribution_is_not_stored(captures, tmp_path, number):
    bad, words = list(refusals(captures[0]))[number]
    writer = open_writer(tmp_path / "run", captures, settings=SETTINGS)
    with pytest.raises(StoreError) as error, writer.chunk(0) as sink:
        sink.append(bad)
    assert str(error.value) == words
    assert writer.missing() == tuple(range(len(chunked(captures, 8))))


@pytest.mark.parametrize(
    ("methods", "got"),
    [
        (["../x"], "['../x']"),
        (["Alpha"], "['Alpha']"),
        (["a", "a"], "['a', 'a']"),
        ("alpha", "'alpha'"),
        ([3], "[3]"),
    ],
)
def test_names_that_cannot_be_datasets_are_refused(captures, tmp_path, methods, got):
    with pytest.raises(StoreError) as error:
        open_writer(tmp_path / "run", captures, settings={"attribute": methods})
    assert str(error.value) == (
        f"settings: 'settings.attribute' is no list of attribution methods; got {got}, "
        "expected at most 64 different names of a-z, 0-9 and _."
    )


def test_parameters_of_an_unknown_method_are_refused(captures, tmp_path):
    settings = {"attribute": ["alpha"], "attribute_params": {"beta": {}}}
    with pytest.raises(StoreError, match=r"'settings\.attribute_params' does not fit"):
        open_writer(tmp_path / "run", captures, settings=settings)


def test_a_manifest_with_hostile_method_names_is_refused(path):
    value = json.loads((path / "manifest.json").read_text())
    value["settings"]["attribute"] = ["/weights"]
    with pytest.raises(FormatError, match=r"'settings\.attribute' is no list of attribution"):
        Manifest.from_json(value, "manifest.json")


def test_a_shard_that_lacks_its_attribution_is_refused(captures, path, tmp_path):
    """The shard of a run without attributions under the manifest of a run with them."""
    plain = tmp_path / "plain"
    write_missing(open_writer(plain, captures, chunk_size=3), captures, chunk_size=3)
    run = shutil.copytree(path, tmp_path / "run")
    writer = open_writer(run, captures, chunk_size=3, settings=SETTINGS)
    for file in (run / "shards").glob("chunk-00000.*"):
        file.unlink()
    shutil.copy(plain / "shards/chunk-00000.h5", run / "shards")
    assert writer.missing() == (0,)
    assert not (run / "shards/chunk-00000.h5").exists()


def test_a_resumed_run_is_the_same_bytes(captures, path, tmp_path):
    run = shutil.copytree(path, tmp_path / "run")
    before = (run / "shards/chunk-00002.h5").read_bytes()
    for file in (run / "shards").glob("chunk-00002.*"):
        file.unlink()
    writer = open_writer(run, captures, chunk_size=3, settings=SETTINGS)
    assert writer.missing() == (2,)
    write_missing(writer, captures, chunk_size=3)
    assert (run / "shards/chunk-00002.h5").read_bytes() == before


def test_verify_decodes_attributions_and_an_export_holds_them(captures, path, tmp_path):
    assert store.verify(path, full=True).good
    one = export(path, tmp_path / "one.h5").path
    with h5py.File(path / "shards/chunk-00001.h5") as shard, h5py.File(one) as file:
        found = []
        file.visititems(lambda name, _: found.append(name))
        [copy] = [name for name in found if name.endswith("00001/attribution/beta_2")]
        assert np.array_equal(file[copy][...], shard["attribution/beta_2"][...])
