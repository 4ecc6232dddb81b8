"""Attributions in an extraction: of what was captured, resumed, refused early."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from attnprobe.attribution import METHODS, Focus, Method, attribute
from attnprobe.capturing import CaptureSettings, capture
from attnprobe.encode import encode
from attnprobe.errors import ModelError, SelectionError, StoreError
from attnprobe.models import LoadedModel
from attnprobe.workflows.check import check
from attnprobe.workflows.costs import Lengths, stored_bytes
from attnprobe.workflows.extract import ExtractSettings, extract
from tests.tiny import make_record, make_tokenizer, tiny_llama

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
        capture(loaded, [encoding], CaptureSettings(attribute=("greedy",)), Captures())
    assert str(error.value) == (
        "record 'item-000/coarse', method 'greedy': memory does not suffice to attribute this "
        f"sequence; got {encoding.n_tokens} tokens; shorten it, or load the model in bfloat16."
    )


class Captures(list):
    """A sink."""


def test_methods_side_by_side_and_none_without_being_asked(loaded, monkeypatch):
    monkeypatch.setitem(METHODS, "ones", Method(lambda p: p.no_scores() + 1, unit="share"))
    encoding = encode(make_record(), loaded.tokenizer)
    sink = Captures()
    capture(loaded, [encoding], CaptureSettings(attribute=("ones", "input_x_gradient")), sink)
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
