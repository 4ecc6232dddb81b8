"""Attributions in an extraction: of what was captured, resumed, refused early."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from attnprobe.attribution import METHODS, Focus, Method, attribute, read_method
from attnprobe.capturing import CaptureSettings, Crediting, capture
from attnprobe.cli import app
from attnprobe.encode import encode
from attnprobe.errors import ModelError, RecordError, SelectionError, StoreError
from attnprobe.models import LoadedModel
from attnprobe.records import write_records
from attnprobe.store import open_run
from attnprobe.workflows.check import check
from attnprobe.workflows.costs import Lengths, stored_bytes
from attnprobe.workflows.extract import ExtractSettings, extract
from tests.tiny import make_record, make_tokenizer, save_model, tiny_llama

SETTINGS = ExtractSettings(
    keep=("steps",), attribute=("input_x_gradient",), records_per_chunk=2, batch_size=3
)


@pytest.fixture(scope="module")
def loaded():
    return LoadedModel(tiny_llama(), make_tokenizer(), "tiny")


def records(n=2):
    return [
        make_record(i, style, length=6 + 4 * i)
        for i in range(n)
        for style in ("coarse", "stepwise")
    ]


def test_a_run_holds_the_attributions_of_every_record(loaded, tmp_path):
    with extract(records(), loaded, tmp_path / "run", SETTINGS) as run:
        assert run.attributions == {"input_x_gradient": {"target": "logprob", "unit": "nat"}}
        assert run.settings["versions"].keys() == {"torch", "transformers", "captum"}
        for record in run.records.index:
            encoding = run.encoding(record)
            expected = attribute(loaded.model, encoding.ids, encoding.n_prompt)
            found = run.attribution(record)
            np.testing.assert_array_equal(found.values, expected.scores)
            assert found.attrs["units"] == "nat"
            assert "history" in found["source_role"].values


def test_what_the_model_writes_is_attributed_too(loaded, tmp_path):
    settings = replace(SETTINGS, decode="greedy", max_new_tokens=5, attribute_target="logit")
    with extract(records(1), loaded, tmp_path / "run", settings) as run:
        record = run.records.index[0]
        encoding, found = run.encoding(record), run.attribution(record)
        assert found.sizes["step"] == encoding.n_steps <= 5
        expected = attribute(loaded.model, encoding.ids, encoding.n_prompt, target="logit")
        np.testing.assert_array_equal(found.values, expected.scores)
        assert (found.attrs["target"], found.attrs["units"]) == ("logit", "logit")


def test_a_run_that_stopped_goes_on_to_the_same_bytes(loaded, tmp_path):
    for name in ("whole", "stopped"):
        extract(records(), loaded, tmp_path / name, SETTINGS).close()
    shards = [tmp_path / name / "shards" for name in ("whole", "stopped")]
    for file in shards[1].glob("chunk-00001.*"):
        file.unlink()
    extract(records(), loaded, tmp_path / "stopped", SETTINGS).close()
    for file in shards[0].glob("*.h5"):
        assert file.read_bytes() == (shards[1] / file.name).read_bytes()


def test_a_run_with_other_attributions_is_another_run(loaded, tmp_path):
    extract(records(1), loaded, tmp_path / "run", SETTINGS).close()
    with pytest.raises(StoreError) as error:
        extract(records(1), loaded, tmp_path / "run", replace(SETTINGS, attribute_target="logit"))
    assert "settings.attribute_params.input_x_gradient.target: run has 'logprob'" in str(
        error.value
    )
    with pytest.raises(StoreError, match=r"settings\.attribute: run has \['input_x_gradient'\]"):
        extract(records(1), loaded, tmp_path / "run", replace(SETTINGS, attribute=()))


def test_unknown_names_are_refused_before_anything_else():
    with pytest.raises(SelectionError) as error:
        ExtractSettings(attribute=("input_gradient",))
    assert str(error.value) == (
        "no attribution method of that name; got 'input_gradient'; "
        f"did you mean 'input_x_gradient'? there is: {', '.join(sorted(METHODS))}."
    )
    with pytest.raises(SelectionError, match="no attribution target of that name; got 'logits'"):
        ExtractSettings(attribute=("input_x_gradient",), attribute_target="logits")


def test_a_refusal_names_the_record(loaded, monkeypatch):
    def run(prediction):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(METHODS, "greedy", Method(run))
    encoding = encode(make_record(), loaded.tokenizer)
    with pytest.raises(ModelError) as error:
        capture(loaded, [encoding], CaptureSettings(crediting=Crediting(("greedy",))), Captures())
    assert str(error.value) == (
        "record 'item-000/coarse', method 'greedy': memory does not suffice to attribute this "
        f"sequence; got {encoding.n_tokens} tokens; shorten it, or load the model in bfloat16."
    )


def test_settings_of_methods_shape_the_scores_and_are_kept(loaded, tmp_path):
    settings = replace(
        SETTINGS, attribute=("integrated_gradients", "input_x_gradient"),
        attribute_params={
            "integrated_gradients": {"points": 3, "max_points": 3, "baseline": 7},
            "input_x_gradient": {"by": "segment"},
        },
    )  # fmt: skip
    with extract(records(1), loaded, tmp_path / "run", settings) as run:
        record = run.records.index[0]
        encoding = run.encoding(record)
        kept = run.attributions
        assert kept["input_x_gradient"] == {"target": "logprob", "unit": "nat", "by": "segment"}
        assert kept["integrated_gradients"] == {
            "target": "logprob", "unit": "nat", "tolerance": 0.01,
            "points": 3, "max_points": 3, "baseline": 7,
        }  # fmt: skip
        expected = attribute(
            loaded.model, encoding.ids, encoding.n_prompt, "integrated_gradients", points=3,
            max_points=3, baseline=7,
        )  # fmt: skip
        found = run.attribution(record, "integrated_gradients")
        np.testing.assert_array_equal(found.values, expected.scores)
        whole = run.attribution(record, "input_x_gradient").values
        tokens = attribute(loaded.model, encoding.ids, encoding.n_prompt).scores
        for span in encoding.spans:
            own = slice(span.start, min(span.stop, encoding.n_prompt))
            summed = np.nansum(tokens[:, own], 1)
            np.testing.assert_allclose(np.nansum(whole[:, own], 1), summed, rtol=1e-3, atol=1e-4)
            if len(span) > 1 and span.stop <= encoding.n_prompt:
                assert np.ptp(whole[0, own]) == 0
    other = {"integrated_gradients": {"points": 3, "max_points": 3, "baseline": 8}}
    with pytest.raises(StoreError) as error:
        extract(records(1), loaded, tmp_path / "run", replace(settings, attribute_params=other))
    assert "settings.attribute_params.integrated_gradients.baseline: run has 7, asked for 8" in str(
        error.value
    )


def with_foil(number, foil):
    record = make_record(number)
    return replace(record, meta={**record.meta, "foil": foil})


CONTRAST = replace(SETTINGS, attribute_target="contrast", attribute_foil="foil")


@pytest.mark.parametrize("foil", ["81 93 109", {"answer": "81 93 109", "coarse_answer": "38"}])
def test_foils_come_from_the_records(loaded, tmp_path, foil):
    with extract([with_foil(0, foil)], loaded, tmp_path / "run", CONTRAST) as run:
        assert run.attributions["input_x_gradient"]["foil"] == "meta.foil"
        encoding, found = run.encoding("item-000/coarse"), run.attribution("item-000/coarse").values
        texts = [segment.text for segment in encoding.record.target]
        texts = [foil["coarse_answer"] if isinstance(foil, dict) else texts[0], "81 93 109"]
        other = loaded.tokenizer("\n".join(texts), add_special_tokens=False)["input_ids"]
        assert len(other) == encoding.n_steps
        expected = attribute(
            loaded.model, encoding.ids, encoding.n_prompt, target="contrast",
            focus=Focus(foils=other),
        ).scores  # fmt: skip
        np.testing.assert_array_equal(found, expected)
        same = np.array(other) == encoding.ids[encoding.n_prompt :]
        assert 0 < same.sum() < len(same)
        assert np.nanmax(np.abs(found[same])) == 0
        assert (np.nanmax(np.abs(found[~same]), 1) > 0).all()


@pytest.mark.parametrize(
    ("foil", "words"),
    [
        (
            "80 93",
            "the foil has another number of tokens than the target; got 8, expected 11; let "
            "meta.foil be as many tokens long.",
        ),
        (
            7,
            "meta.foil is no foil; got 7, expected a text, or an object from roles of the target "
            "to texts.",
        ),
        (
            {"anser": "80 93 108"},
            "meta.foil speaks of a role that the target does not have once; got 'anser'; did you "
            "mean 'answer'? there is: answer, coarse_answer.",
        ),
        ({"answer": ""}, "the foil cannot be encoded: "),
    ],
)
def test_foils_that_fit_no_target_are_refused_before_anything_runs(loaded, tmp_path, foil, words):
    with pytest.raises(RecordError) as error:
        extract([with_foil(0, foil)], loaded, tmp_path / "run", CONTRAST)
    assert str(error.value).startswith(f"record (id 'item-000/coarse'): {words}")
    assert not (tmp_path / "run").exists()


def test_a_record_without_a_foil_is_named(loaded, tmp_path):
    with pytest.raises(RecordError) as error:
        extract([make_record()], loaded, tmp_path / "run", CONTRAST)
    assert str(error.value) == (
        "record (id 'item-000/coarse'): the record has no foil: its meta has no 'foil'; "
        "there is: answer, 名."
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"attribute_params": {"saliency": {}}},
            "--attribute: settings of a method that is not asked for; got 'saliency'; "
            "there is: integrated_gradients.",
        ),
        (
            {"attribute_params": {"integrated_gradients": {"steps": 64}}},
            "method 'integrated_gradients': the method has no such setting; got 'steps'; "
            "there is: baseline, max_points, points, tolerance.",
        ),
        (
            {"attribute_params": {"integrated_gradients": {"points": 2.5}}},
            "method 'integrated_gradients', points: a setting of another kind; got 2.5, "
            "expected a whole number, such as 4.",
        ),
        (
            {"attribute_params": {"integrated_gradients": {"tolerance": True}}},
            "method 'integrated_gradients', tolerance: a setting of another kind; got True, "
            "expected a number, such as 0.01.",
        ),
        (
            {"attribute_params": {"integrated_gradients": {"by": "segments"}}},
            "method 'integrated_gradients', by: nothing that could be credited; got 'segments'; "
            "did you mean 'segment'? there is: segment, token.",
        ),
        (
            {"attribute_foil": "foil"},
            "--attribute-foil: this target takes no foils; got target 'logprob', "
            "expected --attribute-target contrast.",
        ),
        (
            {"attribute_foil": "foil", "attribute_target": "contrast", "decode": "greedy"},
            "--attribute-foil: foils are held against the record's own target; got decoding "
            "'greedy'; add --decode gold.",
        ),
        (
            {"attribute": ("saliency", "saliency")},
            "--attribute: a run holds a method once; got 'saliency' twice; put other settings of "
            "it into a run of their own.",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_else(settings, words):
    with pytest.raises(SelectionError) as error:
        ExtractSettings(**{"attribute": ("integrated_gradients",), **settings})
    assert str(error.value) == words


def test_methods_are_read_with_their_settings():
    assert read_method("saliency") == ("saliency", {})
    text = "integrated_gradients: points=6, baseline=mean,tolerance=0.02 ,by=segment"
    assert read_method(text) == (
        "integrated_gradients",
        {"points": 6, "baseline": "mean", "tolerance": 0.02, "by": "segment"},
    )
    for text in ("saliency:", "saliency:points", "saliency:=3", "saliency:points=3,"):
        with pytest.raises(SelectionError, match="--attribute: no setting of a method; got '"):
            read_method(text)
    with pytest.raises(SelectionError) as error:
        read_method("saliency:a=1,a=2")
    assert str(error.value) == (
        "--attribute: a setting stands there twice; got 'a=2' in 'saliency:a=1,a=2', "
        "expected METHOD:NAME=VALUE,NAME=VALUE."
    )


def test_the_command_takes_settings_and_foils(tmp_path):
    save_model(tmp_path / "model")
    write_records([with_foil(n, "81 93 109") for n in range(2)], tmp_path / "data.jsonl")
    args = (
        "extract", tmp_path / "data.jsonl", "-m", tmp_path / "model", "-o", tmp_path / "run",
        "--keep", "steps", "--attribute", "shapley:samples=2,by=segment", "--attribute",
        "saliency:by=segment", "--attribute-target", "contrast", "--attribute-foil", "foil",
    )  # fmt: skip
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    assert done.exit_code == 0, done.stderr
    with open_run(tmp_path / "run") as run:
        assert run.attributions["shapley"]["samples"] == 2
        assert run.attributions["saliency"] == {
            "target": "contrast", "unit": "logit", "by": "segment", "foil": "meta.foil"
        }  # fmt: skip
    args = [str(arg).replace("samples=2", "samples=3") for arg in args]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 2
    assert "settings.attribute_params.shapley.samples: run has 2, asked for 3" in done.stderr
    args = ["check", str(tmp_path / "data.jsonl"), "-m", str(tmp_path / "model"), "--attribute"]
    done = CliRunner().invoke(app, [*args, "saliency:by=word"])
    assert done.exit_code == 2
    assert "method 'saliency', by: nothing that could be credited" in done.stderr


class Captures(list):
    """A sink."""


def test_methods_side_by_side_and_none_without_being_asked(loaded, monkeypatch):
    monkeypatch.setitem(METHODS, "ones", Method(lambda p: p.no_scores() + 1, unit="share"))
    encoding = encode(make_record(), loaded.tokenizer)
    sink = Captures()
    both = CaptureSettings(crediting=Crediting(("ones", "input_x_gradient")))
    capture(loaded, [encoding], both, sink)
    capture(loaded, [encoding], CaptureSettings(), sink)
    assert list(sink[0].attributions) == ["ones", "input_x_gradient"]
    assert np.nanmin(sink[0].attributions["ones"].scores) == 1
    assert sink[1].attributions == {}


def test_a_check_runs_attributions_in_its_sample(loaded, monkeypatch):
    seen = []

    def run(prediction):
        seen.append(prediction.n_tokens)
        return prediction.no_scores()

    monkeypatch.setitem(METHODS, "zeros", Method(run))
    report = check(records(), loaded, replace(SETTINGS, attribute=("zeros",)))
    assert seen
    assert report.to_json()["attribute"] == ["zeros"]
    assert report.timings


def test_the_estimate_counts_scores():
    one = np.array([150]), np.array([100]), np.array([6])
    lengths = Lengths(*one)
    plain = stored_bytes(lengths, replace(SETTINGS, attribute=()), 3, 4)
    with_scores = stored_bytes(lengths, SETTINGS, 3, 4)
    cells = sum(range(100, 150))
    assert with_scores - plain == pytest.approx(cells * 4, rel=0.15)


def test_a_run_of_spans_sums_to_what_each_segment_lost(loaded, tmp_path):
    settings = replace(SETTINGS, attribute=("feature_ablation", "attention"))
    with extract(records(1), loaded, tmp_path / "run", settings) as run:
        record = run.records.index[0]
        encoding = run.encoding(record)
        focus = Focus(spans=encoding.spans)
        expected = attribute(
            loaded.model, encoding.ids, encoding.n_prompt, "feature_ablation", focus=focus
        ).scores
        found = run.attribution(record, "feature_ablation").values
        for column, span in enumerate(encoding.spans):
            summed = np.nansum(found[:, span.start : span.stop], 1)
            np.testing.assert_allclose(summed, np.nan_to_num(expected[:, column]), atol=1e-5)
        assert run.attribution(record, "attention").attrs["units"] == "probability"
