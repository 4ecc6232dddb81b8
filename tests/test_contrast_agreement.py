"""Contrasts against independent implementations: MNE, scipy, and formulas written out."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from attnprobe.contrasts import compare, compare_groups
from attnprobe.contrasts.flips import sign_flip_test
from tests.test_contrasts import one_per_task


@pytest.fixture(scope="module")
def mne_test():
    mne_stats = pytest.importorskip("mne.stats", reason="mne is not installed (extra: dev)")
    return mne_stats.permutation_t_test


def test_max_t_agrees_exactly_with_mne_where_all_flips_are_enumerated(mne_test):
    units = np.random.default_rng(8).normal(size=(9, 40)) + np.linspace(0, 1.5, 40)
    # With "all", MNE 1.13 leaves one of the 256 flips that differ out; with 256 it takes each.
    t, p, _ = mne_test(units, n_permutations=2**8, tail=0, verbose="error")
    ours = sign_flip_test(units, 512, np.random.default_rng(0), step_down=False)
    assert ours.exact
    assert ours.p_adjusted == pytest.approx(p, abs=1e-12)
    assert np.unique(p).size > 5
    # Our statistic orders heads as |t| does: the p-values fall where |t| rises.
    assert np.all(np.diff(ours.p_adjusted[np.argsort(np.abs(t))]) <= 1e-12)
    # Stepping down, as contrasts do, starts from the same value and never gives a larger one.
    stepped = compare(*one_per_task(units))["p_adjusted"].values[0]
    assert np.all(stepped <= p + 1e-12)
    assert (stepped < p - 1e-12).any()
    assert stepped[np.argmax(np.abs(t))] == pytest.approx(p.min())


def test_max_t_agrees_with_mne_where_flips_are_drawn(mne_test):
    units = np.random.default_rng(9).normal(size=(20, 30)) + np.linspace(0, 1, 30)
    _, p, _ = mne_test(units, n_permutations=20_000, tail=0, seed=1, verbose="error")
    ours = sign_flip_test(units, 20_000, np.random.default_rng(0), step_down=False)
    assert not ours.exact
    # Two draws of 20,000 each: 4 standard errors of their difference at p = 0.5 are 0.02.
    assert ours.p_adjusted == pytest.approx(p, abs=0.02)


def test_the_effect_has_the_t_of_scipy():
    units = np.random.default_rng(1).normal(0.4, 1, size=(15, 4))
    effects = compare(*one_per_task(units))
    freedom = 14
    correction = math.gamma(freedom / 2) / (math.sqrt(freedom / 2) * math.gamma((freedom - 1) / 2))
    t = effects["g_z"].values[0] / correction * math.sqrt(15)
    assert t == pytest.approx(stats.ttest_1samp(units, 0).statistic)


def benjamini_yekutieli(p):
    """The adjusted p-values by their definition, one by one."""
    n = len(p)
    harmonic = sum(1 / i for i in range(1, n + 1))
    ranked = sorted(p)
    return [
        min(1.0, min(ranked[k] * n * harmonic / (k + 1) for k in range(n) if ranked[k] >= one))
        for one in p
    ]


def test_by_agrees_with_its_definition_and_is_stricter_than_bh():
    units = np.random.default_rng(2).normal(0.7, 1, size=(14, 6))
    bh, by = (compare(*one_per_task(units), screening=kind) for kind in ("bh", "by"))
    assert by["q"].values[0] == pytest.approx(benjamini_yekutieli(by["p"].values[0]))
    assert np.all(by["q"].values >= bh["q"].values)
    assert (by["q"].values > bh["q"].values).any()
    assert by.attrs["screening"] == "by"


def groups_of(first, second):
    """Pairs of two groups, one item per task."""
    values = np.concatenate([first, second])[:, None, :]
    labels = ["seen"] * len(first) + ["unseen"] * len(second)
    return values, np.zeros_like(values), [f"t{i}" for i in range(len(values))], labels


def test_labels_agree_with_scipy_where_all_are_enumerated():
    rng = np.random.default_rng(4)
    first, second = rng.normal(0.8, 1, size=(5, 3)), rng.normal(size=(6, 3))
    ours = compare_groups(*groups_of(first, second))
    for head in range(3):
        want = stats.permutation_test(
            (first[:, head], second[:, head]),
            lambda x, y: abs(stats.ttest_ind(x, y).statistic),
            permutation_type="independent",
            alternative="greater",
            n_resamples=np.inf,
        )
        assert ours["p"].values[0, head] == pytest.approx(want.pvalue)
    assert ours.attrs["n_flips"] == math.comb(11, 5)
    assert ours.attrs["p_smallest"] == pytest.approx(1 / math.comb(11, 5))


def test_adjusted_label_p_agrees_with_a_slow_loop():
    rng = np.random.default_rng(6)
    first, second = rng.normal(0.9, 1, size=(4, 4)), rng.normal(size=(4, 4))
    units = np.concatenate([first, second])

    def t_of(chosen):
        one = np.isin(np.arange(8), chosen)
        return np.abs(stats.ttest_ind(units[one], units[~one]).statistic)

    observed = t_of([0, 1, 2, 3])
    permuted = np.array([t_of(ways) for ways in itertools.combinations(range(8), 4)])
    order, so_far, want = np.argsort(-observed), 0.0, np.empty(4)
    for place, head in enumerate(order):
        maxima = permuted[:, order[place:]].max(axis=1)
        so_far = max(so_far, (maxima >= observed[head] - 1e-9).mean())
        want[head] = so_far
    ours = compare_groups(*groups_of(first, second))
    assert ours["p_adjusted"].values[0] == pytest.approx(want)
    assert ours.attrs["p_smallest"] == pytest.approx(2 / 70)


def test_the_interval_of_groups_agrees_with_scipy():
    rng = np.random.default_rng(7)
    first, second = rng.normal(1, 1, size=(9, 2)), rng.normal(size=(12, 2))
    ours = compare_groups(*groups_of(first, second), n_bootstrap=9000)
    want = stats.bootstrap(
        (first, second), lambda x, y, axis: x.mean(axis) - y.mean(axis), axis=0,
        method="percentile", n_resamples=9000, rng=1,
    ).confidence_interval  # fmt: skip
    assert ours["low"].values[0] == pytest.approx(want.low, abs=0.05)
    assert ours["high"].values[0] == pytest.approx(want.high, abs=0.05)


def test_the_effect_of_groups_is_hedges_g():
    # Means 3 and 1, both with sum of squares 2; pooled variance 4 / 4 = 1; J(4) = 0.7979.
    first, second = np.array([[2.0], [3.0], [4.0]]), np.array([[0.0], [1.0], [2.0]])
    with_one_more = np.concatenate([second, [[1.0]]])  # so that the test is not refused
    ours = compare_groups(*groups_of(first, with_one_more))
    pooled = math.sqrt(4 / 5)
    correction = math.gamma(2.5) / (math.sqrt(2.5) * math.gamma(2))
    assert ours["estimate"].item() == pytest.approx(2.0)
    assert ours["g_s"].item() == pytest.approx(correction * 2 / pooled)
