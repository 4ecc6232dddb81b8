"""Passed against failed: planted worlds, laws, and what a reviewer would ask first."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from attnprobe.cli import app
from attnprobe.contrasts import PassFail, PredictionSettings, discriminate, predict_passes
from attnprobe.contrasts.auroc import auroc, auroc_interval, pairs_of, ranks_within_tasks
from attnprobe.contrasts.judging import BASELINES, BOTH, HEADS
from attnprobe.errors import ContrastError, SelectionError
from attnprobe.figures import draw
from attnprobe.measures import measure
from attnprobe.models import LoadedModel
from attnprobe.panels import pass_fail_panel
from attnprobe.store import open_run
from attnprobe.types import Segment
from attnprobe.workflows.extract import ExtractSettings, extract
from attnprobe.workflows.passfail import PassFailSettings, pass_fail
from tests.test_knockout import message
from tests.test_score import saying
from tests.tiny import make_record, make_tokenizer

QUICK = PredictionSettings(n_heads=5, n_permutations=20, n_bootstrap=200)


def world(seed=0, n_tasks=8, n_items=30, n_layers=4, n_heads=10, effect=0.0, easy=0.0):
    """Heads as noise; head (2, 3) is higher by `effect` in passed items, tasks differ by `easy`."""
    rng = np.random.default_rng(seed)
    tasks = np.repeat([f"t{i}" for i in range(n_tasks)], n_items)
    level = np.repeat(rng.normal(size=n_tasks), n_items)
    passed = rng.random(len(tasks)) < 1 / (1 + np.exp(-easy * level))
    values = rng.normal(size=(len(tasks), n_layers, n_heads))
    values[:, 2, 3] += effect * passed + easy * level
    return values, passed, tasks, rng


# --- AUROC ---------------------------------------------------------------------------------------


def test_auroc_of_one_task_is_scikit_learns_ties_and_gaps_included():
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=(80, 3, 4)), 1)  # many ties
    passed = rng.random(80) < 0.4
    values[rng.random(values.shape) < 0.1] = np.nan
    found = discriminate(values, passed, ["t"] * 80, n_permutations=50)
    for layer in range(3):
        for head in range(4):
            own = values[:, layer, head]
            there = ~np.isnan(own)
            truth = roc_auc_score(passed[there], own[there])
            np.testing.assert_allclose(found["auroc"][layer, head], truth, atol=1e-12)
            np.testing.assert_allclose(found["auroc_pooled"][layer, head], truth, atol=1e-12)
            n_up = int(passed[there].sum())
            assert found["n_pairs"][layer, head] == n_up * (there.sum() - n_up)


def test_auroc_over_tasks_is_their_mean_weighted_by_pairs():
    values, passed, tasks, _ = world(easy=1.0)
    found = discriminate(values, passed, tasks, n_permutations=50)
    own, weights, scores = values[:, 2, 3], [], []
    for task in set(tasks):
        here = tasks == task
        n_up = int(passed[here].sum())
        if 0 < n_up < here.sum():
            weights.append(n_up * (here.sum() - n_up))
            scores.append(roc_auc_score(passed[here], own[here]))
    np.testing.assert_allclose(found["auroc"][2, 3], np.average(scores, weights=weights))
    np.testing.assert_allclose(found["auroc_pooled"][2, 3], roc_auc_score(passed, own))
    assert found["n_tasks"][2, 3] == len(scores)
    assert found["n_tasks_above"][2, 3] == sum(score > 0.5 for score in scores)


def test_turning_the_values_round_turns_the_auroc_round_and_leaves_p():
    values, passed, tasks, _ = world(effect=0.6)
    found = discriminate(values, passed, tasks, n_permutations=200)
    turned = discriminate(-values, passed, tasks, n_permutations=200)
    np.testing.assert_allclose(turned["auroc"], 1 - found["auroc"])
    np.testing.assert_allclose(turned["low"], 1 - found["high"], atol=1e-9)
    np.testing.assert_array_equal(turned["p_adjusted"], found["p_adjusted"])


def test_the_interval_covers_what_it_says():
    rng = np.random.default_rng(0)
    for shift, n_up, n_down, n_tasks in ((1.0, 5, 5, 1), (1.0, 20, 20, 4), (0.0, 10, 30, 2)):
        truth = norm.cdf(shift / np.sqrt(2))
        task = np.repeat(np.arange(n_tasks), n_up + n_down)
        passed = np.tile(np.arange(n_up + n_down) < n_up, n_tasks)
        values = rng.normal(size=(len(task), 1000)) + shift * passed[:, None]
        pairs = pairs_of(ranks_within_tasks(values, task), passed)
        low, high = auroc_interval(pairs, 0.95)
        assert (low <= auroc(pairs)).all()
        assert (auroc(pairs) <= high).all()
        assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.985


def test_the_interval_keeps_its_width_where_all_pairs_agree():
    values = np.arange(20.0)[:, None]
    pairs = pairs_of(ranks_within_tasks(values, np.zeros(20, int)), np.arange(20) >= 10)
    low, high = auroc_interval(pairs, 0.95)
    assert auroc(pairs)[0] == 1 == high[0]
    assert 0.7 < low[0] < 0.95


# --- heads one by one ----------------------------------------------------------------------------


def test_the_head_that_passing_depends_on_is_found_and_no_other():
    values, passed, tasks, _ = world(effect=1.0)
    found = discriminate(values, passed, tasks)
    marked = found["p_adjusted"].values < 0.05
    assert np.argwhere(marked).tolist() == [[2, 3]]
    assert found["low"][2, 3] > 0.6
    assert found["p_tasks"][2, 3] < 0.05
    assert found.attrs["scope"] == "these tasks only"


def test_a_head_that_only_tells_easy_tasks_from_hard_ones_is_not_found():
    pooled, within = [], []
    for seed in range(40):
        values, passed, tasks, _ = world(seed, easy=1.5)
        found = discriminate(values, passed, tasks, n_permutations=400)
        pooled.append(float(found["auroc_pooled"][2, 3]))
        within.append(float(found["p"][2, 3]))
    assert np.mean(pooled) > 0.7
    assert np.mean(np.array(within) < 0.05) <= 0.15


def test_the_family_wise_error_is_held_in_null_worlds():
    hits = 0
    for seed in range(200):
        values, passed, tasks, _ = world(seed, n_tasks=6, n_items=16, easy=1.0)
        values[:, 2, 3] = values[:, 0, 0]  # the shift between tasks is another test's
        found = discriminate(values, passed, tasks, n_permutations=200)
        hits += bool((found["p_adjusted"].values < 0.05).any())
    assert 0.01 <= hits / 200 <= 0.095  # 0.05 ± 3 standard errors


def test_a_head_without_any_variation_has_half_and_p_one():
    values, passed, tasks, _ = world()
    values[:, 0, 0], values[:, 0, 1] = 7.0, np.nan
    found = discriminate(values, passed, tasks, n_permutations=100)
    assert (found["auroc"][0, 0], found["p"][0, 0], found["p_adjusted"][0, 0]) == (0.5, 1.0, 1.0)
    assert np.isnan(found["auroc"][0, 1])
    assert np.isnan(found["p_adjusted"][0, 1])
    assert found.attrs["n_tested"] == 39


def test_below_six_tasks_nothing_is_said_of_new_ones():
    values, passed, tasks, _ = world(n_tasks=5, effect=2.0)
    found = discriminate(values, passed, tasks, n_permutations=100)
    assert np.isnan(found["p_tasks"]).all()
    assert found["p_adjusted"][2, 3] < 0.05


def test_permutations_repeat_with_their_seed():
    values, passed, tasks, _ = world()
    first, second, other = (
        discriminate(values, passed, tasks, n_permutations=100, rng=seed) for seed in (1, 1, 2)
    )
    xr.testing.assert_identical(first, second)
    assert not np.array_equal(first["p"], other["p"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda v, p, t: (v, p | True, t),
         "all of the items passed, so there is nothing to tell apart; got 240 passed, 0 failed, "
         "expected items of both kinds; take items that are harder or easier for the model, or "
         "another style."),
        (lambda v, p, t: (v, p & False, t),
         "none of the items passed, so there is nothing to tell apart; got 0 passed, 240 failed"),
        (lambda v, p, t: (v, t < "t4", t),
         "no task has both passed and failed items, so that passing cannot be told from the task; "
         "got 8 tasks, 120 items passed, 120 items failed"),
        (lambda v, p, t: (v[:8], np.arange(8) < 4, t[:8]), ""),
        (lambda v, p, t: (v[:6], np.arange(6) < 3, t[:6]),
         "can give a p-value below 0.1; got 3 passed and 3 failed items, 20 orders, expected at "
         "least 40 orders, of which two are as extreme as any"),
        (lambda v, p, t: (v, p * 2, t),
         "an outcome says whether an item passed; got 2, expected True or False, or 1 or 0, for "
         "each item; leave items without an outcome out."),
        (lambda v, p, t: (v, np.where(p, 1.0, np.nan), t), "passed; got nan, expected True or"),
        (lambda v, p, t: (v, p, [*t[:-2], None, np.nan]),
         "some items have no task; got 2 of 240, the first at place 238, expected a task for "
         "every item; give every record its 'task', or leave these items out."),
        (lambda v, p, t: (v, p, np.where(t == "t3", "", t)), "got 30 of 240, the first at place"),
        (lambda v, p, t: (v[:4], np.arange(4) < 1, t[:4]),
         "too few items to test: no permutation of their outcomes within tasks can give a p-value "
         "below 0.5; got 1 passed and 3 failed items, 4 orders, expected at least 40 orders"),
        (lambda v, p, t: (v, p, t[:-1]),
         "must match item by item; got values (240, 4, 10), 240 outcomes, 239 tasks"),
        (lambda v, p, t: (v * np.nan, p, t), "no item has a value"),
        (lambda v, p, t: (v + np.inf, p, t), "infinite values say nothing"),
    ],
)  # fmt: skip
def test_errors_say_what_is_lacking(change, told):
    values, passed, tasks, _ = world()
    arguments = change(values, passed, tasks)
    if not told:  # 70 orders are enough
        found = discriminate(*arguments, n_permutations=50)
        assert found.attrs["p_smallest"] == pytest.approx(2 / 70)
        return
    text = message(ContrastError, lambda: discriminate(*arguments, n_permutations=50))
    assert told.replace("120 items failed", "120 failed") in text


# --- predicting passes in new tasks --------------------------------------------------------------


def test_a_model_of_heads_predicts_in_new_tasks_what_the_baselines_cannot():
    values, passed, tasks, rng = world(effect=1.2)
    length = rng.normal(size=(len(tasks), 2))
    found = predict_passes(values, passed, tasks, {"length": length}, QUICK)
    models = found.models
    assert list(models["model"].values) == [HEADS, "length", BASELINES, BOTH]
    heads = models.sel(model=HEADS)
    assert heads["low"] > 0.6
    assert heads["p"] == 1 / 21
    assert heads["gain_low"] > 0.05
    assert models.sel(model="length")["p"] > 0.05
    assert np.isnan(models.sel(model="length")["gain"])
    assert found.n_chosen[2, 3] == 8
    assert found.n_chosen.sum() == 8 * 5


def test_outcomes_may_be_numbers():
    values, passed, tasks, _ = world(effect=1.0)
    for other in (passed.astype(int), passed.astype(float)):
        told, again = (predict_passes(values, one, tasks, None, QUICK) for one in (passed, other))
        xr.testing.assert_identical(told.models, again.models)
        pair = (discriminate(values, one, tasks, n_permutations=20) for one in (passed, other))
        xr.testing.assert_identical(*pair)


def test_no_p_is_below_the_smallest_that_is_named():
    values = np.arange(8.0).reshape(8, 1, 1)  # all passed items above all failed ones
    found = discriminate(values, np.arange(8) > 3, ["t"] * 8, n_permutations=5000)
    assert found.attrs["p_smallest"] == pytest.approx(2 / 70)
    assert found["p"].item() == pytest.approx(2 / 70, abs=0.01)


def test_heads_add_nothing_where_one_baseline_alone_is_better_than_all():
    _, passed, tasks, rng = world()
    better = (passed - 0.5) * 2 + rng.normal(size=len(passed))
    values = np.stack([better, *rng.normal(size=(9, len(passed)))], axis=1)[:, None, :]
    sure = np.where(passed, 1.0, -1.0) * np.exp(rng.normal(size=len(passed), scale=4))
    against = np.where(np.isin(tasks, ["t0", "t1", "t2"]), 1, -1) * np.where(passed, 3.0, -3.0)
    features = {"sure": sure[:, None], "length": against[:, None]}
    models = predict_passes(values, passed, tasks, features, QUICK).models
    auroc = models["auroc"].to_series()
    assert models.attrs["best"] == "sure"
    assert auroc["sure"] > auroc[BASELINES]
    both = models.sel(model=BOTH)
    assert both["gain_low"] > 0  # all baselines together are a weak yardstick here
    assert both["over_best_high"] < 0
    assert both["over_best"].item() == pytest.approx(auroc[BOTH] - auroc["sure"])
    result = PassFail(
        discriminate(values, passed, tasks, n_permutations=50).assign(n_folds_chosen=(
            ("layer", "head"), np.zeros((1, 10), int))),
        models, "enrichment", "answer", "history", "coarse", "written",
    )  # fmt: skip
    told = result.verdict()
    assert "Heads do not add to all baselines: +0." in told
    assert "] to sure alone." in told


def test_scores_are_judged_as_scikit_learn_does():
    values, passed, tasks, _ = world(effect=1.0, n_tasks=4)
    found = predict_passes(values, passed, tasks, None, QUICK)
    scores, weights, truth = found.scores[HEADS], [], []
    for task in sorted(set(tasks)):
        here = tasks == task
        n_up = int(passed[here].sum())
        weights.append(n_up * (here.sum() - n_up))
        truth.append(roc_auc_score(passed[here], scores[here]))
    np.testing.assert_allclose(
        found.models.sel(model=HEADS)["auroc"], np.average(truth, weights=weights)
    )


def test_heads_add_nothing_where_length_explains_passing():
    """Confounded: heads follow prompt length, and length decides."""
    values, passed, tasks, rng = world()
    length = rng.normal(size=len(tasks)) + 1.5 * passed
    values = 0.8 * length[:, None, None] + values
    found = predict_passes(values, passed, tasks, {"length": length[:, None]}, QUICK).models
    assert found.sel(model=HEADS)["p"] < 0.05  # heads alone look as if they told something
    assert found.sel(model="length")["auroc"] > 0.8
    assert found.sel(model=BOTH)["gain_low"] < 0 < found.sel(model=BOTH)["gain_high"] + 0.02


def test_choosing_heads_outside_of_the_folds_finds_passing_in_noise():
    """The same models, on the heads that look best over all tasks: what nesting is there for."""
    inside, outside = [], []
    for seed in range(6):
        values, passed, tasks, _ = world(seed, n_tasks=6, n_items=20, n_layers=10, n_heads=30)
        settings = PredictionSettings(n_heads=10, n_permutations=1, n_bootstrap=1)
        found = predict_passes(values, passed, tasks, None, settings)
        inside.append(float(found.models.sel(model=HEADS)["auroc"]))
        apart = np.abs(discriminate(values, passed, tasks, n_permutations=1)["auroc"].values - 0.5)
        best = np.argsort(-apart.ravel())[:10]
        chosen = values.reshape(len(values), -1)[:, None, best]
        cheated = predict_passes(chosen, passed, tasks, None, settings)
        outside.append(float(cheated.models.sel(model=HEADS)["auroc"]))
    assert 0.44 < np.mean(inside) < 0.56
    assert np.mean(outside) > 0.7


def test_the_null_of_the_whole_procedure_lies_around_one_half_and_p_is_even():
    small = PredictionSettings(n_heads=3, n_permutations=19, n_bootstrap=1)
    reached = []
    for seed in range(30):
        values, passed, tasks, _ = world(seed, n_tasks=4, n_items=20, easy=1.0)
        models = predict_passes(values[:, :2], passed, tasks, None, small).models
        reached.append(float(models.sel(model=HEADS)["p"]))
        assert 0.4 < models.sel(model=HEADS)["null_mean"] < 0.6
    assert np.mean(np.array(reached) <= 0.05) <= 0.2
    assert 0.3 < np.mean(reached) < 0.7


def test_one_task_or_tasks_of_one_outcome_cannot_be_left_out():
    values, passed, tasks, _ = world(n_tasks=1)
    assert message(ContrastError, lambda: predict_passes(values, passed, tasks)) == (
        "no model can be tried on a task that it did not learn from; got 1 of 1 tasks with both "
        "passed and failed items ('t0'), expected at least two; add task families that the model "
        "neither always nor never gets right."
    )
    assert "a baseline needs another name; got 'heads'" in message(
        ContrastError, lambda: predict_passes(values, passed, tasks, {"heads": values[:, 0]})
    )
    assert "got values of 30 items, 3 tasks" in message(
        ContrastError, lambda: predict_passes(values, passed, tasks[:3])
    )
    assert "'length': a model cannot learn from infinite values; got 1 of 30 values" in message(
        ContrastError,
        lambda: predict_passes(
            values, passed, tasks, {"length": np.where(np.arange(30) == 3, -np.inf, 1.0)[:, None]}
        ),
    )
    assert "n_heads=0" in message(ContrastError, lambda: PredictionSettings(n_heads=0))


def test_tasks_that_are_always_passed_are_learned_from_but_not_tried_on():
    values, passed, tasks, _ = world(effect=1.0)
    passed[tasks == "t5"] = True
    found = predict_passes(values, passed, tasks, None, QUICK)
    assert np.isnan(found.scores[HEADS][tasks == "t5"]).all()
    assert found.models.attrs["n_folds"] == 7


# --- the result ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result():
    values, passed, tasks, rng = world(effect=1.2)
    effects = discriminate(values, passed, tasks, n_permutations=500)
    length = {"length": rng.normal(size=(len(tasks), 1))}
    prediction = predict_passes(values, passed, tasks, length, QUICK)
    return PassFail(
        effects.assign(n_folds_chosen=(("layer", "head"), prediction.n_chosen)),
        prediction.models, "enrichment", "answer", "history", "coarse", "written",
        dropped={"negative controls": 3}, refused=("a baseline of difficulty: no record says it",),
        settings={"style": "coarse"},
    )  # fmt: skip


def test_the_verdict_says_what_was_found_and_what_not(result):
    told = result.verdict()
    assert "1 of 40 heads tell passed from failed records of the same task" in told
    assert "1 higher where the model passes, 0 lower" in told
    assert "layer 2 head 3 0." in told
    assert "The claim holds for: these tasks only." in told
    assert (
        "A model of 5 heads, chosen and learned without the task it is tried on, predicts" in told
    )
    assert "Without heads: length 0." in told
    assert "Heads add to all baselines: +0." in told
    assert "Refused: a baseline of difficulty: no record says it" in told
    assert told.endswith("Records left out: 3 negative controls.")


def test_files_say_the_same(result, tmp_path):
    facts = json.loads(result.save(tmp_path / "a" / "r.json").read_text(encoding="utf-8"))
    assert facts["verdict"] == result.verdict()
    assert [row["model"] for row in facts["models"]] == [HEADS, "length", BASELINES, BOTH]
    assert facts["models"][1]["gain"] is None
    assert facts["heads"][23]["auroc"] == float(result.effects["auroc"][2, 3])
    with result.save(tmp_path / "r.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 40
    assert rows[23]["n_folds_chosen"] == "8"
    assert rows[0]["measure"] == "enrichment"
    with xr.open_dataset(result.save(tmp_path / "r.nc"), engine="scipy") as read:
        np.testing.assert_array_equal(read["auroc"], result.effects["auroc"])
        assert read.attrs["style"] == "coarse"
    assert message(ContrastError, lambda: result.save(tmp_path / "r.txt")).endswith(
        "got suffix '.txt', expected .csv or .json or .nc."
    )


def test_the_panel_diverges_from_one_half_and_marks_the_head(result):
    panel = pass_fail_panel(result)
    assert np.argwhere(panel.marks).tolist() == [[2, 3]]
    assert panel.values[2, 3] == result.effects["auroc"].values[2, 3] - 0.5
    assert panel.limits[0] == -panel.limits[1]
    assert draw(panel) is not None
    strict = pass_fail_panel(result, alpha=1e-9)
    assert strict.mark_note.startswith("No head tells passed from failed")


# --- runs ----------------------------------------------------------------------------------------


def pupil_records(right):
    """Records of a model that writes `8` whatever it sees: right where 8 is asked for."""
    for i in range(36):
        for style in ("coarse", "stepwise"):
            record = make_record(i, style)
            answer = 8 if right[i] else 9
            meta = {"answer": [answer], "horizon": 1, "kind": "integer", "level": i % 4}
            yield replace(record, target=(Segment("answer", str(answer)),), meta=meta,
                          style="direct" if style == "coarse" else "other-direct",
                          id=f"{record.item}/{style}")  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A run in which those records pass where head (1, 2) looks more at the history than usual."""
    loaded = LoadedModel(saying("8"), make_tokenizer(), "pupil")
    folder = tmp_path_factory.mktemp("passfail")
    settings = ExtractSettings(("steps",), decode="greedy", max_new_tokens=1)
    records = [one for one in pupil_records([True] * 36) if one.style == "direct"]
    with extract(records, loaded, folder / "first", settings) as run:
        looks = measure(run, "enrichment", query="answer", key="history").sel(layer=1, head=2)
        tasks = looks["task"].values
        middle = {task: np.median(looks.values[tasks == task]) for task in set(tasks)}
        right = [bool(one > middle[task]) for one, task in zip(looks.values, tasks, strict=True)]
    styled = [one for one in pupil_records(right) if one.style == "direct"]
    extract(styled, loaded, folder / "run", settings).close()
    return folder / "run"


