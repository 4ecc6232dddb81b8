"""The short form of the validation: each world a few times, and the machinery around them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import validate_statistics  # noqa: E402
from validation import assumptions, attending, blocks, chains, gaussian, page  # noqa: E402
from validation.study import Study, fwer  # noqa: E402


def mean_of(run, n_runs, *arguments, **named):
    found = [run(*arguments, rng=np.random.default_rng([7, i]), **named) for i in range(n_runs)]
    return {name: np.mean([one[name] for one in found]) for name in found[0]}


def test_the_error_rate_is_held_by_task_and_lost_by_item():
    by_task = mean_of(gaussian.null_by_task, 40, 0.15, False)
    assert by_task["max-T"] <= 0.05 + 3.1 * np.sqrt(0.05 * 0.95 / 40)
    assert mean_of(gaussian.null_by_item, 4, 0.15)["max-T"] >= 0.75


def test_task_means_are_those_of_items():
    """Drawing means is exact: they have the mean and the variance of means of items."""
    rng = np.random.default_rng(3)
    drawn = np.concatenate([gaussian.task_means(rng, 0.3, 12, 50).ravel() for _ in range(20)])
    effects = 0.3 * rng.normal(size=(2000, 1))
    items = (effects + rng.normal(size=(2000, 50))).mean(axis=1)
    want = 0.3**2 + 1 / 50
    assert drawn.var() == pytest.approx(want, rel=0.02)
    assert items.var() == pytest.approx(want, rel=0.1)
    assert drawn.mean() == pytest.approx(0, abs=0.005)


def test_planted_heads_are_found_and_others_are_not():
    assert mean_of(gaussian.planted, 2, 0.5, 0.0, 12, 50)["max-T power"] == 1.0
    found = mean_of(gaussian.planted, 6, 0.5, 0.15, 12, 50)
    assert found["max-T power"] >= 0.85  # 0.90 over 100 runs
    assert found["BH power"] >= 0.9
    assert found["BH FDR"] < 0.15
    assert mean_of(gaussian.planted, 3, 0.1, 0.15, 12, 50)["max-T power"] < 0.1


def test_an_interaction_is_found_where_there_is_one():
    assert mean_of(gaussian.interaction, 3, 1.5, 0.5, 6, 6)["max-T power"] >= 0.9
    assert mean_of(gaussian.interaction, 10, 0.0, 0.5, 6, 6)["max-T"] <= 0.2


def test_length_moves_mass_and_density_but_not_enrichment():
    found = mean_of(attending.length, 2, 8.0)
    assert found["mass"] == found["density"] == 1.0
    assert found["enrichment"] == found["lift, log-ratio"] == 0.0
    assert abs(found["bias of enrichment, bits"]) < 0.005


def test_a_shifting_sink_is_an_outcome_of_its_own():
    found = mean_of(attending.shifting_sink, 1)
    assert found["mass"] == found["density"] == found["sink mass"] == 1.0
    assert found["enrichment"] == 0.0


def test_recency_moves_enrichment_but_not_what_is_beyond_recency():
    found = mean_of(attending.recency, 1, 32.0)
    assert found["mass"] == found["enrichment"] == 1.0
    assert found["enrichment beyond recency"] == 0.0


def test_broken_assumptions_give_false_findings():
    assert mean_of(assumptions.skewed, 20, 1.0)["max-T"] > 0.1
    equal, unequal = (
        mean_of(assumptions.unequal_spreads, 20, 9, 6, ratio)["max-T"] for ratio in (1.0, 3.0)
    )
    assert equal < 0.3 < unequal
    few, many = (mean_of(assumptions.coverage, 5, n)["coverage"] for n in (6, 30))
    assert few < 0.9 < many < 0.95


def test_a_chain_is_found_by_total_influence_only():
    found = mean_of(chains.hops, 1)
    assert found["total influence: chains"] == 1.0
    assert found["mass: chains"] == found["total influence: other heads"] == 0.0


def coin(rng):
    return {"max-T": rng.random() < 0.05, "power": rng.random()}


COIN = Study("coin/d 1", "a coin", 60, coin, (fwer("max-T"),))


def test_a_validation_goes_on_where_it_stopped_and_ends_the_same(tmp_path):
    whole, halves = blocks.Blocks(tmp_path / "whole.jsonl"), blocks.Blocks(tmp_path / "half.jsonl")
    for block in list(whole.missing([COIN])):
        whole.run(*block)
    study, first, n_runs = next(halves.missing([COIN]))
    halves.run(study, first, n_runs)
    again = blocks.Blocks(tmp_path / "half.jsonl")
    left = list(again.missing([COIN]))
    assert [(first, n) for _, first, n in left] == [(25, 25), (50, 10)]
    for block in reversed(left):
        again.run(*block)
    assert (tmp_path / "whole.jsonl").read_bytes() == (tmp_path / "half.jsonl").read_bytes()
    found = {one.outcome: one for one in again.found([COIN])}
    assert found["max-T"].n_runs == 60
    values = [coin(COIN.generator(i))["power"] for i in range(60)]
    assert found["power"].mean == pytest.approx(np.mean(values))
    assert found["power"].error == pytest.approx(np.std(values, ddof=1) / np.sqrt(60))


def test_blocks_of_other_sources_are_not_kept(tmp_path):
    path = tmp_path / "blocks.jsonl"
    kept = blocks.Blocks(path)
    kept.run(COIN, 0, 25)
    lines = [json.loads(line) | {"code": "other"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(blocks.Blocks(path, of_any_code=True).lines) == 1
    assert blocks.Blocks(path).found([COIN]) == []
    assert len(blocks.Blocks(path, of_any_code=True).found([COIN])) == 2
    assert [first for _, first, _ in blocks.Blocks(path).missing([COIN])] == [0, 25, 50]


def test_what_does_not_hold_is_said_and_fails(tmp_path, monkeypatch, capsys):
    always = Study("null/wrong", "rejects always", 4, lambda _: {"max-T": 1.0}, (fwer("max-T"),))
    monkeypatch.setattr(validate_statistics, "all_studies", lambda: [always, COIN])
    monkeypatch.setattr(sys, "argv", ["validate_statistics", "--out", str(tmp_path)])
    assert validate_statistics.main() == 1
    assert "null/wrong: max-T 1.000, expected 0.000 … 0.388" in capsys.readouterr().out
    text = (tmp_path / "statistics.md").read_text(encoding="utf-8")
    assert "| wrong | max-T | 4 | 1.000 ± 0.000 | 0 … 0.388 | **no** |" in text
    rows = json.loads((tmp_path / "statistics.json").read_text(encoding="utf-8"))
    assert [row["holds"] for row in rows if row["outcome"] == "max-T"] == [False, True]


def test_power_is_drawn_where_there_are_curves(tmp_path):
    chosen = [s for s in gaussian.studies() if "12 tasks × 50 items/d 0." in s.name][:4]
    kept = blocks.Blocks(tmp_path / "blocks.jsonl", share=0.02)
    for block in list(kept.missing(chosen)):
        kept.run(*block)
    (panel,) = page.power_panels(kept.found(chosen))
    (line,) = panel.lines
    assert line.label == "task sd 0"
    assert line.x.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert line.y[0] < line.y[-1]


def test_names_of_studies_differ():
    names = [study.name for study in validate_statistics.all_studies()]
    assert len(set(names)) == len(names)
