"""Interactions: a difference that is another in one group of items than in another."""

import numpy as np
import pytest

from attnprobe.contrasts import compare_groups
from attnprobe.errors import ContrastError


def pairs(shift=2.0, n_seen=6, n_unseen=6, per_task=4, n_heads=3, seed=0):
    """Head 1 differs by `shift` more in the seen tasks; all heads differ by 1 anyway."""
    rng = np.random.default_rng(seed)
    n_tasks = n_seen + n_unseen
    b = rng.normal(size=(n_tasks * per_task, 1, n_heads))
    a = b + 1 + 0.3 * rng.normal(size=b.shape)
    seen = np.repeat(np.arange(n_tasks) < n_seen, per_task)
    a[seen, 0, 1] += shift
    tasks = [f"t{i // per_task:02d}" for i in range(n_tasks * per_task)]
    return a, b, tasks, np.where(seen, "seen", "unseen")


def test_only_the_head_that_differs_between_groups_is_found():
    found = compare_groups(*pairs())
    assert (found["p_adjusted"].values < 0.05).tolist() == [[False, True, False]]
    assert found["estimate"].values[0] == pytest.approx([0, 2, 0], abs=0.3)
    assert found["low"].values[0, 1] < 2.2
    assert found["high"].values[0, 1] > 1.8
    assert found.attrs["test"] == "permuted labels"
    assert (found.attrs["n_units_a"], found.attrs["n_units_b"]) == (6, 6)


def test_groups_turned_round_turn_the_sign():
    a, b, tasks, labels = pairs()
    one = compare_groups(a, b, tasks, labels)
    other = compare_groups(a, b, tasks, labels, ("unseen", "seen"))
    assert one["estimate"].values == pytest.approx(-other["estimate"].values)
    assert one["p"].values == pytest.approx(other["p"].values)


def test_an_effect_in_both_groups_is_no_interaction():
    found = compare_groups(*pairs(shift=0.0))
    assert not (found["p_adjusted"].values < 0.05).any()


def test_the_scale_decides_what_an_interaction_is():
    # Everything doubles, from 1 in seen tasks and from 10 in unseen ones.
    rng = np.random.default_rng(0)
    tasks = [f"t{i}" for i in range(10) for _ in range(5)]
    labels = np.repeat(["seen", "unseen"], 25)
    b = np.where(labels == "seen", 1.0, 10.0)[:, None, None] * rng.uniform(0.9, 1.1, (50, 1, 2))
    a = 2 * b * rng.uniform(0.98, 1.02, b.shape)
    differ = compare_groups(a, b, tasks, labels)
    ratio = compare_groups(a, b, tasks, labels, scale="log-ratio")
    assert (differ["p_adjusted"].values < 0.05).all()
    assert not (ratio["p_adjusted"].values < 0.05).any()
    assert ratio["estimate"].values == pytest.approx(0, abs=0.02)
    assert ratio.attrs["scale"] == "log-ratio"


def test_groups_within_every_task_are_compared_within_tasks():
    rng = np.random.default_rng(3)
    tasks = [f"t{i}" for i in range(8) for _ in range(6)]
    labels = np.tile(["seen", "unseen"] * 3, 8)
    task_effect = np.repeat(rng.normal(scale=5, size=8), 6)[:, None, None]
    b = np.zeros((48, 1, 2))
    a = task_effect + 0.3 * rng.normal(size=b.shape)
    a[labels == "seen", 0, 0] += 1
    found = compare_groups(a, b, tasks, labels)
    assert found.attrs["test"] == "sign flips"
    assert (found["p_adjusted"].values < 0.05).tolist() == [[True, False]]
    assert found["n_tasks"].values.tolist() == [[8, 8]]


