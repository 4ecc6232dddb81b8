import csv
import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from attnprobe.contrasts import Contrast, Inference, compare, contrast
from attnprobe.errors import ContrastError, SelectionError
from attnprobe.store import open_run
from attnprobe.types import Record, Segment, Span
from tests.store.builders import make_run
from tests.test_measures import MemoryRun, step_mass, table


def one_per_task(differences):
    """Pairs whose differences are given as [task, head]: one item per task, one layer."""
    differences = np.asarray(differences, dtype=float)[:, None, :]
    return differences, np.zeros_like(differences), [f"t{i}" for i in range(len(differences))]


def test_exact_flips_by_hand_for_six_tasks():
    # Head 0: only ++++++ and ------ reach |sum| = 21: 2 of 64.
    # Head 1, differences 1 2 3 4 5 -6: |sum| = 9. Flips with |sum| >= 9 leave out subsets of
    # 1..6 whose sum s has |21 - 2s| >= 9, so s <= 6 or s >= 15: of the 64 subsets, sums 0..6
    # have 1 1 1 2 2 3 4 = 14 subsets, twice that is 28.
    effects = compare(*one_per_task([[1, 1], [2, 2], [3, 3], [4, 4], [5, 5], [6, -6]]))
    assert effects["p"].values[0] == pytest.approx([2 / 64, 28 / 64])
    assert effects.attrs["p_smallest"] == pytest.approx(1 / 32)
    assert effects.attrs["n_flips"] == 64
    assert effects.attrs["exact"] == 1
    assert effects.attrs["scope"] == "new tasks like these"


def slow_max_t(units):
    """Loop over every flip and head, with the studentised t of a textbook, stepping down."""

    def t_of(x):
        return abs(x.mean()) / (x.std(ddof=1) / math.sqrt(len(x)))

    observed = np.array([t_of(x) for x in units.T])
    flipped = np.array(
        [
            [t_of(x * np.array(signs)) for x in units.T]
            for signs in itertools.product([1, -1], repeat=len(units))
        ]
    )
    alone = (flipped >= observed - 1e-9).mean(axis=0)
    left, together, so_far = set(range(len(observed))), {}, 0.0
    for head in np.argsort(-observed):
        maxima = flipped[:, sorted(left)].max(axis=1)
        so_far = max(so_far, (maxima >= observed[head] - 1e-9).mean())
        together[head] = so_far
        left.remove(head)
    return alone, [together[head] for head in range(len(observed))]


def test_max_t_agrees_with_a_slow_loop():
    units = np.random.default_rng(3).normal(size=(7, 5)) + np.array([2.0, 0.5, 0.0, 0.0, -1.0])
    effects = compare(*one_per_task(units))
    alone, together = slow_max_t(units)
    assert effects["p"].values[0] == pytest.approx(alone)
    assert effects["p_adjusted"].values[0] == pytest.approx(together)


def test_one_head_agrees_with_scipy():
    units = np.random.default_rng(5).normal(0.5, 1, size=(8, 1))
    got = compare(*one_per_task(units))
    want = stats.permutation_test(
        (units[:, 0], np.zeros(8)), lambda x, y: np.mean(x - y), permutation_type="samples"
    )
    assert got["p"].item() == pytest.approx(want.pvalue)


def test_drawn_flips_are_near_the_exact_ones_and_never_zero():
    units = np.random.default_rng(4).normal(size=(10, 4)) + np.array([0.0, 0.4, 0.8, 9.0])
    exact = compare(*one_per_task(units))
    drawn = compare(*one_per_task(units), n_flips=1000)
    assert drawn.attrs["exact"] == 0
    assert drawn["p"].values == pytest.approx(exact["p"].values, abs=0.05)
    assert drawn["p"].values.min() >= 1 / 1001


@pytest.mark.parametrize("by", ["task", "item"])
def test_a_minus_b_is_minus_b_minus_a(by):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 40, 3, 4))
    tasks = [f"t{i % 8}" for i in range(40)]
    one, other = compare(a, b, tasks, by=by), compare(b, a, tasks, by=by)
    for name in ("estimate", "g_z"):
        assert one[name].values == pytest.approx(-other[name].values)
    assert one["low"].values == pytest.approx(-other["high"].values)
    for name in ("p", "p_adjusted"):
        assert one[name].values == pytest.approx(other[name].values)