def test_a_run_tells_by_which_head_it_passes(planted):
    few = PredictionSettings(n_heads=2, n_permutations=19, n_bootstrap=200)
    with open_run(planted) as run:
        found = pass_fail(run, PassFailSettings(prediction=few, n_permutations=1000))
    best = found.strongest(1)[0]
    assert (best["layer"], best["head"], best["auroc"]) == (1, 2, 1.0)
    assert best["p_adjusted"] < 0.05
    assert found.style == "direct"
    assert found.effects.attrs["n_passed"] == 18
    names = [row["model"] for row in found.models_table()]
    assert {HEADS, "length", BASELINES, BOTH} <= set(names)
    assert "Refused: a baseline of log-probability: it does not vary" in found.verdict()
    assert found.models_table()[0]["p"] == 0.05
    # the largest number asked for tells 9 from 8: a baseline that knows the answer
    assert "difficulty" in names
    told = json.loads(found.to_json())
    assert told["settings"]["measure"] == "enrichment"


def test_a_stated_difficulty_is_taken_or_refused(planted):
    few = PredictionSettings(n_heads=1, n_permutations=1, n_bootstrap=1)
    with open_run(planted) as run:
        found = pass_fail(run, difficulty="level", prediction=few, n_permutations=10)
        assert "difficulty" in {row["model"] for row in found.models_table()}
        told = message(SelectionError, lambda: pass_fail(run, difficulty="levle", prediction=few))
    assert told.startswith("record 'item-000/coarse': a record does not say how hard it is; got ")
    assert "meta['levle'] = None, expected a number; did you mean 'level'?" in told


