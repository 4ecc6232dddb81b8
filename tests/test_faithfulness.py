"""Faithfulness: metrics by hand, perturbations that do what they say, planted truth found."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from attnprobe.attention import knockout
from attnprobe.cli import app
from attnprobe.contrasts import read_changes
from attnprobe.errors import AttnprobeError
from attnprobe.figures import draw, draw_lines
from attnprobe.models import LoadedModel
from attnprobe.panels import change_panels, curve_panels
from attnprobe.store import open_run
from attnprobe.workflows import faithfulness as module
from attnprobe.workflows.extract import ExtractSettings, extract
from attnprobe.workflows.faithfulness import FaithfulnessSettings, faithfulness_changes
from attnprobe.workflows.outcomes import log_probs
from attnprobe.workflows.perturbing import PERTURBATIONS, number_kinds
from attnprobe.workflows.removing import metrics_of, removal_grid
from tests.test_knockout import message
from tests.tiny import make_record, make_tokenizer, save_model, tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faithfulness")
    save_model(folder / "model")
    records = [make_record(i, style) for i in range(6) for style in ("coarse", "stepwise")]
    settings = ExtractSettings(attribute=("input_x_gradient",))
    extract(records, str(folder / "model"), folder / "run", settings).close()
    return folder


@pytest.fixture
def run(folder):
    with open_run(folder / "run") as opened:
        yield opened


@pytest.fixture(scope="module")
def loaded():
    return LoadedModel(tiny_llama(), make_tokenizer(), "tiny")


def test_metrics_are_those_worked_out_by_hand():
    assert removal_grid((0.25,)) == (0.25, 0.75, 1.0)
    highest, lowest = np.array([4.0, 6.0, 8.0]), np.array([0.0, 2.0, 8.0])
    comprehensiveness, sufficiency, morf, lerf = metrics_of(highest, lowest, (0.25,))
    assert (comprehensiveness, sufficiency) == (4, 2)
    assert morf == pytest.approx(0.25 * 2 + 0.5 * 5 + 0.25 * 7)
    assert lerf == pytest.approx(0.25 * 0 + 0.5 * 1 + 0.25 * 5)


@torch.no_grad()
def test_hidden_tokens_are_seen_by_none_after_them(run, loaded):
    encoding = run.encoding("item-000/coarse")
    hidden = PERTURBATIONS["knockout"].run(loaded, encoding, [[], [3, 5]], 0)
    model = tiny_llama().double()
    model.set_attn_implementation("eager")
    ids = torch.from_numpy(encoding.ids.astype(np.int64))[None]
    length = ids.shape[1]
    for row, positions in zip(hidden, ([], [3, 5]), strict=True):
        allowed = torch.ones(length, length).tril().bool()
        for at in positions:
            allowed[at + 1 :, at] = False
        mask = torch.zeros(1, 1, length, length, dtype=torch.float64)
        logits = model(ids, attention_mask=mask.masked_fill(~allowed, -torch.inf)).logits[0, :-1]
        expected = logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        after = slice(encoding.n_prompt - 1, None)
        np.testing.assert_allclose(row[after], expected.numpy()[after], atol=1e-4)


def test_numbers_are_substituted_by_as_many_digits(run, loaded, monkeypatch):
    encoding = run.encoding("item-001/coarse")
    seen = []

    def taken(loaded, texts, first):
        seen.extend(texts)
        return log_probs(loaded, texts, first=first)

    monkeypatch.setattr("attnprobe.workflows.perturbing.log_probs", taken)
    candidates = PERTURBATIONS["numbers"].candidates(loaded, encoding)
    PERTURBATIONS["numbers"].run(loaded, encoding, [[], candidates], 1)
    plain, changed = (np.array(text) for text in seen)
    np.testing.assert_array_equal(plain, encoding.ids)
    differ = np.flatnonzero(plain != changed).tolist()
    assert differ == candidates
    assert candidates
    assert max(candidates) < encoding.n_prompt
    kinds = number_kinds(loaded)
    assert all(kinds[plain[at]] == kinds[changed[at]] for at in candidates)
    before, after = (loaded.tokenizer.decode(text) for text in (plain, changed))
    assert len(before) == len(after)


@torch.no_grad()
def test_embeddings_are_replaced_by_their_mean(run, loaded):
    encoding = run.encoding("item-000/coarse")
    found = PERTURBATIONS["embedding"].run(loaded, encoding, [[], [2, 7]], 0)
    ids = [encoding.ids.tolist()]
    after = slice(encoding.n_prompt - 1, None)
    assert np.isnan(found[:, : encoding.n_prompt - 1]).all()
    np.testing.assert_allclose(found[0, after], log_probs(loaded, ids)[0, after], atol=1e-5)
    model = tiny_llama()
    vectors = model.model.embed_tokens(torch.tensor(ids))
    mean = vectors[0, : encoding.n_prompt].mean(0)
    vectors[0, 2], vectors[0, 7] = mean, mean
    logits = model(inputs_embeds=vectors).logits[0, :-1]
    expected = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[0, 1:, None])[:, 0]
    np.testing.assert_allclose(found[1, after], expected[after], atol=1e-4)


def test_a_ranking_by_the_true_effects_beats_random_and_its_reverse_does_not(run, monkeypatch):
    """Ranked by what the loss of each single token costs, the ranking is good by construction."""
    model = tiny_llama()
    loaded = LoadedModel(model, make_tokenizer(), "tiny")

    def true_effects(run, record_id, method, outcome):
        encoding = run.encoding(record_id)
        text = [encoding.ids.tolist()]
        steps = [
            at - 1
            for span in encoding.spans
            if span.role == outcome
            for at in range(span.start, span.stop)
        ]
        whole = log_probs(loaded, text)[0, steps].sum()
        scores = np.zeros(encoding.n_prompt)
        for at in range(1, encoding.n_prompt):
            with knockout(model, [(None, None, (at + 1, None), (at, at + 1))]):
                scores[at] = whole - log_probs(loaded, text)[0, steps].sum()
        return scores if method == "attention" else -scores

    monkeypatch.setattr(module, "_scores", true_effects)
    settings = FaithfulnessSettings(perturbations=("knockout",), by="item", n_random=4)
    found = faithfulness_changes(run, settings).effects["knockout"]
    for style in ("coarse", "stepwise"):
        good = found["estimate"].sel(style=style, window="attention")
        bad = found["estimate"].sel(style=style, window="input_x_gradient")
        for metric, sign in (("comprehensiveness", 1), ("morf", 1), ("lerf", -1)):
            assert sign * float(good.sel(span=metric)) > 0
            assert sign * float(bad.sel(span=metric)) < 0


def test_every_method_and_perturbation_is_told(run, tmp_path):
    found = faithfulness_changes(run)
    rows = found.to_table()
    assert {row["perturbation"] for row in rows} == {"knockout", "numbers", "embedding"}
    assert {row["method"] for row in rows} == {"input_x_gradient", "attention"}
    assert {row["metric"] for row in rows} == {"comprehensiveness", "sufficiency", "morf", "lerf"}
    assert all(row["low"] <= row["estimate"] <= row["high"] for row in rows)
    again = faithfulness_changes(run, FaithfulnessSettings(batch_size=1))
    for name, effects in found.effects.items():
        np.testing.assert_allclose(effects["estimate"], again.effects[name]["estimate"], atol=1e-3)
    back = read_changes(found.save(tmp_path / "found.json"))
    np.testing.assert_array_equal(
        back.effects["numbers"]["estimate"], found.effects["numbers"]["estimate"]
    )
    panels = change_panels(back, "numbers")
    assert panels[0].title == "coarse: answer: rankings against random ones, by numbers"
    assert panels[0].rows == ("input_x_gradient", "attention")
    assert draw(panels) is not None


def test_curves_have_the_areas_that_are_told(run, tmp_path):
    settings = FaithfulnessSettings(perturbations=("knockout", "embedding"))
    found = faithfulness_changes(run, settings)
    grid = [0.0, *removal_grid(settings.fractions)]
    lines = {}
    for row in found.curves:
        place = row["style"], row["perturbation"], row["method"], row["order"]
        lines.setdefault(place, []).append(row)
    assert len(lines) == 2 * 2 * 3 * 2
    for (style, perturbation, method, order), rows in lines.items():
        assert [row["share"] for row in rows] == grid
        assert rows[0]["loss"] == 0
        assert all(row["low"] <= row["loss"] <= row["high"] for row in rows)
        area = np.trapezoid([row["loss"] for row in rows], grid)
        cells = found.effects[perturbation].sel(style=style, span=order)
        if method == "random":
            assert area == pytest.approx(cells["before"].values[0], abs=1e-6)
        else:
            told = cells.sel(window=method)
            assert area == pytest.approx(float(told["before"] + told["estimate"]), abs=1e-6)
    # Without any token, no ranking is left.
    ends = {round(rows[-1]["loss"], 6) for (*_, kind, _, _), rows in lines.items() if kind}
    assert len(ends) == 2 * 2
    back = read_changes(found.save(tmp_path / "found.json"))
    assert back.curves == found.curves


def test_curves_are_arranged_by_style_and_order(run):
    found = faithfulness_changes(run, FaithfulnessSettings(perturbations=("numbers",)))
    panels = curve_panels(found, "numbers")
    assert [panel.title for panel in panels] == [
        f"{style}: {order} rank first"
        for style in ("coarse", "stepwise")
        for order in ("highest", "lowest")
    ]
    assert len({panel.limits for panel in panels}) == 1
    assert [line.label for line in panels[0].lines] == ["input_x_gradient", "attention", "random"]
    rows = [row for row in found.curves if (row["style"], row["order"]) == ("stepwise", "morf")]
    np.testing.assert_array_equal(
        panels[2].lines[2].y, [row["loss"] for row in rows if row["method"] == "random"]
    )
    assert draw_lines(panels) is not None
    assert message(AttnprobeError, lambda: curve_panels(found, "knockout")) == (
        "the changes do not hold this perturbation; got knockout; there is: numbers."
    )
    assert message(AttnprobeError, lambda: curve_panels(replace(found, curves=()))) == (
        "the changes hold no curves; got answer: rankings against random ones, expected what "
        "`attnprobe faithfulness RUN -o changes.json` writes."
    )


@pytest.mark.parametrize("spoil", [{"loss": "x"}, {"loss": float("nan")}, {"share": None}])
def test_curves_of_a_spoiled_file_are_refused(run, tmp_path, spoil):
    found = faithfulness_changes(run, FaithfulnessSettings(perturbations=("numbers",)))
    path = found.save(tmp_path / "found.json")
    facts = json.loads(path.read_text())
    facts["curves"][3] |= spoil
    path.write_text(json.dumps(facts))
    assert "this file holds no changes; got " in message(AttnprobeError, lambda: read_changes(path))


def test_a_ranking_by_attention_is_the_mean_over_layers_and_heads(run):
    encoding = run.encoding("item-000/coarse")
    scores = module._scores(run, "item-000/coarse", "attention", "answer")
    ((start, stop),) = [(s.start, s.stop) for s in encoding.spans if s.role == "answer"]
    weights = run.weights("item-000/coarse")
    rows = weights.sel(query=slice(start - 1, stop - 2)).mean(("layer", "head")).values
    np.testing.assert_allclose(scores, rows.sum(0)[: encoding.n_prompt], atol=1e-6)


def test_errors_say_what_there_is(run, folder, tmp_path):
    def told(**settings):
        return message(
            AttnprobeError, lambda: faithfulness_changes(run, FaithfulnessSettings(**settings))
        )

    assert "no ranking by 'attn'; did you mean 'attention'?" in told(methods=("attn",))
    assert told(perturbations=("delete",)) == (
        "--perturbation: no such perturbation; got delete; there is: embedding, knockout, numbers."
    )
    assert "no record has the outcome role 'nothing'" in told(outcome="nothing")
    assert told(fractions=(0.0,)).startswith("fractions: shares of tokens lie between 0 and 1")
    settings = ExtractSettings(("steps",))
    with extract([make_record()], str(folder / "model"), tmp_path / "run", settings) as poor:
        assert "the run holds nothing that ranks tokens" in message(
            AttnprobeError, lambda: faithfulness_changes(poor)
        )


def test_the_command_prints_saves_and_draws(folder, tmp_path):
    out = tmp_path / "found.json"
    args = ("faithfulness", folder / "run", "--perturbation", "knockout", "-o", out)
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    assert done.exit_code == 0, done.stderr
    assert "answer: rankings against random ones, by knockout (nats)" in done.stdout
    assert "sufficiency" in done.stdout
    assert json.loads(out.read_text())["axes"] == ["method", "metric", "perturbation"]
    args = ("plot", "faithfulness", out, "-o", tmp_path / "fig.png")
    drawn = CliRunner().invoke(app, [str(arg) for arg in args])
    assert drawn.exit_code == 0, drawn.stderr
    assert (tmp_path / "fig.png").stat().st_size > 1000
    args = ("plot", "faithfulness", out, "--curves", "-o", tmp_path / "curves.svg")
    drawn = CliRunner().invoke(app, [str(arg) for arg in args])
    assert drawn.exit_code == 0, drawn.stderr
    text = (tmp_path / "curves.svg").read_text()
    assert "coarse: highest rank first" in text
    assert "share of tokens taken away (by knockout)" in text
