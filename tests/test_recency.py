"""Enrichment beyond recency: 0 where attention depends on distance alone, the effect where not."""

import dataclasses

import numpy as np
import pytest

from attnprobe.errors import MeasureError
from attnprobe.measures import (
    MEASURES,
    DistanceProfile,
    StepRows,
    beyond_profile,
    beyond_recency,
    bin_of,
    distance_profile,
    enrichment_beyond_recency,
    fit_profile,
    measure,
    sources,
)
from attnprobe.measures.arrays import enrichment
from attnprobe.measures.recency import profile_of
from attnprobe.store import open_run
from attnprobe.types import Span
from tests.store.builders import make_captures, open_writer, write_missing

DECAYS = {
    "near": lambda d: np.exp(-d / 12),
    "power": lambda d: (1.0 + d) ** -1.2,
    "hump": lambda d: 0.05 + np.exp(-((d - 20) ** 2) / 80),
    "even": lambda d: np.ones_like(d, dtype=float),
}
"""Heads that attend by distance alone."""
ROLES = ("instruction", "history", "coarse", "step", "answer")


def record(rng, style, boost=0.0):
    """Rows [1, head, step, key] of a record: a longer way back to the history when stepwise."""
    n_instruction, n_history = rng.integers(12, 20), rng.integers(10, 25)
    n_coarse = rng.integers(6, 14) if style == "coarse" else 0
    n_step = 0 if style == "coarse" else rng.integers(15, 30)
    sizes = np.array([n_instruction, n_history, n_coarse, n_step, 5])
    n_prompt, n_steps = int(sizes[:3].sum()), int(sizes[3:].sum())
    role = np.repeat(np.arange(5), sizes)
    queries = n_prompt - 1 + np.arange(n_steps)
    away = queries[:, None] - np.arange(len(role))
    seen = away >= 0
    scores = np.stack([np.where(seen, decay(np.maximum(away, 0)), 0) for decay in DECAYS.values()])
    scores = scores * np.exp2(boost * (role == 1))
    sinks = np.arange(len(role)) < 4
    scores[..., sinks] = np.where(seen[:, sinks], 5.0, 0)  # sinks draw much, at any distance
    weights = scores / scores.sum(-1, keepdims=True)
    return StepRows(
        weights=weights[None].astype(np.float32),
        visible=seen[None],
        queries=queries,
        apart=sinks,
        members=role[:, None] == np.arange(5),
        key_roles=ROLES,
        asked=np.arange(n_steps - 5, n_steps),
        ids=role,
        texts=tuple("x" * len(role)),
        sinks=sinks,
    )


def records(seed, n=30, **more):
    rng = np.random.default_rng(seed)
    return [record(rng, style, **more) for _ in range(n) for style in ("coarse", "stepwise")]


def plain(rows, role=1):
    """Plain enrichment of a role, by head, averaged over the steps asked for."""
    weights = np.where(rows.counted[:, None], rows.weights, 0)[0][:, rows.asked]
    counted = rows.counted[0, rows.asked]
    member = rows.members[:, role]
    share = weights[..., member].sum(-1) / weights.sum(-1)
    return enrichment(share, counted[:, member].sum(-1), counted.sum(-1)).mean(-1)


def test_distances_have_bins_that_widen():
    assert bin_of(np.arange(68)).tolist() == [*range(64), *[64] * 4]
    bins = bin_of(np.arange(5000))
    assert (np.diff(bins) >= 0).all()
    assert bin_of(np.array([128]))[0] - bin_of(np.array([64]))[0] == 8
    assert bin_of(np.array([4096]))[0] - bin_of(np.array([2048]))[0] == 8


def test_nothing_is_found_where_attention_depends_on_distance_alone():
    world = records(0)
    found = list(enrichment_beyond_recency(world))
    history = np.stack([values[0, :, :, 1].mean(-1) for values in found])
    by_plain = np.stack([plain(rows) for rows in world])
    # The even head aside, plain enrichment takes distance for interest, and for a difference of
    # styles; what is beyond recency is neither.
    assert (np.abs(by_plain[:, :2].mean(0)) > 1).all()
    assert (np.abs((by_plain[::2] - by_plain[1::2])[:, :3].mean(0)) > 0.4).all()
    assert np.abs(history.mean(0)) == pytest.approx(0, abs=0.05)
    assert (history[::2] - history[1::2]).mean(0) == pytest.approx(0, abs=0.05)
    for role in (0, 3):
        values = np.stack([v[0, :, :, role].mean(-1) for v in found[1::2]])
        assert np.nanmean(values, axis=0) == pytest.approx(0, abs=0.12)


@pytest.mark.parametrize("boost", [1.0, -1.0])
def test_a_planted_interest_is_found(boost):
    # 1 bit per key is less than 1 bit of share where the span has much of it: so by hand.
    world, without = records(1, boost=boost), records(1)
    found = list(enrichment_beyond_recency(world))
    for rows, bare, values in zip(world[:6], without[:6], found[:6], strict=True):
        expected = plain(rows) - plain(bare)
        assert values[0, :, :, 1].mean(-1) == pytest.approx(expected, abs=0.1)
        assert (np.sign(values[0, :, :, 1].mean(-1)) == np.sign(boost)).all()


