import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from attnprobe.errors import MeasureError, SelectionError
from attnprobe.measures import (
    EPSILON,
    MEASURES,
    StepMass,
    density,
    enrichment,
    mean_over_steps,
    measure,
    role_enrichment,
    role_order,
    roles_by_style,
    sink_mass,
    sort_roles,
    span_mass,
)
from attnprobe.store import open_run
from attnprobe.types import Span
from tests.store.builders import make_run


@dataclass
class MemoryRun:
    """A run in memory: the table of records, and step masses by record id."""

    records: pd.DataFrame
    step_mass: dict[str, xr.DataArray]

    def iter_step_mass(self, ids=None, layer=None, head=None):
        for record_id in ids or self.step_mass:
            yield record_id, self.step_mass[record_id]


# One record of 6 prompt tokens and 2 target tokens. Groups: BOS sink | 1 template key |
# 2 history keys | 2 template keys | the first answer token.
ROLES = ["special", "template", "history", "template", "answer"]
IS_SINK = [True, False, False, False, False]
SIZES = np.array([[1, 1, 2, 2, 0], [1, 1, 2, 2, 1]])


def step_mass(mass, roles=ROLES, is_sink=IS_SINK, visible=SIZES, step_roles=("answer", "answer")):
    mass = np.asarray(mass, dtype=np.float32)
    n_layers = mass.shape[0]
    return xr.DataArray(
        mass,
        dims=("layer", "head", "step", "group"),
        coords={
            "layer": range(n_layers),
            "head": range(mass.shape[1]),
            "role": ("group", list(roles)),
            "is_sink": ("group", list(is_sink)),
            "step_role": ("step", list(step_roles)),
            "visible": (
                ("layer", "step", "group"),
                np.broadcast_to(visible, (n_layers, *np.shape(visible))),
            ),
        },
    )


def table(*rows):
    frame = pd.DataFrame(rows, columns=["id", "item", "style", "task", "split"])
    return frame.set_index("id")


def one_record_run(mass, **changes):
    return MemoryRun(
        table(("r1", "i1", "coarse", "t1", "seen")), {"r1": step_mass(mass, **changes)}
    )


def even(sink):
    """Attention spread evenly over the keys that are no sinks, `sink` going to the sink."""
    mass = np.zeros((1, 1, 2, 5))
    for step in range(2):
        sizes = SIZES[step, 1:]
        mass[0, 0, step] = [sink, *((1 - sink) * sizes / sizes.sum())]
    return mass


def test_span_mass_sums_the_keys_of_the_span():
    weights = np.array([[[[0.1, 0.2, 0.3, 0.4]]]])
    assert span_mass(weights, Span(1, 3, "history"))[0, 0, 0] == pytest.approx(0.5)


def test_span_mass_refuses_a_span_past_the_keys():
    with pytest.raises(SelectionError, match=r"got \[3, 5\), expected a range within \[0, 4\)"):
        span_mass(np.ones((1, 4)) / 4, Span(3, 5, "history"))


def test_density_is_mass_per_visible_key_and_nan_without_keys():
    got = density(np.array([0.6, 0.0]), np.array([3, 0]))
    assert got[0] == pytest.approx(0.2)
    assert np.isnan(got[1])


def test_enrichment_by_hand():
    # m = 0.5 on 2 of 8 keys: log2[(0.5 + 0.0025) / (1.01 · 0.25)] = log2(1.990099)
    got = enrichment(np.array([0.5]), np.array([2]), np.array([8]))
    assert got == pytest.approx(0.992840, abs=1e-6)


def test_enrichment_of_nothing_is_the_documented_lower_bound():
    got = enrichment(np.array([0.0, 0.0]), np.array([1, 7]), np.array([9, 9]))
    assert got == pytest.approx(np.log2(EPSILON / (1 + EPSILON)))


def test_enrichment_is_zero_where_the_share_is_that_of_the_keys():
    n_keys = np.arange(1, 50)
    assert enrichment(n_keys / 50, n_keys, np.array([50])) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("sink", [0.0, 0.3, 0.9, 0.999])
def test_even_attention_has_no_enrichment_whatever_the_sink_takes(sink):
    got = measure(one_record_run(even(sink)))
    assert got.sel(query_role="answer").drop_sel(key_role="special").values == pytest.approx(
        0, abs=1e-4
    )


