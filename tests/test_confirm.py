"""Heads chosen on one half and judged on the other: splits, controls, a head wired by hand."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from attnprobe.cli import app
from attnprobe.contrasts.confirmation import BEYOND, CHOSEN, RANDOM, read_confirmation
from attnprobe.contrasts.splitting import matched_heads, split_items, split_unit
from attnprobe.errors import AttnprobeError, ContrastError, SelectionError
from attnprobe.figures import draw_lines
from attnprobe.models import LoadedModel
from attnprobe.panels import confirmation_panels
from attnprobe.store import open_run
from attnprobe.types import Record, Segment
from attnprobe.workflows.confirm import ConfirmSettings, confirm
from attnprobe.workflows.extract import ExtractSettings, extract
from tests.planted import DECOYS, MARKED, N_WORDS, with_decoys
from tests.test_knockout import message
from tests.tiny import make_record, save_model

N_ITEMS = 24


# --- splits and controls -------------------------------------------------------------------------


def by_task(n_tasks, n_items):
    return {f"i{task}-{i}": f"t{task}" for task in range(n_tasks) for i in range(n_items)}


@pytest.mark.parametrize("by", ["task", "item"])
def test_halves_are_two_and_hold_everything(by):
    tasks = by_task(13, 5)
    first, second = split_items(tasks, by, np.random.default_rng(0))
    assert sorted(first + second) == sorted(tasks)
    assert not set(first) & set(second)
    again = split_items(tasks, by, np.random.default_rng(0))
    assert (first, second) == again
    assert split_items(tasks, by, np.random.default_rng(1)) != again
    named = {tasks[item] for item in first}, {tasks[item] for item in second}
    if by == "task":
        assert [len(half) for half in named] == [6, 7]
        assert not named[0] & named[1]
    else:
        assert named[0] == named[1] == set(tasks.values())
        assert abs(len(first) - len(second)) <= 1
        for task in named[0]:
            assert sum(tasks[item] == task for item in first) in (2, 3)


def test_tasks_are_split_where_there_are_twelve():
    assert split_unit(by_task(12, 1), "auto") == "task"
    assert split_unit(by_task(11, 2), "auto") == "item"
    assert split_unit(by_task(12, 1), "item") == "item"
    assert message(ContrastError, lambda: split_unit(by_task(11, 2), "task")) == (
        "too few tasks to choose heads on one half and test them on the other; got 11 tasks with "
        "items in both styles, expected at least 12, 6 in each half; add task families, or split "
        "items within tasks (by='item', --by item), which speaks of these tasks only."
    )
    assert "got 8 items in both styles, expected at least 12" in message(
        ContrastError, lambda: split_unit(by_task(4, 2), "auto")
    )
    assert "no such split; got by='style', expected auto, task, item." in message(
        ContrastError, lambda: split_unit(by_task(4, 2), "style")
    )


def test_random_heads_are_of_the_same_layers_and_never_the_chosen_ones():
    chosen = ((0, 1), (0, 2), (3, 0))
    there = {layer: list(range(6)) for layer in range(5)}
    sets = matched_heads(chosen, there, 20, np.random.default_rng(0))
    assert len(set(sets)) == len(sets) == 20
    for drawn in sets:
        assert [layer for layer, _ in drawn] == [0, 0, 3]
        assert len(set(drawn)) == 3
        assert not set(drawn) & set(chosen)


def test_fewer_different_sets_than_asked_for_are_all_taken():
    sets = matched_heads(((0, 1),), {0: [0, 1, 2, 3]}, 10, np.random.default_rng(0))
    assert sorted(sets) == [((0, 0),), ((0, 2),), ((0, 3),)]
    told = message(
        ContrastError,
        lambda: matched_heads(((0, 1), (0, 2)), {0: [0, 1, 2]}, 5, np.random.default_rng(0)),
    )
    assert told == (
        "layer 0: too few other heads to draw a control from; got 2 heads chosen, 1 others, "
        "expected at least as many others as chosen ones in every layer; choose fewer heads "
        "(--top)."
    )


# --- a head wired by hand ------------------------------------------------------------------------


def word_tokenizer():
    """One token per word: w0 …, the same words with a mark m0 …, and as decoys d0 …"""
    words = [f"{kind}{i}" for kind in "wmd" for i in range(N_WORDS)]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="w2"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def planted_records(n_tasks):
    """The marked word stands in the history in one style, in the instruction in the other."""
    rng = np.random.default_rng(0)
    for i in range(N_ITEMS):
        word, other, *filler = rng.permutation(np.arange(2, N_WORDS)).tolist()
        rest = [f"w{one}" for one in filler]
        instruction, history = [*rest[:3], f"d{other}"], rest[3:6]
        for style in ("coarse", "stepwise"):
            holder = history if style == "coarse" else instruction
            place = int(rng.integers(1, len(holder)))
            parts = {"instruction": list(instruction), "history": list(history)}
            parts["history" if style == "coarse" else "instruction"].insert(place, f"m{word}")
            yield Record(
                f"i{i}/{style}", f"i{i}", style,
                tuple(Segment(role, " " + " ".join(words)) for role, words in parts.items()),
                (Segment("answer", f" w{word}"),), task=f"t{i % n_tasks}", split="seen",
                meta={"answer": [word], "horizon": 1},
            )  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A run of the model in which head 0 alone copies the marked word; three look at decoys."""
    model = with_decoys()
    assert (MARKED, DECOYS) == (N_WORDS, 2 * N_WORDS)
    loaded = LoadedModel(model, word_tokenizer(), "planted")
    folder = tmp_path_factory.mktemp("planted") / "run"
    with extract(list(planted_records(12)), loaded, folder, ExtractSettings(("rows",))) as run:
        yield run, loaded


