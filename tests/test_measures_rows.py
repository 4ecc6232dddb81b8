"""Measures of rows: entropy, distance, sinks as measured, head roles, influence over steps."""

import dataclasses

import numpy as np
import pytest
import xarray as xr

from attnprobe.contrasts import contrast
from attnprobe.errors import ContrastError, MeasureError, SelectionError
from attnprobe.measures import (
    HEAD_ROLES,
    MEASURES,
    StepRows,
    by_head,
    find_measure,
    find_sinks,
    head_roles,
    measure,
    solve_steps,
    sources,
)
from attnprobe.measures.influence import total_enrichment, total_influence
from attnprobe.measures.rows import content_distance, content_entropy, distance, entropy
from attnprobe.measures.sinks import is_delimiter, measured_sink_mass
from attnprobe.panels import segment_panels
from attnprobe.store import open_run
from attnprobe.types import Attribution, Rows
from tests.store.builders import (
    causal_weights,
    make_captures,
    make_run,
    open_writer,
    write_missing,
)


def step_rows(weights, n_prompt, members=None, apart=(), texts=None, asked=None):
    """Rows of one record [layer, head, step, key]; each step sees what comes before its token."""
    weights = np.asarray(weights, np.float32)
    n_steps, n_keys = weights.shape[2:]
    queries = n_prompt - 1 + np.arange(n_steps)
    members = np.zeros((n_keys, 0), bool) if members is None else np.asarray(members, bool)
    sinks = np.isin(np.arange(n_keys), list(apart))
    return StepRows(
        weights=weights,
        visible=np.broadcast_to(
            np.arange(n_keys) <= queries[:, None], (len(weights), n_steps, n_keys)
        ),
        queries=queries,
        apart=sinks,
        members=members,
        key_roles=tuple(f"role_{i}" for i in range(members.shape[1])),
        asked=np.arange(n_steps) if asked is None else np.asarray(asked),
        ids=np.arange(n_keys),
        texts=tuple(texts or "x" * n_keys),
        sinks=sinks,
    )


def random_rows(rng, n_prompt=7, n_steps=5, shape=(2, 3), **more):
    scores = rng.normal(size=(*shape, n_steps, n_prompt + n_steps)) * 2
    seen = np.arange(n_prompt + n_steps) <= n_prompt - 1 + np.arange(n_steps)[:, None]
    weights = np.where(seen, np.exp(scores), 0)
    return step_rows(weights / weights.sum(-1, keepdims=True), n_prompt, **more)


# --- entropy and distance -----------------------------------------------------------------------


def test_entropy_of_even_attention_is_log2_of_the_keys():
    rows = step_rows([[[[1 / 4] * 4 + [0], [1 / 5] * 5]]], 4)
    assert entropy(rows)[0, 0] == pytest.approx([2, np.log2(5)])


def test_entropy_of_one_key_is_0_and_leaves_sinks_out_if_asked():
    rows = step_rows([[[[0.5, 0.25, 0.25, 0, 0], [0, 0, 1, 0, 0]]]], 4, apart=[0])
    assert entropy(rows)[0, 0] == pytest.approx([1.5, 0])
    assert content_entropy(rows)[0, 0] == pytest.approx([1, 0])


def test_entropy_agrees_with_scipy():
    from scipy.stats import entropy as reference

    rows = random_rows(np.random.default_rng(0))
    wanted = reference(rows.weights.astype(np.float64), base=2, axis=-1)
    assert entropy(rows) == pytest.approx(wanted, abs=1e-5)


