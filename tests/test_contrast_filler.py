"""What a role that one style lacks is held against."""

import numpy as np
import pytest

from attnprobe.contrasts import contrast
from attnprobe.contrasts.filler import MAX_WINDOWS
from attnprobe.errors import ContrastError
from attnprobe.store import open_run
from tests.store.builders import make_run


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    with open_run(make_run(path, tasks=7, items_per_task=2)) as run:
        yield run


def by_hand(run, item, measured):
    """The mean over windows, key by key, in plain loops."""
    ours, theirs = run.step_mass(f"{item}/coarse"), f"{item}/stepwise"
    groups = (ours["role"].values == "coarse_history") & ~ours["is_sink"].values
    answers = ours["step_role"].values == "answer"
    n_keys = int(ours["visible"].values[:, answers][:, :, groups].sum(2).max(0).mean())
    weights, spans = run.weights(theirs), run.encoding(theirs).spans
    text = [
        k for span in spans if span.role in ("instruction", "history")
        for k in range(span.start, span.stop) if k not in run.encoding(theirs).sinks
    ]  # fmt: skip
    answer = next(span for span in spans if span.role == "answer")
    found = []
    for first in range(len(text) - n_keys + 1):
        window = text[first : first + n_keys]
        steps = []
        for position in range(answer.start, answer.stop):
            row = weights.sel(query=position - 1).values
            apart = [k for k in range(position) if k not in run.encoding(theirs).sinks]
            steps.append(measured(row, window, apart))
        found.append(np.mean(steps, axis=0))
    assert 1 < len(found) <= MAX_WINDOWS
    return np.mean(found, axis=0)


def mass(row, window, _):
    return row[..., window].sum(-1)


def enrichment(row, window, apart):
    share = row[..., window].sum(-1) / row[..., apart].sum(-1)
    even = len(window) / len(apart)
    return np.log2((share + 0.01 * even) / (1.01 * even))


@pytest.mark.parametrize("measured", [mass, enrichment])
def test_filler_is_the_mean_over_windows_of_the_same_length(stored, measured):
    name = measured.__name__
    found = contrast(stored, a="coarse", b="stepwise", key="coarse_history", measure=name)
    items = sorted(set(stored.records["item"]))
    tasks = {item: [] for item in stored.records["task"]}
    for item in items:
        own = stored.step_mass(f"{item}/coarse")
        assert own.sizes["layer"] == 2
        from attnprobe.measures import measure

        direct = measure(stored, name, query="answer", key="coarse_history", ids=[f"{item}/coarse"])
        difference = direct.values[0] - by_hand(stored, item, measured)
        tasks[stored.records.loc[f"{item}/coarse", "task"]].append(difference)
    want = np.mean([np.mean(task, axis=0) for task in tasks.values()], axis=0)
    assert found.effects["estimate"].values == pytest.approx(want, abs=2e-4)


def test_the_result_says_that_it_is_filler(stored):
    found = contrast(stored, a="coarse", b="stepwise", key="coarse_history")
    assert found.filler == "stepwise"
    assert "answer → coarse_history (in stepwise: filler of its length)" in found.title
    assert "Prompts of stepwise have no coarse_history; in its place stands" in found.methods()
    assert found.settings["filler"] == "*"
    turned = contrast(stored, a="stepwise", b="coarse", key="coarse_history")
    assert turned.effects["estimate"].values == pytest.approx(-found.effects["estimate"].values)


def test_what_both_styles_have_is_compared_directly(stored):
    found = contrast(stored, a="coarse", b="stepwise")
    assert found.filler is None
    assert any("coarse_history: only coarse has it, so not compared" in r for r in found.refused)
    assert any("step_1, step_2: only stepwise has them" in r for r in found.refused)
    assert "Refused: coarse_history: only coarse has it, so not compared directly." in (
        found.verdict()
    )


def test_filler_that_is_too_short_is_refused_with_the_lengths(stored):
    with pytest.raises(ContrastError) as caught:
        contrast(stored, a="coarse", b="stepwise", key="coarse_history", filler="instruction")
    assert "'stepwise' has no 'coarse_history', and no filler as long" in str(caught.value)
    assert "got 0 keys of text at most in roles like 'instruction'" in str(caught.value)
    assert "as 'coarse' has of 'coarse_history'" in str(caught.value)


def test_without_rows_there_is_no_filler(tmp_path):
    path = make_run(tmp_path / "run", tasks=6, items_per_task=1, keep=("steps",))
    with open_run(path) as run, pytest.raises(ContrastError) as caught:
        contrast(run, a="coarse", b="stepwise", key="coarse_history")
    assert "without attention rows there is no filler" in str(caught.value)
    assert "--keep rows" in str(caught.value)


def test_measures_that_are_no_sums_over_keys_take_no_filler(stored):
    with pytest.raises(ContrastError) as caught:
        contrast(stored, a="coarse", b="stepwise", key="coarse_history", measure="total_influence")
    assert "this measure cannot be taken of filler" in str(caught.value)
    assert "expected a measure of what a span draws" in str(caught.value)


def test_a_query_has_no_filler(stored):
    with pytest.raises(ContrastError, match="step_1 → history: nothing to compare in coarse"):
        contrast(stored, a="coarse", b="stepwise", query="step_1")