def test_the_estimate_is_the_mean_of_task_means_and_the_item_mean_by_item():
    a = np.array([1.0, 1, 1, 5, 5, 5, 5, 5])[:, None, None]
    tasks = ["t0", "t0", "t0", "t1", "t2", "t3", "t4", "t5"]
    assert compare(a, 0 * a, tasks)["estimate"].item() == pytest.approx((1 + 5 * 5) / 6)
    by_item = compare(a, 0 * a, tasks, by="item")
    assert by_item["estimate"].item() == pytest.approx(28 / 8)
    assert by_item.attrs["scope"] == "these tasks only"


def test_the_interval_holds_the_mean_and_agrees_with_scipy():
    units = np.random.default_rng(2).normal(1, 2, size=(12, 3))
    effects = compare(*one_per_task(units), n_bootstrap=9000)
    low, high = effects["low"].values[0], effects["high"].values[0]
    assert np.all((low < units.mean(0)) & (units.mean(0) < high))
    want = stats.bootstrap(
        (units,), np.mean, axis=0, method="percentile", n_resamples=9000, rng=1
    ).confidence_interval
    assert low == pytest.approx(want.low, abs=0.06)
    assert high == pytest.approx(want.high, abs=0.06)


def test_effect_size_by_hand():
    # mean 2, sd (n-1) = 1.0954, d = 1.8257; Hedges' J for 5 df = 0.8408
    effects = compare(*one_per_task([[1], [1], [2], [2], [3], [3.0]]))
    sd = math.sqrt(4 / 5)
    correction = math.gamma(2.5) / (math.sqrt(2.5) * math.gamma(2))
    assert correction == pytest.approx(0.8408, abs=1e-4)
    assert effects["g_z"].item() == pytest.approx(correction * 2 / sd)


def test_heads_without_variance_are_neither_lost_nor_infinite():
    effects = compare(*one_per_task([[0.0, 0.1, x] for x in (1.0, -1, 2, -2, 3, -1)]))
    assert effects["p"].values[0, :2] == pytest.approx([1.0, 2 / 64])
    assert effects["estimate"].values[0, :2] == pytest.approx([0.0, 0.1])
    assert np.isnan(effects["g_z"].values[0, :2]).all()
    assert np.isfinite(effects["g_z"].values[0, 2])


def test_family_wise_error_is_held_by_task_and_lost_by_item():
    # Null: tasks differ at random, heads are correlated, there is no effect on average.
    rng = np.random.default_rng(11)
    rejected = {"task": 0, "item": 0}
    n_runs = 120
    for _ in range(n_runs):
        task_effect = rng.normal(size=(8, 1, 30)) + rng.normal(size=(8, 1, 1))
        a = (task_effect[:, None] + rng.normal(size=(8, 6, 1, 30))).reshape(48, 1, 30)
        tasks = np.repeat(np.arange(8), 6).astype(str)
        for by in rejected:
            effects = compare(a, 0 * a, tasks, by=by, n_flips=400, n_bootstrap=1)
            rejected[by] += bool((effects["p_adjusted"] < 0.05).any())
    assert rejected["task"] / n_runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / n_runs)
    assert rejected["item"] / n_runs > 0.5


def test_missing_pairs_are_left_out_head_by_head():
    a, b, tasks = one_per_task(np.random.default_rng(0).normal(size=(7, 2)))
    a[0, 0, 0] = np.nan
    a[:3, 0, 1] = np.nan
    effects = compare(a, b, tasks)
    assert effects["n_items"].values.tolist() == [[6, 4]]
    assert effects["n_tasks"].values.tolist() == [[6, 4]]
    assert effects["estimate"].values[0, 0] == pytest.approx(a[1:, 0, 0].mean())
    assert np.isnan(effects["p"].values[0]).tolist() == [False, True]
    assert effects.attrs["n_tested"] == 1


def test_screening_needs_twelve_units():
    units = np.random.default_rng(0).normal(1, 1, size=(12, 4))
    assert np.isnan(compare(*one_per_task(units[:11]))["q"]).all()
    screened = compare(*one_per_task(units))
    assert screened["q"].values[0] == pytest.approx(
        stats.false_discovery_control(screened["p"].values[0])
    )


def test_fewer_than_six_tasks_are_refused_with_a_way_out():
    with pytest.raises(ContrastError) as caught:
        compare(*one_per_task(np.ones((5, 2))))
    assert "5 tasks cannot carry a claim about new tasks" in str(caught.value)
    assert "p-value below 0.0625" in str(caught.value)
    assert "by='item'" in str(caught.value)