def test_errors_of_runs_name_the_remedy(planted, tmp_path):
    loaded = LoadedModel(saying("8"), make_tokenizer(), "pupil")
    gold = list(pupil_records([i // 6 % 2 == 0 for i in range(36)]))
    with extract(gold, loaded, tmp_path / "gold", ExtractSettings(("steps",))) as run:
        assert message(SelectionError, lambda: pass_fail(run, style="direct")) == (
            f"{tmp_path / 'gold'}: there is nothing to score: the model was shown the targets and "
            "wrote nothing; got decode 'gold'; extract again, into another folder, with --decode "
            "greedy; or ask with --outcome shown whether it would have predicted each token of the "
            "answer."
        )
        assert message(SelectionError, lambda: pass_fail(run)) == (
            f"{tmp_path / 'gold'}: the run has several styles, and passing is told from failing "
            "within one; got direct, other-direct; name one with --style."
        )
        shown = pass_fail(run, style="direct", outcome="shown", models=False, n_permutations=50)
        # every token predicted: the model says 8 whatever comes before
        assert shown.effects.attrs["n_passed"] == 18
        assert shown.models is None
        assert shown.models_table() == []
        assert "the run has no such style; got 'dirct'; did you mean 'direct'?" in message(
            SelectionError, lambda: pass_fail(run, style="dirct")
        )
    with open_run(planted) as run:
        assert "the model was shown no right answers: it wrote its own; got decode 'greedy'" in (
            message(SelectionError, lambda: pass_fail(run, outcome="shown"))
        )
        assert "no measure of that name; got 'enrichmnt'" in message(
            SelectionError, lambda: pass_fail(run, measure="enrichmnt")
        )
    assert "no such outcome; got wrote; did you mean 'written'?" in message(
        SelectionError, lambda: PassFailSettings(outcome="wrote")
    )


def test_one_task_is_told_without_a_model(tmp_path):
    loaded = LoadedModel(saying("8"), make_tokenizer(), "pupil")
    records = [
        replace(one, task="all")
        for one in pupil_records([i % 2 > 0 for i in range(36)])
        if one.style == "direct"
    ]
    settings = ExtractSettings(("steps",), decode="greedy", max_new_tokens=1)
    with extract(records, loaded, tmp_path / "run", settings) as run:
        found = pass_fail(run, n_permutations=50)
        assert "records are told apart by heads, and this measure does not" in message(
            SelectionError, lambda: pass_fail(run, measure="rollout")
        )
    assert found.models is None
    assert "Refused: a model that predicts passing: no model can be tried" in found.verdict()


def test_further_records_of_an_item_and_controls_are_left_out_and_told(tmp_path):
    loaded = LoadedModel(saying("8"), make_tokenizer(), "pupil")
    records = [one for one in pupil_records([i // 6 % 3 > 0 for i in range(36)])
               if one.style == "direct"]  # fmt: skip
    control = replace(records[0], id="c", item="c", meta=records[0].meta | {"control": True})
    records += [replace(records[1], id="again"), control]
    settings = ExtractSettings(("steps",), decode="greedy", max_new_tokens=1)
    with extract(records, loaded, tmp_path / "run", settings) as run:
        found = pass_fail(run, models=False, n_permutations=50)
    assert found.dropped["further ones of the same item"] == 1
    assert found.dropped["negative controls"] == 1
    assert found.effects.attrs["n_passed"] + found.effects.attrs["n_failed"] == 36


def test_the_command_tells_saves_and_draws(planted, tmp_path):
    def invoke(*args):
        return CliRunner().invoke(app, [str(arg) for arg in args])

    done = invoke("passfail", planted, "--permutations", 3, "--heads", 1, "-o", tmp_path / "r.json")
    assert done.exit_code == 0, done.stderr
    assert "heads tell passed from failed records of the same task" in done.stdout
    assert "1.000" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["models"]
    drawn = invoke("plot", "passfail", planted, "-o", tmp_path / "fig.svg")
    assert drawn.exit_code == 0, drawn.stderr
    assert "AUROC" in (tmp_path / "fig.svg").read_text()
    wrong = invoke("passfail", planted, "--style", "none")
    assert wrong.exit_code == 2
    assert "the run has no such style" in wrong.stderr
