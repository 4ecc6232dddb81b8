"""What a contrast says: the omnibus test, refusals, the methods paragraph."""

import json

import numpy as np
import pytest
import xarray as xr

from attnprobe.contrasts import contrast
from attnprobe.errors import ContrastError, FigureError, SelectionError
from attnprobe.measures import MEASURES, Measure
from attnprobe.panels import head_panel
from attnprobe.store import open_run
from tests.store.builders import make_run
from tests.test_contrasts import memory_run, shift_to_sinks


def spread_run(n_tasks=8, effect=0.012):
    """In 'coarse', every head of layer 0 looks at the history a little more."""
    run = memory_run(n_tasks=n_tasks, effect=0.0)
    rng = np.random.default_rng(5)
    for name, mass in run.step_mass.items():
        noise = rng.normal(scale=0.02, size=mass.shape[:3])
        wide = xr.concat([mass] * 10, "head").assign_coords(head=range(20))
        wide.values[...] = np.repeat(mass.values[:, :1], 20, axis=1)
        noise = rng.normal(scale=0.03, size=wide.shape[:3])
        noise[0] += effect * name.endswith("coarse")
        wide.values[..., 2] = 0.3 + noise
        wide.values[..., 3] = 0.4 - noise
        run.step_mass[name] = wide
    return run


def test_a_small_effect_spread_over_a_layer_is_found_by_the_omnibus_test_first():
    found = contrast(spread_run(), a="coarse", b="stepwise", measure="mass")
    assert not (found.effects["p_adjusted"].values < 0.05).any()
    assert found.omnibus.p < 0.05
    assert found.omnibus.strongest == "layer 0 → history"
    assert found.omnibus.estimate == pytest.approx(0.012, abs=0.006)
    assert "Anything at all (layer × span, means over heads (history" in found.verdict()
    assert "): yes, p 0.0078 over" in found.verdict()


def test_the_omnibus_test_says_when_nothing_is_shown():
    found = contrast(memory_run(n_tasks=8, effect=0.0), a="coarse", b="stepwise")
    assert found.omnibus.p >= 0.05
    assert "not shown, p 0." in found.verdict()
    facts = json.loads(found.to_json())["omnibus"]
    assert facts["family"] == "layer × span"
    assert facts["p"] == pytest.approx(found.omnibus.p)


def test_the_omnibus_family_of_a_measure_without_keys_is_layers():
    run = memory_run()
    shift_to_sinks(run, "coarse", 0.1)
    found = contrast(run, a="coarse", b="stepwise", measure="sink_mass")
    assert found.omnibus.family == "layer"
    assert found.omnibus.spans == ()


def test_layer_contrasts_are_contrasts_of_means_over_heads():
    run = memory_run(n_tasks=8)
    heads = contrast(run, a="coarse", b="stepwise")
    layers = contrast(run, a="coarse", b="stepwise", over="layer")
    want = heads.effects["estimate"].mean("head").values
    assert layers.effects["estimate"].values == pytest.approx(want, abs=1e-6)
    assert layers.effects["estimate"].dims == ("layer",)
    assert "1 of 2 layers differ" in layers.verdict()
    assert [row["layer"] for row in layers.to_table()] == [0, 1]


def test_span_pairs_are_one_family(tmp_path):
    with open_run(make_run(tmp_path / "run", tasks=8, effect=2.0)) as run:
        found = contrast(run, a="coarse", b="stepwise", over="span")
        assert found.effects["estimate"].dims == ("query_role", "key_role")
        assert found.effects["query_role"].values.tolist() == ["answer"]
        best = found.effects["p_adjusted"].sel(query_role="answer", key_role="history")
        assert best.item() < 0.05
        assert "answer → history +" in found.verdict()
        saved = found.save(tmp_path / "spans.nc")
    with xr.open_dataset(saved, engine="scipy") as back:
        assert back["key_role"].values.tolist() == found.effects["key_role"].values.tolist()
        assert json.loads(back.attrs["omnibus"])["family"] == "layer × query × span"


def test_measures_without_heads_are_compared_by_what_they_have(monkeypatch):
    def whole(steps):
        return steps.mass[..., 2:3].mean(axis=(0, 1), keepdims=True)

    made = Measure("probability", "mean mass of all heads", whole, axes=())
    monkeypatch.setitem(MEASURES, "whole_mass", made)
    found = contrast(memory_run(n_tasks=8), a="coarse", b="stepwise", measure="whole_mass")
    assert found.over == "whole"
    assert found.effects["estimate"].shape == ()
    assert "1 of 1 values differ" in found.verdict()
    assert "the whole +" in found.verdict()