def test_one_task_is_refused_by_task_and_allowed_by_item():
    a = np.random.default_rng(0).normal(size=(9, 1, 2))
    with pytest.raises(ContrastError, match=r"1 task cannot carry .* got 1 \('only'\)"):
        compare(a, 0 * a, ["only"] * 9)
    assert compare(a, 0 * a, ["only"] * 9, by="item")["n_tasks"].values.tolist() == [[1, 1]]


def test_shapes_must_match():
    with pytest.raises(ContrastError, match="match item by item"):
        compare(np.ones((3, 1, 2)), np.ones((3, 1, 2)), ["t"])


@pytest.mark.parametrize("missing", [None, math.nan, ""])
def test_items_without_a_task_are_no_task_of_their_own(missing):
    a, b, tasks = one_per_task(np.ones((8, 1)))
    with pytest.raises(ContrastError) as caught:
        compare(a, b, np.array([*tasks[:6], missing, missing], dtype=object))
    assert str(caught.value) == (
        "some items have no task; got 2 of 8, the first at place 6, expected a task for every "
        "item; give every record its 'task', or leave these items out."
    )


def test_other_axes_are_refused():
    code = (
        "import numpy as np; from attnprobe.contrasts import compare; x = np.ones((8, 2)); "
        "compare(x, x, ['t'] * 8)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (
        "a: values must have the axes item, layer and head; got shape (8, 2), expected three axes"
        in done.stderr
    )


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_seeds_that_no_file_could_keep_are_refused(seed):
    with pytest.raises(ContrastError, match=r"no such seed; got .* whole number from 0 to 2147"):
        compare(*one_per_task(np.ones((8, 1))), rng=seed)


def test_no_pair_is_an_error():
    a = np.full((8, 1, 2), np.nan)
    with pytest.raises(ContrastError, match="no pair to compare"):
        compare(a, 0 * a, [f"t{i}" for i in range(8)])
    with pytest.raises(ContrastError, match="no pair to compare; got 0 items"):
        compare(a[:0], a[:0], [])


HISTORY = np.array([0.2, 0.3])


def memory_run(n_tasks=6, per_task=2, effect=0.3, seed=0):
    """Two styles; in 'coarse', head 1 of layer 1 looks at the history more."""
    rng = np.random.default_rng(seed)
    rows, masses = [], {}
    for task in range(n_tasks):
        for number in range(per_task):
            item = f"t{task}-{number}"
            for style in ("coarse", "stepwise"):
                on_history = rng.uniform(0.2, 0.3, size=(2, 2, 2))
                if style == "coarse":
                    on_history[1, 1] += effect
                mass = np.zeros((2, 2, 2, 5))
                mass[..., 0] = 0.3
                mass[..., 2] = on_history
                mass[..., 3] = 0.7 - on_history
                rows.append((f"{item}/{style}", item, style, f"t{task}", "unseen"))
                masses[f"{item}/{style}"] = step_mass(mass)
    run = MemoryRun(table(*rows), masses)
    run.encoding = lambda _: ENCODED
    return run


class ENCODED:
    spans = (Span(0, 1, "special"), Span(1, 6, "history"), Span(6, 8, "answer"))
    n_prompt = 6
    record = Record("t0-0/coarse", "t0-0", "coarse", (Segment("history", "1 2"),))


def test_contrast_finds_the_head_that_was_changed():
    got = contrast(memory_run(), a="coarse", b="stepwise")
    assert isinstance(got, Contrast)
    significant = got.effects["p_adjusted"].values < 0.05
    assert significant.tolist() == [[False, False], [False, True]]
    assert got.effects["estimate"].values[1, 1] > 0.5
    assert got.unit == "bits"
    assert got.n_pairs == 12
    assert got.title == "enrichment, answer → history: coarse − stepwise"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    with open_run(make_run(path, tasks=7, items_per_task=4, effect=2.0)) as run:
        yield run


def test_a_stored_run_tells_the_styles_apart(stored):
    found = contrast(stored, a="coarse", b="stepwise")
    assert (found.effects["estimate"] > 0).all()
    assert (found.effects["p_adjusted"] < 0.05).any()
    assert found.effects["layer"].values.tolist() == list(stored.layers)
    assert found.n_pairs == 28


def test_a_stored_run_says_which_style_has_which_roles(stored):
    with pytest.raises(ContrastError, match="nothing to compare in coarse") as caught:
        contrast(stored, a="coarse", b="stepwise", query="step_1")
    assert "'stepwise' has queries step_1, step_2, answer" in str(caught.value)
    assert "expected roles that both styles have" in str(caught.value)


