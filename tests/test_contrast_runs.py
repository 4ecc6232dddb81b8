"""Contrasts of two runs: the same records under two models."""

from dataclasses import replace

import numpy as np
import pytest

from attnprobe.contrasts import contrast, contrast_runs
from attnprobe.errors import ContrastError
from attnprobe.store import open_run
from tests.store.builders import make_run
from tests.test_contrasts import ENCODED, memory_run

STYLES = ("coarse", "stepwise")


def looking(run, layers=(0, 1), heads=(0, 1), model="one"):
    run.layers, run.heads, run.model = layers, heads, {"id": model, "n_layers": len(layers)}
    return run


def two_runs(effect=0.3, split_effect=0.0):
    """In the first run, both styles look at the history more in head 1 of layer 1."""
    base = looking(memory_run(effect=0.0, n_tasks=8, seed=1), model="base")
    tuned = looking(memory_run(effect=0.0, n_tasks=8, seed=1), model="tuned")
    rng = np.random.default_rng(2)
    for run in (base, tuned):
        run.records["split"] = ["unseen" if t >= "t4" else "seen" for t in run.records["task"]]
    for name, mass in tuned.step_mass.items():
        move = effect + rng.normal(scale=0.02)
        move += split_effect * (name < "t4") * name.endswith("coarse")
        mass.values[1, 1, :, 2] += move
        mass.values[1, 1, :, 3] -= move
    return tuned, base


def test_one_style_is_compared_between_two_models():
    found = contrast_runs(*two_runs(), style="coarse", names=("tuned", "base"))
    assert (found.effects["p_adjusted"].values < 0.05).tolist() == [[False, False], [False, True]]
    assert found.effects["estimate"].values[1, 1] > 0.5
    assert found.effects["estimate"].values[0] == pytest.approx(0)
    assert found.title == "enrichment, answer → history: coarse, tuned − base"
    assert found.n_pairs == 16
    assert "1 higher with tuned, 0 higher with base" in found.verdict()


def test_the_difference_of_styles_is_compared_between_two_models():
    tuned, base = two_runs(effect=0.1, split_effect=0.2)
    found = contrast_runs(
        tuned, base, a="coarse", b="stepwise", measure="mass", names=("tuned", "base")
    )
    inside = [contrast(run, a="coarse", b="stepwise", measure="mass") for run in (tuned, base)]
    want = inside[0].effects["estimate"].values - inside[1].effects["estimate"].values
    assert found.effects["estimate"].values == pytest.approx(want, abs=1e-6)
    assert found.title == "mass, answer → history: coarse − stepwise, tuned − base"


def test_a_change_can_be_another_in_seen_tasks():
    tuned, base = two_runs(effect=0.05, split_effect=0.15)
    found = contrast_runs(
        tuned, base, style="coarse", interaction="split", measure="mass", names=("tuned", "base")
    )
    assert (found.effects["p_adjusted"].values < 0.05).tolist() == [[False, False], [False, True]]
    assert found.effects["estimate"].values[1, 1] == pytest.approx(0.15, abs=0.03)
    assert found.title == "mass, answer → history: coarse, tuned − base, seen − unseen"
    assert "(4 seen, 4 unseen; 16 pairs), all 70 permutations" in found.verdict()


def test_runs_turn_round():
    tuned, base = two_runs()
    one = contrast_runs(tuned, base, style="coarse")
    other = contrast_runs(base, tuned, style="coarse")
    assert one.effects["estimate"].values == pytest.approx(-other.effects["estimate"].values)


def test_items_of_one_run_only_are_counted():
    tuned, base = two_runs()
    base.records = base.records.drop(["t0-0/coarse", "t3-1/coarse"])
    found = contrast_runs(tuned, base, style="coarse", names=("tuned", "base"))
    assert found.dropped["only in tuned"] == 2
    assert found.n_pairs == 14


def test_runs_of_another_shape_are_refused():
    tuned, base = two_runs()
    base.heads = (0, 1, 2)
    with pytest.raises(ContrastError) as caught:
        contrast_runs(tuned, base, style="coarse")
    assert "the two runs do not have the same heads" in str(caught.value)
    assert "got 2 layers × 2 heads and 2 layers × 3 heads" in str(caught.value)


def test_the_same_numbers_of_other_layers_are_refused_too():
    tuned, base = two_runs()
    base.layers = (0, 2)
    with pytest.raises(ContrastError, match=r"layers \(0, 1\) …, heads .* and layers \(0, 2\) …"):
        contrast_runs(tuned, base, style="coarse")