def test_an_interaction_is_worded_with_its_groups_and_scale():
    run = memory_run(n_tasks=9, effect=0.0)
    run.records["split"] = ["seen" if task < "t5" else "unseen" for task in run.records["task"]]
    for name, mass in run.step_mass.items():
        if name < "t5" and name.endswith("coarse"):
            mass.values[1, 1, :, 2] += 0.3
            mass.values[1, 1, :, 3] -= 0.3
    found = contrast(
        run, a="coarse", b="stepwise", interaction="split", measure="mass", scale="log-ratio"
    )
    text = found.verdict()
    assert found.title == "mass, answer → history: coarse − stepwise, seen − unseen"
    assert found.unit == "bits"
    assert "1 of 4 heads differ at a family-wise error rate of 0.05: 1 higher with seen" in text
    assert "Labels permuted by task over 9 tasks (5 seen, 4 unseen; 18 pairs), all 126" in text
    assert "Scale: log-ratio." in text
    methods = found.methods()
    assert "of coarse − stepwise between seen and unseen, as log2 ratios" in methods
    assert "permuting which tasks belong to seen (5) and unseen (4)" in methods
    assert "effect sizes g_s" in methods
    assert "takes tasks of both groups to be alike but for their mean" in methods
    assert "置换各任务的分组标签" in found.methods("zh")
    assert "该检验假定两组任务除均值外分布相同" in found.methods("zh")
    by_item = contrast(run, a="coarse", b="stepwise", interaction="split", by="item").verdict()
    assert "so the groups cannot be told from their tasks" in by_item
    run.records.loc[run.records["task"] == "t8", "split"] = "elsewhere"
    fewer = contrast(run, a="coarse", b="stepwise", interaction="split")
    assert "(5 seen, 3 unseen; 16 pairs)" in fewer.verdict()
    assert "Items left out: 2 in another group." in fewer.verdict()
    assert "over 16 paired problems of 8 tasks" in fewer.methods()


def test_the_methods_paragraph_follows_the_settings():
    run = memory_run(n_tasks=13)
    drawn = contrast(run, a="coarse", b="stepwise", n_flips=500, rng=3, n_bootstrap=100).methods()
    assert "of attention" not in drawn
    assert "enrichment (log2 of a span's share" in drawn
    assert "over 26 paired problems of 13 tasks, for each attention head" in drawn
    assert "flipping the signs of whole tasks (13)" in drawn
    assert "(501 at random, seed 3; smallest attainable p 0.002)" in drawn
    assert "differ as much in the one direction as in the other (symmetry about 0)" in drawn
    assert "The p-values were adjusted for 4 tests by the step-down maximum statistic" in drawn
    assert "An omnibus test came first" in drawn
    assert "after Benjamini & Hochberg (1995)" in drawn
    assert "95 % percentile bootstrap intervals" in drawn
    assert "resampling tasks (100 resamples; with only 13 they cover less)" in drawn
    other = contrast(run, a="coarse", b="stepwise", by="item", screening="by", confidence=0.9)
    assert "these tasks only" in other.methods()
    assert "Benjamini & Yekutieli (2001)" in other.methods()
    assert "90 % percentile" in other.methods()
    assert "resampling items (2,000 resamples); effect sizes" in other.methods()
    few = contrast(memory_run(n_tasks=6), a="coarse", b="stepwise").methods("zh")
    assert "以任务为推断单位" in few
    assert "该检验假定在没有效应时，任务的差异关于 0 对称" in few
    assert "错误发现率" not in few
    assert "单位较少，实际覆盖率偏低" in few
    with pytest.raises(SelectionError, match="no methods paragraph in this language; got 'de'"):
        contrast(run, a="coarse", b="stepwise").methods("de")


def test_screening_is_counted_or_refused_with_the_reason():
    text = contrast(memory_run(n_tasks=12), a="coarse", b="stepwise", screening="by").verdict()
    assert "Screening at a false discovery rate of 0.05 (Benjamini–Yekutieli): 1 head." in text
    text = contrast(memory_run(n_tasks=7), a="coarse", b="stepwise").verdict()
    assert "No screening by false discovery rate: 7 tasks, and below 12 single p-values" in text


def test_a_map_of_heads_needs_heads():
    found = contrast(memory_run(), a="coarse", b="stepwise", over="layer")
    with pytest.raises(FigureError, match="needs a contrast of heads; got dims layer, expected"):
        head_panel(found)
    heads = contrast(memory_run(), a="coarse", b="stepwise")
    assert "(sign flips by task, 6 tasks)" in head_panel(heads).mark_note


def test_unknown_things_are_told():
    run = memory_run()
    with pytest.raises(
        ContrastError, match="nothing is compared over this; got 'spans'; did you m"
    ):
        contrast(run, a="coarse", b="stepwise", over="spans")
    with pytest.raises(ContrastError, match="this measure has no keys, and so no span pairs"):
        contrast(run, a="coarse", b="stepwise", over="span", measure="sink_mass")
    with pytest.raises(SelectionError, match="no such column; got 'splits'; did you mean 'split'"):
        contrast(run, a="coarse", b="stepwise", interaction="splits")