def test_contrast_turns_round():
    run = memory_run()
    one, other = (
        contrast(run, a="coarse", b="stepwise"),
        contrast(run, a="stepwise", b="coarse"),
    )
    assert one.effects["estimate"].values == pytest.approx(-other.effects["estimate"].values)


def test_unpaired_items_are_counted_and_said():
    run = memory_run()
    run.records = run.records.drop(["t0-0/coarse", "t1-1/stepwise", "t2-0/stepwise"])
    got = contrast(run, a="coarse", b="stepwise")
    assert got.dropped["only in coarse"] == 2
    assert got.dropped["only in stepwise"] == 1
    assert got.n_pairs == 9
    assert "Items left out: 2 only in coarse, 1 only in stepwise." in got.verdict()


def test_repeated_records_of_one_style_are_averaged():
    run = memory_run()
    once = contrast(run, a="coarse", b="stepwise")
    again = run.records.loc[["t0-0/coarse"]].rename(index={"t0-0/coarse": "again"})
    run.records = type(run.records)(
        {name: [*run.records[name], *again[name]] for name in run.records},
        index=[*run.records.index, "again"],
    )
    run.step_mass["again"] = run.step_mass["t0-0/coarse"]
    twice = contrast(run, a="coarse", b="stepwise")
    assert twice.n_pairs == 12
    assert twice.effects["estimate"].values == pytest.approx(once.effects["estimate"].values)


def test_verdict_says_what_was_found():
    text = contrast(memory_run(), a="coarse", b="stepwise").verdict()
    assert "enrichment, answer → history: coarse − stepwise (bits)." in text
    assert (
        "1 of 4 heads differ at a family-wise error rate of 0.05: 1 higher with coarse, "
        "0 higher with stepwise." in text
    )
    assert "Strongest (95 % interval, adjusted p): layer 1 head 1 +" in text
    assert "by task over 6 tasks (12 pairs), all 64 flips; smallest attainable p: 0.031." in text
    assert "The claim holds for: new tasks like these." in text


def test_verdict_says_when_nothing_could_have_been_found():
    text = contrast(memory_run(), a="coarse", b="stepwise").verdict(alpha=0.01)
    assert "No head could have reached 0.01 with so few tasks." in text


def test_by_item_is_labelled():
    text = contrast(memory_run(n_tasks=3), a="coarse", b="stepwise", by="item").verdict()
    assert "The claim holds for: these tasks only." in text


def test_sink_mass_needs_no_key():
    run = memory_run()
    shift_to_sinks(run, "coarse", 0.1)
    got = contrast(run, a="coarse", b="stepwise", measure="sink_mass")
    assert got.key is None
    assert got.title == "sink_mass, answer: coarse − stepwise"
    assert got.effects["estimate"].values == pytest.approx(0.1, abs=1e-6)


def shift_to_sinks(run, style, shift):
    for name, mass in run.step_mass.items():
        if name.endswith(style):
            mass.values[..., 0] += shift
            mass.values[..., 3] -= shift


def test_pairs_that_are_all_equal_are_refused():
    with pytest.raises(ContrastError) as caught:
        contrast(memory_run(), a="coarse", b="stepwise", measure="sink_mass")
    assert "sink_mass, answer: there is nothing to test: all pairs are equal" in str(caught.value)
    assert "got 12 items, every difference 0" in str(caught.value)
    assert "not the same prompts under the same model" in str(caught.value)


def test_infinite_values_are_refused():
    a = np.random.default_rng(0).normal(size=(8, 1, 2))
    a[3, 0, 1] = np.inf
    with pytest.raises(ContrastError, match=r"infinite values .*; got 1 of 16 values of a"):
        compare(a, np.zeros_like(a), [f"t{i}" for i in range(8)])


def test_ratios_are_of_the_means_of_each_task():
    a = np.repeat([[1.0, 3], [2, 6], [4, 12], [1, 3], [2, 6], [3, 9]], 1, axis=0).reshape(12, 1, 1)
    b = np.ones((12, 1, 1))
    found = compare(a, b, [f"t{i}" for i in range(6) for _ in range(2)], scale="log-ratio")
    assert found["estimate"].item() == pytest.approx(np.log2([2, 4, 8, 2, 4, 6]).mean())