def test_a_profile_of_neutral_text_does_as_well_and_knows_the_far_end():
    profile = profile_of(records(2, n=40))
    world = records(3)
    found = list(enrichment_beyond_recency(world, profile))
    history = np.stack([values[0, :, :, 1].mean(-1) for values in found])
    assert np.nanmean(history, axis=0) == pytest.approx(0, abs=0.05)
    first = np.stack([values[0, :, :, 0].mean(-1) for values in found])
    assert np.nanmean(first, axis=0) == pytest.approx(0, abs=0.1)
    assert np.isfinite(first).mean() > 0.9


def test_a_profile_is_the_decay_itself_whatever_the_length_of_rows():
    profile = profile_of(records(4, n=60)).weight[0]
    for head, decay in enumerate(DECAYS.values()):
        distances = np.arange(16)
        wanted = decay(distances) / decay(distances).mean()
        got = profile[head, :16] / profile[head, :16].mean()
        assert got == pytest.approx(wanted, rel=1e-3)
    # The plain mean of weights by distance is not: long rows share out more.
    drawn, n = np.zeros(40), np.zeros(40)
    for rows in records(4, n=60):
        away = rows.queries[:, None] - np.arange(rows.weights.shape[-1])
        use = rows.counted[0] & (away < 40)
        np.add.at(drawn, away[use], rows.weights[0, 3][use])
        np.add.at(n, away[use], 1)
    naive = drawn / n
    assert naive[35] / naive[0] < 0.95


def test_every_task_has_a_profile_of_its_own():
    tasks = {task: records(seed, n=4) for task, seed in (("one", 8), ("other", 9))}
    alone = {task: list(enrichment_beyond_recency(rows)) for task, rows in tasks.items()}
    mixed = [
        (task, dataclasses.replace(rows, task=task))
        for pair in zip(*tasks.values(), strict=True)
        for task, rows in zip(tasks, pair, strict=True)
    ]
    found = list(enrichment_beyond_recency(rows for _, rows in mixed))
    for at, ((task, _), values) in enumerate(zip(mixed, found, strict=True)):
        assert values == pytest.approx(alone[task][at // 2], nan_ok=True)
    pooled = list(enrichment_beyond_recency(dataclasses.replace(r, task="") for _, r in mixed))
    assert not np.allclose(pooled[0], found[0], equal_nan=True)


def test_the_fit_is_that_of_a_general_optimiser():
    from scipy.optimize import minimize

    rng = np.random.default_rng(6)
    n_keys = rng.integers(0, 4, (30, 5)) * (rng.random((30, 5)) < 0.7)
    n_keys[:, 0] = 1
    true = np.array([1, 0.3, 2, 0.7, 0.1])
    shares = n_keys * true * rng.lognormal(0, 0.5, (30, 5))
    drawn = shares / shares.sum(1, keepdims=True)
    paid = rng.random(30)
    drawn *= paid[:, None]

    def loss(logs):
        logs = np.concatenate([[0], logs])
        total = np.log((n_keys * np.exp(logs)).sum(1))
        return -(drawn @ logs).sum() + paid @ total

    best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-8})
    found = fit_profile(drawn.sum(0)[None], paid[:, None], n_keys)[0]
    assert np.log(found[1:] / found[0]) == pytest.approx(best.x, abs=2e-3)
    assert found.mean() == pytest.approx(1)


def test_bins_without_keys_are_interpolated_inside_and_unknown_outside():
    n_keys = np.array([[0, 1, 0, 2, 0]])
    found = fit_profile(np.array([[0, 0.2, 0, 0.8, 0]]), np.array([[1.0]]), n_keys)[0]
    assert np.isnan(found[[0, 4]]).all()
    assert found[2] == pytest.approx(np.sqrt(found[1] * found[3]))
    assert found[3] / found[1] == pytest.approx(2)


def test_what_has_no_profile_is_undefined():
    profile = DistanceProfile(np.array([[[1.0, 1.0, np.nan]]]))
    keys = np.array([[[1, 2, 0], [0, 0, 1], [2, 0, 0]]])
    assert profile.expected(keys)[0, 0].tolist()[::2] == [3, 2]
    assert np.isnan(profile.expected(keys)[0, 0, 1])
    longer = np.array([[[1, 0, 0, 1]]])
    assert np.isnan(profile.expected(longer)).all()


def test_with_the_share_of_the_keys_it_is_plain_enrichment():
    share, n, k = np.array([0.1, 0.5, 0.0]), np.array([3, 4, 5]), np.array([9, 9, 9])
    assert beyond_recency(share, n / k, n, k) == pytest.approx(enrichment(share, n, k))
    assert beyond_recency(share, share, n, k) == pytest.approx(0)
    assert np.isnan(beyond_recency(np.array([0.0]), np.array([0.0]), np.array([0]), np.array([9])))


