"""The contrasts of the results: trained models beside their controls."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import make_contrasts  # noqa: E402
from results import contrasting, data, page  # noqa: E402

from attnprobe.tasks.sequences import SequenceSettings, generate  # noqa: E402
from tests.tiny import save_model  # noqa: E402

SMALL = SequenceSettings(styles=("direct", "coarse", "stepwise"), n_per_family=3, seed=data.SEED)


def small():
    yield from generate(SMALL)
    yield from generate(SMALL.for_split("unseen-parameters"))
    yield from generate(SMALL.for_split("unseen"))


def test_a_control_has_the_shape_of_the_model_and_none_of_its_weights(tmp_path):
    save_model(tmp_path / "model", seed=3)
    out = contrasting.randomized(tmp_path / "model", tmp_path / "random")
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    drawn = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert {n: w.shape for n, w in trained.items()} == {n: w.shape for n, w in drawn.items()}
    matrices = [name for name, weight in drawn.items() if weight.ndim == 2]
    assert matrices
    assert not any(torch.allclose(trained[name], drawn[name]) for name in matrices)
    again = contrasting.randomized(tmp_path / "model", tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(again).state_dict()
    assert all(torch.equal(drawn[name], again[name]) for name in drawn)


def test_both_styles_of_the_first_problems_are_chosen():
    records = contrasting.chosen(list(small()), 2)
    assert {r.style for r in records} == {"coarse", "stepwise"}
    assert {r.split for r in records} == {"seen", "unseen"}
    assert len({r.task for r in records}) == 15
    assert len(records) == 15 * 2 * 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the script makes of a tiny model and its control."""
    tmp_path = tmp_path_factory.mktemp("made")
    artifacts = tmp_path / "artifacts"
    save_model(artifacts / "reference-model", seed=3)
    save_model(artifacts / "tuned", seed=4)
    tuned = contrasting.Looker("tuned", str(artifacts / "tuned"), 2, "tuned", base="reference")
    questions = artifacts / "examples" / "general.jsonl"
    questions.parent.mkdir()
    questions.write_bytes((ROOT / "artifacts" / "examples" / "general.jsonl").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "DATASETS", {data.TEST: small})
        data.publish(tmp_path / "work", artifacts / "data.sha256")
        lookers = contrasting.lookers
        patch.setattr(
            contrasting,
            "lookers",
            lambda *at: [*(replace(one, n_per_family=2) for one in lookers(*at)), tuned],
        )
        arguments = ["--artifacts", artifacts, "--folder", tmp_path / "work"]
        names = ["--only", "reference", "--only", contrasting.RANDOM, "--only", "tuned"]
        patch.setattr(sys, "argv", ["make_contrasts.py", *map(str, arguments), *names])
        (artifacts / "results.json").write_text('{"models": {}}', encoding="utf-8")
        make_contrasts.main()
    return artifacts


def test_every_model_is_contrasted_by_every_measure_and_between_splits(made):
    facts = json.loads((made / "contrasts.json").read_text(encoding="utf-8"))
    assert list(facts["models"]) == ["reference", contrasting.RANDOM, "tuned"]
    for model in facts["models"].values():
        measures = [found["title"].split(",")[0] for found in model["contrasts"][:5]]
        assert measures == [*contrasting.MEASURES, contrasting.MEASURES[0]]
        for found in model["contrasts"][:5]:
            assert found["n_tasks"] == 15
            assert 0 <= found["n_differ"] <= found["n_heads"] == 12
            assert 0 < found["median"] <= found["largest"]
            assert found["largest"] >= abs(found["heads"][0]["estimate"])
            assert found["methods"]
        assert (made / model["figure"]).is_file()
    sizes = [m["contrasts"][0]["largest"] for m in facts["models"].values()]
    assert not np.isclose(*sizes[:2]), "the control gave what the model gave"


def test_a_tuned_model_is_held_against_its_base_on_tasks_and_on_questions(made):
    facts = json.loads((made / "contrasts.json").read_text(encoding="utf-8"))
    against = facts["models"]["tuned"]["contrasts"][5:]
    assert [found["title"].partition(":")[0] for found in against] == [
        "enrichment, answer → history",
        "enrichment, answer → history",
        "enrichment, answer → history",
        "enrichment, answer → question",
    ]
    assert all("tuned − reference" in found["title"] for found in against)
    assert [found["n_tasks"] for found in against] == [15, 15, 15, 6]
    assert against[3]["n_pairs"] == 120
    one, other = (against[k]["heads"][0] for k in (0, 1))
    assert (one["layer"], one["estimate"]) != (other["layer"], other["estimate"])
    assert all(len(facts["models"][name]["contrasts"]) == 5 for name in list(facts["models"])[:2])


def test_the_page_tells_of_each_model_and_of_what_was_not_found(made):
    facts = json.loads((made / "contrasts.json").read_text(encoding="utf-8"))
    text = (made / "results.md").read_text(encoding="utf-8")
    assert text == page.page({"models": {}}, facts)
    for name, model in facts["models"].items():
        assert f"### {name}" in text
        for found in model["contrasts"]:
            assert f"{found['n_differ']} of {found['n_heads']}" in text
            assert all(line in text for line in found["verdict"])


def test_heads_of_a_trained_model_are_tested_by_intervention_and_by_passing(made):
    facts = json.loads((made / "contrasts.json").read_text(encoding="utf-8"))
    text = (made / "results.md").read_text(encoding="utf-8")
    trained, control, _ = facts["models"].values()
    assert trained["confirmed"]["rows"]
    assert set(trained["passing"]) == {"coarse", "stepwise"}
    assert "confirmed" not in control
    assert all(line in text for line in trained["confirmed"]["verdict"])
    assert "- Not asked: " in text, "a model with random weights passes nowhere"