@pytest.fixture(scope="module")
def found(planted):
    run, loaded = planted
    return confirm(run, ConfirmSettings("coarse", "stepwise", "mass", top=1), loaded)


def test_the_wired_head_is_chosen_holds_and_matters_more_than_random_ones(found):
    (row,) = found.heads
    assert (row["layer"], row["head"]) == (0, 0)
    assert row["low"] > 0.9  # of the attention, on items that had no part in the choice
    assert row["p_adjusted"] < 0.05
    rows = {
        (one["style"], one["intervention"], one["heads"]): one
        for one in found.to_table()
        if one["outcome"] == "log_prob"
    }
    for intervention in ("knockout", "ablation"):
        chosen = rows["coarse", intervention, CHOSEN]
        assert chosen["high"] < -0.5
        assert abs(rows["coarse", intervention, RANDOM]["estimate"]) < 0.05
        beyond = rows["coarse", intervention, BEYOND]
        assert beyond["high"] < -0.5
        assert beyond["p_adjusted"] < 0.05
        assert chosen["n_tasks"] == 6
    # where the marked word is no history, hiding the history from the head does nothing
    assert abs(rows["stepwise", "knockout", CHOSEN]["estimate"]) < 0.05
    assert rows["stepwise", "ablation", CHOSEN]["high"] < -0.5


def test_the_verdict_tells_it(found):
    told = found.verdict()
    assert "1 heads chosen on 12 items of 6 tasks, and judged on 12 others of 6 tasks" in told
    assert "The claim holds for: new tasks like these." in told
    assert "1 of 1 point the same way again, 1 at a family-wise error rate of 0.05" in told
    assert "Knockout, coarse: the log-probability of the answer changes by -" in told
    assert "It needs the chosen heads more: -" in told
    assert "0 of 3 random sets change as much." in told
    assert "Knockout, stepwise" in told
    assert (
        "Refused: 10 sets of random heads: there are only 3 different ones of the same layers"
        in told
    )