def test_lift_is_enrichment_without_logarithm_and_smoothing():
    run = one_record_run(even(0.4))
    lift = measure(run, "lift", query="answer", key="history").values
    assert lift == pytest.approx(1.0)
    run.step_mass["r1"].values[..., 2] *= 3
    lift = measure(run, "lift", query="answer", key="history").values
    bits = measure(run, "enrichment", query="answer", key="history").values
    assert bits == pytest.approx(np.log2((lift + 0.01) / 1.01), abs=0.02)
    assert (lift > 1.5).all()


def test_a_role_that_is_all_sink_has_no_enrichment():
    got = measure(one_record_run(even(0.5)))
    assert np.isnan(got.sel(key_role="special")).all()


def test_mass_sums_to_one_over_key_roles_and_counts_the_sinks():
    got = measure(one_record_run(even(0.4)), "mass").sel(query_role="answer")
    assert got.sum("key_role").values == pytest.approx(1)
    assert got.sel(key_role="special").item() == pytest.approx(0.4)


def test_steps_of_a_role_are_averaged_where_defined():
    # The answer's own span has no visible key at step 0, so step 1 alone counts.
    mass = even(0.0)
    mass[0, 0, 1] = [0, 0, 0, 0.4, 0.6]
    got = measure(one_record_run(mass), "density").isel(record=0, layer=0, head=0, query_role=0)
    assert got.sel(key_role="answer").item() == pytest.approx(0.6)
    assert got.sel(key_role="history").item() == pytest.approx((0.2 + 0.0) / 2)
    assert got.sel(key_role="template").item() == pytest.approx((0.2 + 0.4 / 3) / 2)


def test_mean_over_steps_is_nan_where_no_step_is_defined():
    values = np.array([[[[np.nan, 1.0], [np.nan, 3.0]]]])
    assert np.isnan(mean_over_steps(values)[0, 0, 0])
    assert mean_over_steps(values)[0, 0, 1] == 2


def test_sink_mass_has_no_key_role():
    got = measure(one_record_run(even(0.4)), "sink_mass")
    assert got.dims == ("record", "layer", "head", "query_role")
    assert got.item() == pytest.approx(0.4)


def test_sinks_are_in_no_key_of_enrichment():
    mass = np.array([[[[0.7, 0.3]]]])
    steps = StepMass(
        mass=mass,
        visible=np.array([[[1, 4]]]),
        is_sink=np.array([True, False]),
        members=np.array([[True], [True]]),
    )
    assert role_enrichment(steps).item() == pytest.approx(0)
    assert sink_mass(steps).item() == pytest.approx(0.7)


def test_a_head_that_gives_all_to_sinks_has_no_enrichment():
    mass = even(0.0)
    mass[0, 0, 0] = [1, 0, 0, 0, 0]
    got = measure(one_record_run(mass), query="answer", key="history")
    assert got.item() == pytest.approx(0, abs=1e-6)  # step 1 alone counts


def test_measure_says_what_it_is():
    got = measure(one_record_run(even(0.1)), query="answer", key="history")
    assert got.dims == ("record", "layer", "head")
    assert got.attrs["units"] == "bits"
    assert got.attrs["measure"] == "enrichment"
    assert "0 where attention is even" in got.attrs["description"]
    assert got["item"].values.tolist() == ["i1"]
    assert got["task"].dims == ("record",)


def test_a_list_keeps_the_role_dimension_and_a_pattern_merges_roles():
    run = one_record_run(even(0.0), step_roles=("step_1", "step_2"))
    got = measure(run, "mass", query=["step_*"], key="[ht]*")
    assert got.dims == ("record", "layer", "head", "query_role")
    assert got["query_role"].values.tolist() == ["step_*"]
    # step 0: 5 of 5 keys; step 1: 5 of 6 keys
    assert got.item() == pytest.approx((1 + 5 / 6) / 2)


def test_a_role_that_a_record_lacks_is_nan_there():
    run = one_record_run(even(0.0))
    run.records = table(("r1", "i1", "coarse", "t", ""), ("r2", "i1", "stepwise", "t", ""))
    run.step_mass["r2"] = step_mass(
        even(0.0)[..., :3], ROLES[:3], IS_SINK[:3], SIZES[:, :3], ("answer", "unparsed")
    )
    got = measure(run, "mass")
    assert got.sel(record="r2", key_role="answer").isnull().all()
    assert got.sel(record="r1", query_role="unparsed").isnull().all()
    assert got.sel(record="r1", query_role="answer").notnull().all()