def test_what_sinks_take_entirely_has_no_content():
    rows = step_rows([[[[1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]]], 4, apart=[0])
    assert np.isnan(content_entropy(rows)).all()
    assert np.isnan(content_distance(rows)).all()


def test_distance_is_counted_from_the_query():
    # step 0 is read at query 3, step 1 at query 4
    rows = step_rows([[[[0.5, 0, 0, 0.5, 0], [0.2, 0.4, 0.4, 0, 0]]]], 4, apart=[0])
    assert distance(rows)[0, 0] == pytest.approx([1.5, 0.2 * 4 + 0.4 * 3 + 0.4 * 2])
    assert content_distance(rows)[0, 0] == pytest.approx([0, 2.5])


def test_only_the_steps_asked_for_are_measured():
    rng = np.random.default_rng(1)
    members = np.eye(12, 2, dtype=bool)
    every = random_rows(rng, members=members)
    some = dataclasses.replace(every, asked=np.array([1, 4]))
    for name in ("entropy", "distance", "measured_sink_mass", "total_influence", "induction"):
        of = MEASURES[name].per_step
        assert of(some) == pytest.approx(of(every)[:, :, [1, 4]], nan_ok=True)


# --- influence over steps -----------------------------------------------------------------------


def chain(n_prompt, n_steps):
    """Each step looks at the token before; the first at the middle of the prompt."""
    weights = np.zeros((1, 1, n_steps, n_prompt + n_steps))
    weights[0, 0, 0, n_prompt // 2] = 1
    for step in range(1, n_steps):
        weights[0, 0, step, n_prompt + step - 1] = 1
    return weights


@pytest.mark.parametrize("n_steps", [2, 3, 9])
def test_a_chain_of_hops_reaches_its_source_in_total_but_not_directly(n_steps):
    members = np.zeros((6 + n_steps, 2), bool)
    members[3, 0] = True  # the source
    members[6:, 1] = True  # the steps
    rows = step_rows(chain(6, n_steps), 6, members)
    direct = rows.weights[0, 0, -1] @ members
    assert direct.tolist() == [0, 1]
    total = total_influence(rows)[0, 0]
    assert total[:, 0] == pytest.approx(1)
    assert total[-1, 1] == pytest.approx(n_steps - 1)  # tokens passed on the way


def test_total_influence_is_the_dense_inverse_and_sums_to_1_over_the_prompt():
    rows = random_rows(np.random.default_rng(2), members=np.eye(12, dtype=bool))
    total = total_influence(rows)
    weights = rows.weights.astype(np.float64)
    for place in np.ndindex(weights.shape[:2]):
        among, to_prompt = weights[place][:, 7:], weights[place][:, :7]
        inverse = np.linalg.inv(np.eye(5) - among)
        assert total[place][:, :7] == pytest.approx(inverse @ to_prompt, abs=1e-6)
        assert total[place][:, 7:] == pytest.approx(inverse @ among, abs=1e-6)
        powers = sum(np.linalg.matrix_power(among, hops) @ to_prompt for hops in range(5))
        assert total[place][:, :7] == pytest.approx(powers, abs=1e-6)
    assert total[..., :7].sum(-1) == pytest.approx(1, abs=1e-5)


def test_pooling_and_following_may_be_swapped():
    rng = np.random.default_rng(3)
    rows = random_rows(rng, members=np.eye(12, dtype=bool))
    groups = rng.random((12, 3)) < 0.4
    pooled = dataclasses.replace(rows, members=groups, key_roles=("a", "b", "c"))
    assert total_influence(pooled) == pytest.approx(
        total_influence(rows) @ groups.astype(float), abs=1e-5
    )


def test_a_step_that_looks_ahead_is_refused():
    among = np.zeros((3, 3))
    among[1, 1] = 0.5
    with pytest.raises(MeasureError, match="strictly lower triangular"):
        solve_steps(among, np.ones((3, 1)))


def test_total_enrichment_is_0_where_every_step_is_even_and_leaves_sinks_out():
    seen = np.arange(12) <= 6 + np.arange(5)[:, None]
    weights = seen * 1.0
    weights[:, 0] = 20  # a sink
    members = np.zeros((12, 3), bool)
    members[1:3, 0] = members[3:7, 1] = members[7:, 2] = True
    weights = weights / weights.sum(-1, keepdims=True)
    found = total_enrichment(step_rows(weights[None, None], 7, members, apart=[0]))
    assert found[..., :2] == pytest.approx(0, abs=1e-5)
    assert np.isnan(found[..., 2]).all()  # no part of the prompt


# --- sinks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "yes"),
    [("\n", True), (".", True), (" ,", True), ("。", True), ("\n\n", True), (" ", False),
     ("3", False), ("a.", False), ("-", False), (" -", False), ("+", False), ("", False)],
)  # fmt: skip
def test_delimiters_are_punctuation_and_line_breaks(text, yes):
    assert is_delimiter(text) is yes


def test_sinks_are_found_by_their_weight_among_what_may_be_one():
    weights = np.full((1, 3, 4, 12), 0.02)
    weights[0, 0, :, 0] = 0.8  # the first position
    weights[0, 1, :, 5] = 0.6  # a full stop
    weights[0, 2, :, 4] = 0.9  # a number: draws much, and is no sink
    texts = ["a"] * 5 + ["."] + ["b"] * 6
    rows = step_rows(weights, 8, apart=range(4), texts=texts)
    found = measured_sink_mass(rows)
    assert found[0, :, 0] == pytest.approx([0.8, 0.6, 0])
    assert measured_sink_mass(rows, 0.7)[0, :, 0] == pytest.approx([0.8, 0, 0])


def test_the_mean_weight_of_a_key_is_over_the_rows_that_see_it():
    weights = np.zeros((1, 1, 4, 9))
    weights[0, 0, 3, 7] = 0.4  # the full stop at 7 is seen by steps 3 alone
    rows = step_rows(weights, 5, texts=["a"] * 7 + [".", "b"])
    assert measured_sink_mass(rows)[0, 0, 3] == pytest.approx(0.4)


def test_find_sinks_lists_them_by_head(tmp_path):
    with open_run(make_run(tmp_path / "run", tasks=1, items_per_task=2)) as run:
        found = find_sinks(run, threshold=0.2)
        assert list(found.columns) == ["layer", "head", "key", "weight", "share", "n_records"]
        assert found["weight"].is_monotonic_decreasing
        # Random rows with +3 on the score of position 0: it is a sink of every head, none else is.
        first = found[found["key"] == "position 0"]
        assert len(first) == 6
        assert (first["n_records"] == 4).all()
        record = run.records.index[0]
        rows = run.weights(record).values
        by_hand = [
            r[..., :, 0].mean(-1) for r in (run.weights(i).values for i in run.records.index)
        ]
        cell = first[(first["layer"] == 1) & (first["head"] == 2)].iloc[0]
        assert cell["weight"] == pytest.approx(np.mean([m[1, 2] for m in by_hand]), abs=1e-5)
        assert rows.shape[:2] == (2, 3)
        assert find_sinks(run, threshold=1.0).empty


# --- on a run -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = make_run(tmp_path_factory.mktemp("measures") / "run", tasks=2, items_per_task=1)
    with open_run(path) as opened:
        yield opened


def test_step_rows_of_a_run_are_its_rows_and_what_they_see(run):
    for record_id, found in run.iter_step_rows():
        rows, encoding = run.weights(record_id), run.encoding(record_id)
        assert np.array_equal(found.values, rows.values)
        assert found["query"].values.tolist() == list(encoding.step_queries)
        seen = np.arange(encoding.n_tokens) <= np.array(encoding.step_queries)[:, None]
        assert (found["visible"].values == seen).all()
        assert found["is_sink"].values.sum() == len(encoding.sinks)


def test_measures_of_rows_are_averaged_over_the_steps_of_a_role(run):
    got = measure(run, "entropy", query="answer")
    assert got.dims == ("record", "layer", "head")
    assert got.attrs["units"] == "bits"
    for record_id in run.records.index:
        rows = run.weights(record_id).values
        roles = [r for s in run.encoding(record_id).spans for r in [s.role] * len(s)]
        answer = [role == "answer" for role in roles[run.encoding(record_id).n_prompt :]]
        p = rows[:, :, answer]
        by_hand = -(p * np.log2(np.where(p > 0, p, 1))).sum(-1).mean(-1)
        assert got.sel(record=record_id).values == pytest.approx(by_hand, abs=2e-3)


def test_a_total_is_no_less_than_the_direct_mass(run):
    direct = measure(run, "mass", query="answer", key="history")
    total = measure(run, "total_influence", query="answer", key="history")
    assert (total >= direct - 1e-4).all()
    assert (total > direct + 1e-3).any()


@pytest.mark.parametrize("name", ["mass", "total_influence", "enrichment_beyond_recency"])
def test_records_without_the_role_are_nan_and_do_not_disturb(run, name):
    got = measure(run, name, query="answer", key="coarse_history")
    stepwise = got["style"].values == "stepwise"
    assert np.isnan(got.values[stepwise]).all()
    assert np.isfinite(got.values[~stepwise]).all()


@pytest.mark.parametrize("name", ["entropy", "total_influence", "enrichment_beyond_recency"])
def test_a_few_layers_at_a_time_give_the_same(run, name, monkeypatch):
    whole = measure(run, name, query="answer")
    monkeypatch.setattr(sources, "BLOCK_BYTES", 1)
    xr.testing.assert_allclose(measure(run, name, query="answer"), whole)
    one = measure(run, name, query="answer", layer=1, head=[2])
    xr.testing.assert_allclose(one, whole.sel(layer=[1], head=[2]))


@pytest.mark.parametrize("role", ["previous_token", "duplicate_token", "induction", "retrieval"])
def test_head_roles_as_measures_are_their_scores_of_the_same_rows(run, role):
    got = measure(run, role, query="*")  # all steps as one role
    wanted = head_roles(run, [role]).sel(role=role, drop=True)
    assert got.values == pytest.approx(wanted.values, abs=1e-5, nan_ok=True)


def test_receiver_is_a_score_of_whole_texts_only():
    assert "receiver" in HEAD_ROLES
    assert "receiver" not in MEASURES


def test_a_run_without_rows_says_what_to_keep(tmp_path):
    with open_run(make_run(tmp_path / "run", tasks=1, items_per_task=1, keep=("steps",))) as steps:
        with pytest.raises(MeasureError) as caught:
            measure(steps, "entropy")
        assert "'entropy' needs attention rows of the steps, which the run does not hold" in str(
            caught.value
        )
        assert "got --keep steps; extract again with --keep rows" in str(caught.value)
        with pytest.raises(MeasureError, match="extract again with --keep full"):
            measure(steps, "rollout")
        with pytest.raises(SelectionError, match="the run holds no attribution"):
            measure(steps, "attribution")
        with pytest.raises(MeasureError, match="extract again with --keep rows"):
            find_sinks(steps)


# --- rollout ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    """Every row is kept; returns the run and the weights by record."""
    captures, truth = [], {}
    for capture in make_captures(tasks=1, items_per_task=1):
        encoding, rng = capture.encoding, np.random.default_rng(5)
        weights = causal_weights(encoding, 2, 3, rng)
        n = encoding.n_tokens
        lengths = np.arange(1, n + 1, dtype=np.int32)
        pairs = np.concatenate([weights[:, :, q, : q + 1] for q in range(n)], axis=-1)
        rows = Rows(lengths - 1, np.zeros(n, np.int32), lengths, np.ascontiguousarray(pairs))
        captures.append(dataclasses.replace(capture, rows=rows))
        truth[encoding.record.id] = weights
    path = tmp_path_factory.mktemp("full") / "run"
    write_missing(open_writer(path, captures, keep=("full",), encoding="f32"), captures)
    with open_run(path) as opened:
        yield opened, truth


def test_rollout_is_the_product_over_layers_and_sums_to_1(full_run):
    run, truth = full_run
    got = measure(run, "rollout", query="*")
    assert got.dims == ("record", "layer", "key_role")
    assert got.sum("key_role").values == pytest.approx(1, abs=1e-5)
    for record_id, weights in truth.items():
        encoding = run.encoding(record_id)
        flow = np.eye(encoding.n_tokens)
        for layer, heads in enumerate(weights):
            flow = (heads.mean(0) + np.eye(len(flow))) / 2 @ flow
            steps = flow[list(encoding.step_queries)].mean(0)
            for role in ("history", "answer"):
                by_hand = sum(
                    steps[s.start : s.stop].sum() for s in encoding.spans if s.role == role
                )
                cell = got.sel(record=record_id, layer=layer, key_role=role)
                assert cell.item() == pytest.approx(by_hand, abs=1e-5)


def test_rollout_takes_layers_but_no_heads(full_run):
    run, _ = full_run
    both = measure(run, "rollout", query="answer", key="history")
    last = measure(run, "rollout", query="answer", key="history", layer=1)
    assert last.values == pytest.approx(both.sel(layer=[1]).values)
    with pytest.raises(
        SelectionError, match="'rollout' has no heads; got head 1; leave `head` out"
    ):
        measure(run, "rollout", head=1)
    with pytest.raises(SelectionError, match="layer 7 is not stored; expected one of 0, 1"):
        measure(run, "rollout", layer=[1, 7])


def test_rollout_needs_every_head(tmp_path):
    captures = make_captures(tasks=1, items_per_task=1, n_heads=2)
    rows = open_writer(tmp_path / "run", captures, keep=("full",))
    write_missing(rows, captures)
    with open_run(tmp_path / "run") as few, pytest.raises(MeasureError) as caught:
        measure(few, "rollout")
    assert "got 2 of 3 heads, expected all 3; extract again without --heads" in str(caught.value)


def test_rows_of_a_full_run_are_those_of_its_steps(full_run):
    run, truth = full_run
    for record_id, found in run.iter_step_rows():
        steps = list(run.encoding(record_id).step_queries)
        assert found.values == pytest.approx(truth[record_id][:, :, steps], abs=1e-6)


# --- attributions -------------------------------------------------------------------------------


def credited_run(path, tasks):
    """Write a run with the attribution of one method."""
    captures = []
    for capture in make_captures(tasks=tasks, items_per_task=1):
        encoding = capture.encoding
        rng = np.random.default_rng(encoding.n_tokens)
        scores = rng.normal(size=(encoding.n_steps, encoding.n_tokens)).astype(np.float32)
        sources_ = (
            np.arange(encoding.n_tokens) < encoding.n_prompt + np.arange(encoding.n_steps)[:, None]
        )
        scores[~sources_] = np.nan
        found = Attribution(scores, np.full(encoding.n_steps, np.nan, np.float32), "saliency")
        captures.append(dataclasses.replace(capture, attributions={"saliency": found}))
    settings = {
        "attribute": ["saliency"],
        "attribute_params": {"saliency": {"target": "logprob", "unit": "nat"}},
    }
    write_missing(open_writer(path, captures, settings=settings), captures)
    return path


@pytest.fixture(scope="module")
def credited(tmp_path_factory):
    with open_run(credited_run(tmp_path_factory.mktemp("credited") / "run", 2)) as opened:
        yield opened


def test_attributions_are_pooled_by_span_and_have_neither_layer_nor_head(credited):
    got = measure(credited, "attribution", query="answer", key="history")
    assert got.dims == ("record",)
    assert got.attrs["units"] == "nat"
    for record_id in credited.records.index:
        found = credited.attribution(record_id)
        steps, tokens = found["step_role"] == "answer", found["source_role"] == "history"
        by_hand = found.values[steps.values][:, tokens.values].sum(1).mean()
        assert got.sel(record=record_id).item() == pytest.approx(by_hand, abs=1e-5)
    named = measure(credited, "attribution:saliency", query="answer", key="history")
    assert named.values == pytest.approx(got.values)


def test_shares_of_an_attribution_sum_to_1(credited):
    shares = measure(credited, "attribution_share", query="answer")
    assert shares.dims == ("record", "key_role")
    # The answer's own span counts where it comes before the step, so not at its first step.
    assert (shares >= 0).where(shares.notnull(), other=True).all()
    before = [r for r in shares["key_role"].values if r != "answer"]
    assert (shares.sel(key_role=before).sum("key_role") <= 1 + 1e-5).all()


def test_an_attribution_may_be_named(credited):
    with pytest.raises(SelectionError, match="no attribution by 'shapley'"):
        measure(credited, "attribution:shapley")
    with pytest.raises(SelectionError, match="takes no name after a colon; got 'mass:x'"):
        find_measure("mass:x")
    with pytest.raises(SelectionError, match="expected 'attribution:METHOD'"):
        find_measure("attribution:")
    with pytest.raises(SelectionError, match="'attribution' has no layers; got layer 1"):
        measure(credited, "attribution", layer=1)


def test_by_head_puts_absent_axes_back(credited, full_run):
    flat = by_head(measure(credited, "attribution", query="answer", key="history"))
    assert flat.dims == ("record", "layer", "head")
    assert (flat["layer"].item(), flat["head"].item()) == (-1, -1)
    layered = by_head(measure(full_run[0], "rollout", query="answer"))
    assert layered.dims == ("record", "layer", "head", "key_role")
    assert layered["layer"].values.tolist() == [0, 1]
    both = measure(credited, "mass", query="answer", key="history")
    assert by_head(both).identical(both)


def test_measures_may_be_given_themselves(run):
    own = dataclasses.replace(MEASURES["entropy"], description="mine")
    assert measure(run, own, query="answer").values == pytest.approx(
        measure(run, "entropy", query="answer").values
    )


# --- contrasts ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def six_tasks(tmp_path_factory):
    """A run of six tasks, with an attribution."""
    return credited_run(tmp_path_factory.mktemp("six") / "run", 6)


@pytest.mark.parametrize(
    ("name", "unit", "n_cells"),
    [("total_influence", "probability", 6), ("entropy", "bits", 6),
     ("previous_token", "probability", 6), ("attribution:saliency", "nat", 1),
     ("attribution_share", "share", 1)],
)  # fmt: skip
def test_measures_can_be_contrasted(six_tasks, name, unit, n_cells):
    with open_run(six_tasks) as run:
        found = contrast(run, a="coarse", b="stepwise", measure=name, n_flips=64, n_bootstrap=20)
        assert found.unit == unit
        assert found.effects["estimate"].size == n_cells
        values = by_head(measure(run, name, query="answer", key="history"))
    means = values.groupby("style").mean("record", skipna=True)
    difference = means.sel(style="coarse") - means.sel(style="stepwise")
    by_hand = found.effects["estimate"].values.ravel()
    assert by_hand == pytest.approx(difference.values.ravel(), abs=1e-4)


def test_segments_of_measures_without_heads_can_be_drawn(six_tasks):
    with open_run(six_tasks) as run:
        first, second, change = segment_panels(run, "coarse", "stepwise", "attribution")
        assert first.unit == "nat"
        assert first.note.startswith("Mean over 6 items in both styles.")
        place = change.rows.index("answer"), change.columns.index("history")
        found = contrast(run, a="coarse", b="stepwise", measure="attribution", n_flips=64)
    wanted = found.effects["estimate"].item()
    assert change.values[place] == pytest.approx(wanted, abs=1e-4)
    assert first.values[place] - second.values[place] == pytest.approx(wanted, abs=1e-4)


def test_a_contrast_says_why_nothing_is_beyond_recency(six_tasks):
    with open_run(six_tasks) as run, pytest.raises(ContrastError) as caught:
        contrast(run, a="coarse", b="stepwise", measure="enrichment_beyond_recency")
    assert "take a profile of neutral text (`beyond_profile`)" in str(caught.value)