def test_a_layer_with_a_window_has_counts_of_its_own():
    rng = np.random.default_rng(7)
    wide = record(rng, "stepwise")
    away = wide.queries[:, None] - np.arange(len(wide.ids))
    window = wide.visible & (away < 30)
    cut = np.where(window[:, None], wide.weights, 0)
    cut = cut / cut.sum(-1, keepdims=True)
    both = dataclasses.replace(
        wide,
        weights=np.concatenate([wide.weights, cut]),
        visible=np.concatenate([wide.visible, window]),
    )
    alone = dataclasses.replace(wide, weights=cut, visible=window)
    together = next(iter(enrichment_beyond_recency([both])))
    assert together[:1] == pytest.approx(next(iter(enrichment_beyond_recency([wide]))), nan_ok=True)
    assert together[1:] == pytest.approx(
        next(iter(enrichment_beyond_recency([alone]))), nan_ok=True
    )


# --- on a run -----------------------------------------------------------------------------------


def relabelled(capture, first):
    """A capture whose prompt is an instruction up to a token, and the history from there on."""
    encoding = capture.encoding
    ends = (Span(0, first, "instruction"),) if first else ()
    spans = (
        *ends,
        Span(first, encoding.n_prompt, "history"),
        *(span for span in encoding.spans if span.start >= encoding.n_prompt),
    )
    changed = dataclasses.replace(encoding, spans=spans)
    seen = np.arange(1, encoding.n_tokens + 1)
    visible = np.stack([np.clip(seen - g.start, 0, len(g)) for g in changed.groups], -1)
    visible = np.repeat(visible[None].astype(np.int32), len(capture.visible), axis=0)
    return dataclasses.replace(
        capture, encoding=changed, visible=visible, step_mass=None, pooled=None
    )


@pytest.fixture
def relabelled_run(request, tmp_path):
    captures = make_captures(tasks=2, items_per_task=2, styles=("direct",))
    captures = [relabelled(capture, request.param) for capture in captures]
    writer = open_writer(tmp_path / "run", captures, keep=("rows",), encoding="f32")
    write_missing(writer, captures)
    with open_run(tmp_path / "run") as run:
        yield run


@pytest.mark.parametrize("relabelled_run", [8], indirect=True)
def test_of_a_run_it_is_that_of_its_rows(relabelled_run, monkeypatch):
    run = relabelled_run
    got = measure(run, "enrichment_beyond_recency", query="answer", key="history")
    assert got.attrs["units"] == "bits"
    assert got.dims == ("record", "layer", "head")
    by_hand = []
    for record_id, found in run.iter_step_rows():
        answer = np.flatnonzero(found["step_role"].values == "answer")
        by_hand.append(StepRows(
            weights=found.values, visible=found["visible"].values, queries=found["query"].values,
            apart=found["is_sink"].values, members=(found["key_role"].values == "history")[:, None],
            key_roles=("history",), asked=answer, ids=found["key_id"].values,
            texts=tuple(found["key_text"].values), sinks=found["is_sink"].values,
            task=run.records.loc[record_id, "task"],
        ))  # fmt: skip
    wanted = [np.nanmean(v[..., 0], axis=-1) for v in enrichment_beyond_recency(by_hand)]
    assert got.values == pytest.approx(np.stack(wanted), abs=1e-5)
    assert np.isfinite(got.values).all()
    profile = distance_profile(run)
    assert (profile.layers, profile.heads) == ((0, 1), (0, 1, 2))
    other = measure(run, beyond_profile(profile), query="answer", key="history")
    some = measure(
        run, beyond_profile(profile), query="answer", key="history", layer=1, head=[2, 0]
    )
    assert some.values == pytest.approx(other.sel(layer=[1], head=[2, 0]).values, abs=1e-5)
    with monkeypatch.context() as patch:
        patch.setattr(sources, "BLOCK_BYTES", 1)  # one layer at a time
        blocks = distance_profile(run)
        assert blocks.layers == profile.layers
        assert blocks.weight == pytest.approx(profile.weight, nan_ok=True)
        by_layer = measure(run, beyond_profile(blocks), query="answer", key="history")
    assert by_layer.values == pytest.approx(other.values, abs=1e-5)
    one = distance_profile(run, layer=0)
    with pytest.raises(MeasureError) as caught:
        measure(run, beyond_profile(one), query="answer", key="history")
    assert "the distance profile is of other heads than those measured; got no layers [1]" in str(
        caught.value
    )
    assert np.isfinite(other.values).all()
    assert other.attrs["units"] == "bits"


@pytest.mark.parametrize("relabelled_run", [0], indirect=True)
def test_a_span_farther_than_all_others_says_what_to_do(relabelled_run):
    with pytest.raises(MeasureError) as caught:
        measure(relabelled_run, "enrichment_beyond_recency", query="answer", key="history")
    assert "no other span has the distances of this one; take a profile of neutral text" in str(
        caught.value
    )


def test_it_is_in_the_registry():
    assert MEASURES["enrichment_beyond_recency"].needs == "rows"