def test_no_item_is_in_both_halves_and_only_the_second_half_is_run_again(planted, found):
    assert found.settings["n_records"] == 24
    assert found.settings["n_first"] + found.settings["n_second"] == N_ITEMS
    assert found.settings["random_heads"] == [[[0, 1]], [[0, 2]], [[0, 3]]]
    run, loaded = planted
    seen = []
    few = ConfirmSettings(
        "coarse", "stepwise", "mass", top=1, records=8, interventions=("ablation",)
    )
    part = confirm(run, few, loaded, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (16, 16)
    assert {row["intervention"] for row in part.to_table()} == {"ablation"}
    # eight records of each style, taken in turn from the six tasks
    assert {row["n_tasks"] for row in part.to_table()} == {6}
    assert {row["n_items"] for row in part.to_table()} == {8}


@torch.no_grad()
def test_an_ablation_by_zero_is_that_of_a_model_without_the_head(planted):
    run, loaded = planted
    settings = ConfirmSettings(
        "coarse", "stepwise", "mass", top=1, interventions=("ablation",), mode="zero", by="item"
    )
    found = confirm(run, settings, loaded)
    told = next(
        row for row in found.to_table() if (row["style"], row["heads"]) == ("coarse", CHOSEN)
    )
    lacking = with_decoys()
    lacking.model.layers[0].self_attn.o_proj.weight[:, :32] = 0
    tasks = {f"i{i}": f"t{i % 12}" for i in range(N_ITEMS)}
    # the same draws as `confirm` makes
    _, second = split_items(tasks, "item", np.random.default_rng(0))
    changes = []
    for item in second:
        ids = torch.from_numpy(run.encoding(f"{item}/coarse").ids.astype(np.int64))[None]
        values = [
            one(ids).logits[0, -2].log_softmax(-1)[ids[0, -1]] for one in (lacking, loaded.model)
        ]
        changes.append(float(values[0] - values[1]))
    assert told["estimate"] == pytest.approx(np.mean(changes), abs=1e-4)


def test_files_and_figures_say_the_same(found, tmp_path):
    path = found.save(tmp_path / "a" / "c.json")
    again = read_confirmation(path)
    assert again.verdict() == found.verdict() == json.loads(path.read_text())["verdict"]
    assert again.to_table() == found.to_table()
    with found.save(tmp_path / "c.csv").open(encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["estimate"]) == found.heads[0]["estimate"]
    assert "got suffix '.txt', expected .csv or .json" in message(
        ContrastError, lambda: found.save(tmp_path / "c.txt")
    )
    (tmp_path / "b.json").write_text("{}")
    assert "this file holds no confirmation" in message(
        ContrastError, lambda: read_confirmation(tmp_path / "b.json")
    )
    panels = confirmation_panels(again)
    assert [panel.title for panel in panels] == [
        "knockout, coarse", "ablation, coarse", "knockout, stepwise", "ablation, stepwise",
    ]  # fmt: skip
    line = panels[0].lines[0]
    assert line.label == CHOSEN
    assert line.y[0] == found.to_table()[0]["estimate"]
    assert [len(line.x) for line in panels[0].lines] == [2, 2, 3]
    assert draw_lines(panels[:2]) is not None
    assert "does not hold this outcome; got passed" in message(
        SelectionError, lambda: confirmation_panels(again, "passed")
    )


# --- nothing planted, and the command line -------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("confirm")
    save_model(folder / "model")
    records = [make_record(i, style) for i in range(12) for style in ("coarse", "stepwise")]
    extract(records, str(folder / "model"), folder / "run", ExtractSettings()).close()
    return folder


def invoke(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_the_command_tells_saves_and_draws(folder, tmp_path):
    out = tmp_path / "c.json"
    done = invoke(
        "confirm", folder / "run", "--key", "instruction", "--top", 2, "--draws", 3, "--written",
        "--device", "cpu", "-o", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "2 heads chosen on 6 items of 6 tasks, and judged on 6 others" in done.stdout
    assert "The claim holds for: these tasks only." in done.stdout
    assert "Knockout, coarse: the pass rate changes by +0 [+0, +0]" in done.stdout
    facts = json.loads(out.read_text(encoding="utf-8"))
    passed = [row for row in facts["changes"] if row["outcome"] == "passed"]
    assert [row["before"] for row in passed] == [0] * 12  # random weights never pass
    assert len(facts["draws"]) == 2 * 2 * 2 * len(facts["settings"]["random_heads"])
    for row in facts["heads"]:
        assert math.isfinite(row["estimate"])
    drawn = invoke("plot", "confirm", out, "-o", tmp_path / "fig.svg")
    assert drawn.exit_code == 0, drawn.stderr
    assert "knockout, coarse" in (tmp_path / "fig.svg").read_text()


def test_a_measure_without_a_key_is_ablated_only(folder):
    with open_run(folder / "run") as run:
        settings = ConfirmSettings("coarse", "stepwise", "sink_mass", top=1, n_draws=2, records=6)
        found = confirm(run, settings)
    assert {row["intervention"] for row in found.to_table()} == {"ablation"}
    assert "Refused: knockout: 'sink_mass' has no role that could be hidden" in found.verdict()


def test_errors_say_where_and_what(folder):
    with open_run(folder / "run") as run:

        def told(**asked):
            settings = {"a": "coarse", "b": "stepwise", "key": "instruction", "top": 1} | asked
            return message(AttnprobeError, lambda: confirm(run, ConfirmSettings(**settings)))

        assert told(by="task").startswith("too few tasks to choose heads on one half")
        assert told(a="coarze").startswith(
            "the run has no such style; got 'coarze'; did you mean 'coarse'?"
        )
        assert told(top=12).startswith("layer 0: too few other heads to draw a control from")
        assert "no measure of that name" in told(measure="enrichmend")
        assert "heads are chosen, and this measure does not tell them" in told(measure="rollout")
        assert "'step_1'" in told(key="step_1", query="answer")
    assert message(SelectionError, lambda: ConfirmSettings("a", "b", top=0)) == (
        "--top: too small; got 0, expected ≥ 1."
    )
    assert "confirm: no such intervention; got cut; did you mean 'knockout'?" in message(
        SelectionError, lambda: ConfirmSettings("a", "b", interventions=("cut",))
    )
    assert "confirm: no such ablation; got median" in message(
        SelectionError, lambda: ConfirmSettings("a", "b", mode="median")
    )