def test_tasks_in_both_groups_beside_tasks_in_one_are_refused():
    a, b, tasks, labels = pairs()
    labels[0] = "unseen"
    with pytest.raises(ContrastError) as caught:
        compare_groups(a, b, tasks, labels)
    assert "some tasks have items in both groups and some in one only" in str(caught.value)
    assert "got 1 tasks in both (t00 …), 11 in one only (t01, t02, t03 …)" in str(caught.value)
    assert "choose other levels" in str(caught.value)


def test_groups_that_share_tasks_are_not_compared_by_item():
    # No group effect in any task, but one group has four in five items of half of the tasks: items
    # exchanged over all tasks would make a difference between tasks one between groups.
    rng = np.random.default_rng(6)
    tasks = np.repeat([f"t{i}" for i in range(6)], 40)
    labels = np.where(rng.random(240) < np.where(tasks < "t3", 0.8, 0.2), "seen", "unseen")
    effects = np.repeat(rng.normal(scale=0.5, size=(6, 1, 20)), 40, axis=0)
    a = effects + rng.normal(size=(240, 1, 20))
    with pytest.raises(ContrastError) as caught:
        compare_groups(a, 0 * a, tasks, labels, by="item")
    assert "groups that share tasks cannot be compared by item" in str(caught.value)
    assert "got 6 tasks with items in both groups (t0, t1, t2 …)" in str(caught.value)
    assert "compare by task" in str(caught.value)
    assert not (compare_groups(a, 0 * a, tasks, labels)["p_adjusted"] < 0.05).any()


def test_too_few_tasks_are_refused_with_the_smallest_p():
    with pytest.raises(ContrastError) as caught:
        compare_groups(*pairs(n_seen=3, n_unseen=3))
    assert "no permutation of their labels can give a p-value below 0.1" in str(caught.value)
    assert "got 3 in 'seen', 3 in 'unseen'" in str(caught.value)
    assert "3 and 4 tasks, which can give 0.029" in str(caught.value)
    assert compare_groups(*pairs(n_seen=3, n_unseen=4)).attrs["p_smallest"] == 1 / 35
    by_item = compare_groups(*pairs(n_seen=3, n_unseen=3), by="item")
    assert by_item.attrs["scope"] == "these tasks only"


def test_an_unknown_group_lists_what_there_is():
    with pytest.raises(ContrastError, match=r"got 'unsen'; did you mean 'unseen'\? there is: seen"):
        compare_groups(*pairs(), ("seen", "unsen"))
    with pytest.raises(ContrastError, match="a group does not differ from itself; got 'seen'"):
        compare_groups(*pairs(), ("seen", "seen"))


def test_missing_pairs_leave_a_head_untested_and_the_others_as_they_were():
    a, b, tasks, labels = pairs()
    whole = compare_groups(a, b, tasks, labels)
    a[labels == "seen", 0, 2] = np.nan
    found = compare_groups(a, b, tasks, labels)
    assert np.isnan(found["p"].values).tolist() == [[False, False, True]]
    assert found["p"].values[0, :2] == pytest.approx(whole["p"].values[0, :2])
    assert found.attrs["n_tested"] == 2


def test_heads_without_any_difference_have_p_1():
    a, b, tasks, labels = pairs()
    a[:, 0, 0] = b[:, 0, 0] + 1.5
    found = compare_groups(a, b, tasks, labels)
    assert found["p"].values[0, 0] == 1.0
    assert found["estimate"].values[0, 0] == pytest.approx(0, abs=1e-12)


def test_family_wise_error_is_held_under_permuted_labels():
    rng, rejected, n_runs = np.random.default_rng(5), 0, 150
    tasks = [f"t{i}" for i in range(12)]
    labels = ["seen"] * 5 + ["unseen"] * 7
    for _ in range(n_runs):
        a = rng.normal(size=(12, 1, 40)) + rng.normal(size=(12, 1, 1))
        found = compare_groups(a, 0 * a, tasks, labels, n_bootstrap=1, n_flips=792)
        rejected += bool((found["p_adjusted"] < 0.05).any())
    assert rejected / n_runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / n_runs)