def test_an_unknown_measure_lists_what_there_is():
    with pytest.raises(SelectionError, match=r"got 'enrichmnt'; did you mean 'enrichment'\?"):
        measure(one_record_run(even(0.0)), "enrichmnt")


def test_an_unknown_role_lists_what_there_is():
    with pytest.raises(SelectionError) as caught:
        measure(one_record_run(even(0.0)), query="answer", key="histroy")
    assert "no record has the key role 'histroy'" in str(caught.value)
    assert "did you mean 'history'? there is: answer, history, special, template" in str(
        caught.value
    )


def test_an_unknown_record_is_refused():
    with pytest.raises(SelectionError, match="no record of that id; got 'r9'"):
        measure(one_record_run(even(0.0)), ids=["r9"])
    with pytest.raises(SelectionError, match="no record was chosen"):
        measure(one_record_run(even(0.0)), ids=[])


def test_a_run_without_step_masses_says_what_to_keep():
    run = one_record_run(even(0.0))
    run.step_mass = {}
    with pytest.raises(MeasureError, match="--keep rows or --keep steps"):
        measure(run)


def test_nothing_measured_is_an_error():
    with pytest.raises(MeasureError, match="undefined in all 1 records"):
        measure(one_record_run(even(0.5)), query="answer", key="special")


def test_every_measure_has_a_unit_and_a_description():
    for name, entry in MEASURES.items():
        assert entry.unit or entry.needs == "attribution"  # whose unit is the method's
        assert entry.description
        if entry.needs != "step_mass":
            continue  # tested on runs that hold more
        got = measure(one_record_run(even(0.2)), name)
        assert got.name == name
        assert got.attrs["units"]
        assert got.attrs["description"]


def test_roles_sort_as_they_are_read():
    roles = ["answer", "step_10", "step_2", "demo_1.answer", "demo_1.question", "demo_2.question"]
    roles += ["history", "coarse_history", "instruction", "special", "coarse_answer", "template"]
    assert sort_roles(roles) == (
        "special",
        "template",
        "instruction",
        "demo_1.question",
        "demo_1.answer",
        "demo_2.question",
        "history",
        "coarse_history",
        "step_2",
        "step_10",
        "coarse_answer",
        "answer",
    )
    assert role_order("hint") < role_order("step_1") < role_order("answer")


def test_roles_by_style_lists_who_has_what():
    class Encoded:
        spans = (Span(0, 3, "history"), Span(3, 4, "template"), Span(4, 6, "answer"))
        n_prompt = 4

    run = one_record_run(even(0.0))
    run.encoding = lambda _: Encoded
    assert roles_by_style(run) == {"coarse": (("answer",), ("template", "history", "answer"))}


def test_a_thousand_records_take_seconds():
    rng = np.random.default_rng(0)
    mass = rng.dirichlet(np.ones(5), size=(30, 9, 40)).astype(np.float32)
    shared = step_mass(mass, visible=np.tile([1, 9, 20, 9, 5], (40, 1)), step_roles=["answer"] * 40)
    rows = [(f"r{i}", f"i{i}", "coarse", "t", "") for i in range(1000)]
    run = MemoryRun(table(*rows), {row[0]: shared for row in rows})
    started = time.process_time()
    measure(run, query="answer", key="history")
    assert time.process_time() - started < 20  # about 1 s; generous for a busy machine


def test_masses_of_a_stored_run_are_the_stored_rows_summed(tmp_path):
    with open_run(make_run(tmp_path / "run", tasks=1, items_per_task=1)) as run:
        got = measure(run, "mass", query="answer", key="history")
        for record_id in run.records.index:
            encoding = run.encoding(record_id)
            rows = run.weights(record_id)
            answer = [s.role == "answer" for s in encoding.spans for _ in range(len(s))]
            steps = np.flatnonzero(answer[encoding.n_prompt :])
            history = next(s for s in encoding.spans if s.role == "history")
            by_hand = [span_mass(rows.values[:, :, step], history) for step in steps]
            assert got.sel(record=record_id).values == pytest.approx(
                np.mean(by_hand, axis=0), abs=1e-3
            )


def test_the_readme_lists_every_measure():
    readme = Path(__file__).parent.parent.joinpath("README.md").read_text(encoding="utf-8")
    table = readme.split("\n## Measures\n")[1].split("\n## ")[0]
    missing = [name for name in MEASURES if f"`{name}`" not in table]
    assert not missing