@pytest.mark.parametrize(
    ("low", "got"), [(-0.5, r"got values down to -0\.5"), (0.0, "got 1 means of 0")]
)
def test_ratios_need_values_above_zero(low, got):
    a = np.ones((6, 1, 1))
    a[0] = low
    with pytest.raises(ContrastError, match=f"a ratio needs values above 0; {got}"):
        compare(a, a + 1, [f"t{i}" for i in range(6)], scale="log-ratio")


def test_an_unknown_scale_or_screening_lists_what_there_is():
    pairs = one_per_task(np.ones((6, 1)))
    with pytest.raises(ContrastError, match="no such scale; got 'ratio'; did you mean 'log-"):
        compare(*pairs, scale="ratio")
    with pytest.raises(ContrastError, match=r"no such false discovery rate; got 'bhy'.*bh, by"):
        compare(*pairs, screening="bhy")
    with pytest.raises(ContrastError, match="no such unit of inference; got by='record'"):
        Inference(by="record")


def test_an_unknown_style_lists_the_styles():
    with pytest.raises(
        SelectionError, match=r"got 'stepwize'; did you mean 'stepwise'.*coarse, stepwise"
    ):
        contrast(memory_run(), a="coarse", b="stepwize")


def test_a_role_missing_in_one_style_says_who_has_what():
    run = memory_run()
    for name, mass in run.step_mass.items():
        if name.endswith("coarse"):
            roles = ["special", "template", "coarse_history", "template", "answer"]
            run.step_mass[name] = mass.assign_coords(role=("group", roles))
    with pytest.raises(ContrastError) as caught:
        contrast(run, a="coarse", b="stepwise")
    assert "answer → history: nothing to compare in coarse" in str(caught.value)
    assert "'stepwise' has queries answer and keys special, history, answer" in str(caught.value)


def test_no_common_item_is_an_error():
    run = memory_run()
    run.records["item"] = run.records.index
    with pytest.raises(ContrastError, match="no item has both styles; got 12 items in 'coarse'"):
        contrast(run, a="coarse", b="stepwise")


def test_an_item_of_two_tasks_is_an_error():
    run = memory_run()
    run.records.loc["t0-0/coarse", "task"] = "other"
    with pytest.raises(ContrastError, match="item 't0-0': one item belongs to two tasks"):
        contrast(run, a="coarse", b="stepwise")


def test_records_of_one_item_and_style_with_two_tasks_are_an_error():
    run = memory_run()
    run.records.loc["again"] = run.records.loc["t0-0/coarse"]
    run.records.loc["again", "task"] = "t1"
    run.step_mass["again"] = run.step_mass["t0-0/coarse"]
    with pytest.raises(ContrastError, match=r"item 't0-0': one item .* got 't0' and 't1' in 'coar"):
        contrast(run, a="coarse", b="stepwise")


def test_a_column_of_the_effects_is_at_hand():
    found = contrast(memory_run(), a="coarse", b="stepwise")
    xr.testing.assert_identical(found["estimate"], found.effects["estimate"])


def test_a_style_against_itself_is_an_error():
    with pytest.raises(ContrastError, match="does not differ from itself"):
        contrast(memory_run(), a="coarse", b="coarse")


def test_saved_tables_hold_every_head(tmp_path):
    got = contrast(memory_run(), a="coarse", b="stepwise")
    table_rows = got.to_table()
    with got.save(tmp_path / "deep" / "c.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(table_rows) == 4
    assert float(rows[3]["estimate"]) == pytest.approx(table_rows[3]["estimate"])
    assert (rows[3]["a"], rows[3]["key"], rows[3]["unit"]) == ("coarse", "history", "bits")
    assert rows[3]["q"] == ""

    read = json.loads(got.save(tmp_path / "c.json").read_text(encoding="utf-8"))
    assert read["settings"]["by"] == "task"
    assert read["heads"][3]["p_adjusted"] == pytest.approx(2 / 64)
    assert read["heads"][3]["q"] is None

    with xr.open_dataset(got.save(tmp_path / "c.nc"), engine="scipy") as back:
        assert back["estimate"].values == pytest.approx(got.effects["estimate"].values)
        assert back["estimate"].attrs["units"] == "bits"
        assert back.attrs["a"] == "coarse"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.json", "c.nc", "deep"]


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(ContrastError, match=r"got suffix '\.xlsx', expected \.csv or \.json"):
        contrast(memory_run(), a="coarse", b="stepwise").save(tmp_path / "c.xlsx")