def test_two_styles_of_two_runs_need_one_model():
    tuned, base = two_runs()
    with pytest.raises(ContrastError) as caught:
        contrast(tuned, other=base, a="coarse", b="stepwise")
    assert "a difference between the styles cannot be told from one between the models" in str(
        caught.value
    )
    assert "they differ in id" in str(caught.value)
    assert "compare one style over two models" in str(caught.value)


def test_two_styles_may_lie_in_two_runs_of_one_model():
    run = looking(memory_run())
    whole = contrast(run, a="coarse", b="stepwise")
    parts = []
    for style in ("coarse", "stepwise"):
        part = looking(memory_run())
        part.records = part.records[part.records["style"] == style]
        parts.append(part)
    found = contrast(parts[0], other=parts[1], a="coarse", b="stepwise")
    assert found.effects["estimate"].values == pytest.approx(whole.effects["estimate"].values)
    assert found.effects["p_adjusted"].values == pytest.approx(whole.effects["p_adjusted"].values)


def test_roles_of_one_of_two_runs_are_told(tmp_path):
    paths = [make_run(tmp_path / style, tasks=7, styles=(style,)) for style in STYLES]
    with open_run(paths[0]) as run, open_run(paths[1]) as other:
        found = contrast(run, other=other, a="coarse", b="stepwise")
    assert "coarse_history: only coarse has it, so not compared directly" in found.refused
    assert found.settings["b_run"] == str(paths[1])
    assert found.n_pairs == 14


def test_a_yardstick_from_all_records_needs_one_run(tmp_path):
    beyond = "enrichment_beyond_recency"
    with (
        open_run(make_run(tmp_path / "run", tasks=7)) as run,
        pytest.raises(ContrastError) as caught,
    ):
        contrast(run, other=run, a="coarse", b="stepwise", measure=beyond)
    assert "got 'enrichment_beyond_recency' over two runs" in str(caught.value)
    assert "extract both styles into one run" in str(caught.value)


def test_other_problems_under_the_same_names_are_refused(tmp_path):
    paths = [make_run(tmp_path / f"seed-{seed}", tasks=7, seed=seed) for seed in (0, 1)]
    with open_run(paths[0]) as run, open_run(paths[1]) as other:
        with pytest.raises(ContrastError) as caught:
            contrast_runs(run, other, style="coarse")
        assert str(caught.value).startswith(
            "record 'task0-000/coarse': the two runs have different prompts under one name; got '"
        )
        assert "names do not tell seeds apart" in str(caught.value)
    first, second = looking(memory_run()), looking(memory_run(seed=1))
    for run, answer in ((first, [1, 2]), (second, [1, 3])):
        record = replace(ENCODED.record, meta={"answer": answer})
        told = type("Told", (ENCODED,), {"record": record})
        run.encoding = lambda _, told=told: told
    with pytest.raises(ContrastError) as caught:
        contrast(first, other=second, a="coarse", b="stepwise")
    assert str(caught.value) == (
        "item 't0-0': the two runs have different problems under one name; got the answers [1, 2] "
        "in 'coarse' and [1, 3] in 'stepwise', expected one problem in two styles; make both "
        "styles from one dataset; names do not tell seeds apart."
    )


def test_a_model_against_itself_has_nothing_to_test():
    base = two_runs()[1]
    with pytest.raises(ContrastError, match=r"all pairs are equal.*under the same model"):
        contrast_runs(base, base, style="coarse")


@pytest.mark.parametrize("asked", [{}, {"style": "coarse", "a": "coarse"}, {"a": "coarse"}])
def test_styles_must_be_named_one_way(asked):
    with pytest.raises(ContrastError, match="name one style to compare the runs in, or two"):
        contrast_runs(*two_runs(), **asked)


def test_a_ratio_of_differences_is_refused():
    with pytest.raises(ContrastError, match="a difference between styles has no ratio"):
        contrast_runs(*two_runs(), a="coarse", b="stepwise", measure="mass", scale="log-ratio")


def test_stored_runs_are_called_by_their_folders(tmp_path):
    paths = [
        make_run(tmp_path / name, tasks=6, items_per_task=2, effect=effect, keep=("steps",))
        for name, effect in (("tuned", 2.0), ("base", 0.0))
    ]
    with open_run(paths[0]) as tuned, open_run(paths[1]) as base:
        found = contrast_runs(tuned, base, style="coarse")
    assert (found.a, found.b) == ("tuned", "base")
    assert (found.effects["estimate"].values > 0).all()
    assert found.settings["styles"] == "coarse"
