"""From a run to what knockouts change: reloaded, paired, told, drawn."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from attnprobe.cli import app
from attnprobe.contrasts import Outcomes, changes, read_changes
from attnprobe.contrasts.interventions import BEYOND
from attnprobe.errors import AttnprobeError, ContrastError, SelectionError
from attnprobe.figures import draw
from attnprobe.models import LoadedModel
from attnprobe.panels import change_panels
from attnprobe.records import write_records
from attnprobe.store import open_run
from attnprobe.types import Segment
from attnprobe.workflows.cuts import edges_between, random_edges
from attnprobe.workflows.extract import ExtractSettings, extract
from attnprobe.workflows.knockout import KnockoutSettings, knockout_changes
from attnprobe.workflows.reloading import reload_model
from tests.test_knockout import message
from tests.test_score import saying
from tests.tiny import make_record, make_tokenizer, save_model, tiny_llama

WRITE = ExtractSettings(records_per_chunk=50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of 12 items over 6 tasks in two styles, its model as a folder, and a dataset."""
    folder = tmp_path_factory.mktemp("knockout")
    save_model(folder / "model")
    records = [make_record(i, style) for i in range(12) for style in ("coarse", "stepwise")]
    write_records(records, folder / "data.jsonl")
    extract(records, str(folder / "model"), folder / "run", WRITE).close()
    return folder


@pytest.fixture
def run(folder):
    with open_run(folder / "run") as opened:
        yield opened


def spans(encoding, role):
    return [(span.start, span.stop) for span in encoding.spans if span.role == role]


@torch.no_grad()
def by_hand(encoding, keys=None):
    """Log-probability of the answer when it cannot look at the history (or keys), in float64."""
    model = tiny_llama().double()
    model.set_attn_implementation("eager")
    ids = torch.from_numpy(encoding.ids.astype(np.int64))[None]
    length = ids.shape[1]
    allowed = torch.ones(length, length).tril().bool()
    ((start, stop),) = spans(encoding, "answer")
    ((first, last),) = spans(encoding, "history")
    found = []
    for cut in (False, True):
        if cut:
            allowed[start - 1 : stop - 1, keys or range(first, last)] = False
        mask = torch.zeros(1, 1, length, length, dtype=torch.float64)
        logits = model(ids, attention_mask=mask.masked_fill(~allowed, -torch.inf)).logits[0]
        probs = logits.log_softmax(-1)
        found.append(sum(float(probs[at - 1, ids[0, at]]) for at in range(start, stop)))
    return found


def test_changes_are_those_of_an_explicit_mask(run):
    found = knockout_changes(run)
    truth = {record_id: by_hand(run.encoding(record_id)) for record_id in run.records.index}
    effects = found.effects["log_prob"]
    for style in ("coarse", "stepwise"):
        own = run.records[run.records["style"] == style]
        tasks = [
            np.mean([truth[one][1] - truth[one][0] for one in some.index])
            for _, some in own.groupby("task")
        ]
        cell = effects.sel(style=style, window="all", span="history")
        assert len(tasks) == 6
        assert float(cell["estimate"]) == pytest.approx(np.mean(tasks), abs=1e-4)
        before = np.mean([np.mean([truth[i][0] for i in s.index]) for _, s in own.groupby("task")])
        assert float(cell["before"]) == pytest.approx(before, abs=1e-4)
        assert cell["low"] < np.mean(tasks) < cell["high"]
        assert int(cell["n_items"]) == 12
    assert found.styles == ("coarse", "stepwise")


def test_random_cuts_take_as_many_other_keys_from_the_same_queries(run):
    drawn = set()
    for record_id in run.records.index:
        encoding = run.encoding(record_id)
        edges = edges_between(encoding, "answer", "history", (1,))
        ((start, stop),) = spans(encoding, "answer")
        ((first, last),) = spans(encoding, "history")
        cut = random_edges(encoding, edges, np.random.default_rng(0))
        if cut is None:  # step-by-step prompts are short
            assert record_id.endswith("stepwise")
            assert len({*range(4, start - 1)} - {*range(first, last)}) < last - first
            continue
        keys = {edge.keys[0] for edge in cut}
        assert len(cut) == len(keys) == last - first
        assert all(edge.queries == (start - 1, stop - 1) for edge in cut)
        assert all(edge.layers == (1,) and edge.keys[1] == edge.keys[0] + 1 for edge in cut)
        assert not keys & {*range(first, last), *encoding.sinks}
        assert max(keys) < start - 1
        drawn.add(tuple(sorted(keys)))
    assert len(drawn) > 1
    coarse = run.encoding("item-000/coarse")
    many = edges_between(coarse, "answer", "instruction", None)
    assert random_edges(coarse, many, np.random.default_rng(0)) is None
    assert random_edges(coarse, [], np.random.default_rng(0)) == []


def test_a_cut_is_held_against_random_ones(run):
    settings = KnockoutSettings(by="item", n_random=2, records=6)
    result = knockout_changes(run, settings)
    cell = result.effects[BEYOND].sel(window="all", span="history")
    for style in cell["style"].values:
        own = run.records[run.records["style"] == style].index[:6]
        cut, control = [], []
        for record_id in own:
            encoding = run.encoding(record_id)
            edges = edges_between(encoding, "answer", "history", None)
            rng = np.random.default_rng([0, 0, *record_id.encode()])
            drawn = [random_edges(encoding, edges, rng) for _ in range(2)]
            keys = [[edge.keys[0] for edge in one] for one in drawn]
            cut.append(by_hand(encoding)[1])
            control.append(np.mean([by_hand(encoding, one)[1] for one in keys]))
        found = cell.sel(style=style)
        assert float(found["before"]) == pytest.approx(np.mean(control), abs=1e-4)
        expected = np.mean(np.subtract(cut, control))
        assert float(found["estimate"]) == pytest.approx(expected, abs=1e-4)
        assert float(found["low"]) <= expected <= float(found["high"])
    assert "coarse" in cell["style"].values
    if "stepwise" not in cell["style"].values:
        assert result.settings["no_control"][0].startswith("style 'stepwise': ")


def test_where_there_are_too_few_other_keys_there_is_no_control(run):
    some = knockout_changes(run, KnockoutSettings(keys=("history", "instruction"), by="item"))
    cells = some.effects[BEYOND]["estimate"].sel(window="all")
    assert np.isnan(float(cells.sel(style="coarse", span="instruction")))
    assert np.isfinite(float(cells.sel(style="coarse", span="history")))
    assert some.effects["log_prob"]["estimate"].notnull().all()
    none = knockout_changes(run, KnockoutSettings(query="history", keys=("instruction",)))
    assert list(none.effects) == ["log_prob"]
    assert none.settings["no_control"][0].startswith(
        "no record has what should be changed; got 24 "
    )
    without = knockout_changes(run, KnockoutSettings(n_random=0))
    assert list(without.effects) == ["log_prob"]
    assert "no_control" not in without.settings


def test_the_stored_log_probabilities_are_those_before(run):
    effects = knockout_changes(run, KnockoutSettings(by="item")).effects["log_prob"]
    own = run.records[run.records["style"] == "coarse"].index
    stored = []
    for record_id in own:
        table = run.predictions(record_id)
        stored.append(float(table["log_prob"].values[table["step_role"].values == "answer"].sum()))
    cell = effects.sel(style="coarse", window="all", span="history")
    assert float(cell["before"]) == pytest.approx(np.mean(stored), abs=1e-3)


def test_a_batch_of_cuts_gives_what_each_gives_alone(run):
    settings = {"window": 1, "keys": ("history", "instruction"), "records": 6, "by": "item"}
    together = knockout_changes(run, KnockoutSettings(**settings))
    alone = knockout_changes(run, KnockoutSettings(**settings, batch_size=1))
    for name in ("estimate", "before"):
        np.testing.assert_allclose(
            together.effects["log_prob"][name], alone.effects["log_prob"][name], atol=1e-4
        )
    assert together.effects["log_prob"].sizes == {"style": 2, "window": 3, "span": 2}
    assert list(together.effects["log_prob"]["window"].values) == ["0", "1", "2"]
    overlapping = knockout_changes(
        run, KnockoutSettings(window=2, stride=1, records=6, by="item")
    ).effects["log_prob"]
    assert list(overlapping["window"].values) == ["0-1", "1-2", "2"]


def test_cutting_a_role_that_comes_later_or_is_lacking_has_no_value(run):
    found = knockout_changes(run, KnockoutSettings(query="step_1", by="item"))
    assert found.styles == ("stepwise",)
    assert found.settings["without"] == ["coarse"]
    later = knockout_changes(
        run, KnockoutSettings(query="instruction", keys=("answer", "special"), by="item")
    ).effects["log_prob"]
    assert np.isnan(later.sel(style="coarse", span="answer")["estimate"].item())
    assert later.sel(style="coarse", span="special")["estimate"].item() != 0


def test_the_pass_rate_is_that_of_what_is_written(folder, tmp_path):
    """A model that writes ` 1` whatever it sees passes where 1 is right, with every cut."""
    loaded = LoadedModel(saying(" 1"), make_tokenizer(), "parrot")
    records = []
    for i in range(12):
        record = make_record(i)
        target = (*record.target[:1], Segment("answer", "8"))
        meta = {"answer": [1 if i % 3 == 0 else 9], "horizon": 1, "kind": "integer"}
        records.append(replace(record, target=target, meta=meta))
    with extract(records, loaded, tmp_path / "run", WRITE) as run:
        settings = KnockoutSettings(written=True, by="item")
        found = knockout_changes(run, settings, loaded)
    cell = found.effects["passed"].sel(style="coarse", window="all", span="history")
    assert float(cell["before"]) == pytest.approx(1 / 3)
    assert float(cell["estimate"]) == 0


def test_tables_and_files_say_the_same(run, tmp_path):
    found = knockout_changes(run, KnockoutSettings(keys=("history", "instruction"), n_random=0))
    rows = found.to_table()
    assert [(row["style"], row["keys"]) for row in rows] == [
        (style, key) for style in ("coarse", "stepwise") for key in ("history", "instruction")
    ]
    with found.save(tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [float(row["estimate"]) for row in read] == [row["estimate"] for row in rows]
    again = read_changes(found.save(tmp_path / "a.json"))
    assert again.title == found.title
    for name in ("estimate", "low", "high", "p_adjusted", "before"):
        np.testing.assert_array_equal(
            again.effects["log_prob"][name], found.effects["log_prob"][name]
        )
    assert message(ContrastError, lambda: found.save(tmp_path / "a.txt")).endswith(
        "got suffix '.txt', expected .csv or .json."
    )
    (tmp_path / "b.json").write_text("{}")
    assert "this file holds no changes" in message(
        ContrastError, lambda: read_changes(tmp_path / "b.json")
    )


def test_panels_share_limits_and_mark_what_differs(run):
    found = knockout_changes(run, KnockoutSettings(window=1, keys=("history", "instruction")))
    first, second = change_panels(found)
    assert first.limits == second.limits
    assert first.rows == ("0", "1", "2")
    assert first.columns == ("history", "instruction")
    assert first.title == "coarse: attention from answer cut"
    np.testing.assert_array_equal(
        first.marks, found.effects["log_prob"]["p_adjusted"].sel(style="coarse").values < 0.05
    )
    assert draw((first, second)) is not None
    assert "do not hold this outcome; got passed" in message(
        SelectionError, lambda: change_panels(found, "passed")
    )


def test_a_planted_change_is_found_and_nothing_else():
    rng = np.random.default_rng(0)
    before = rng.normal(size=48)
    after = np.stack([before - 1, before], axis=-1)[:, None, :] + rng.normal(0, 0.1, (48, 1, 2))
    given = Outcomes(
        before, after, tuple(f"t{i % 8}" for i in range(48)), ("a",) * 48, ("all",), ("x", "y")
    )
    effects = changes({"log_prob": given}, "cut").effects["log_prob"].sel(style="a", window="all")
    assert (
        float(effects.sel(span="x")["p_adjusted"])
        < 0.05
        < float(effects.sel(span="y")["p_adjusted"])
    )
    assert -1.1 < float(effects.sel(span="x")["estimate"]) < -0.9


# --- the model, again ----------------------------------------------------------------------------


def test_another_model_is_refused(run, folder, tmp_path):
    save_model(tmp_path / "other", seed=1)
    told = message(AttnprobeError, lambda: reload_model(run, str(tmp_path / "other")))
    assert "this is not the model that the run was made with: its weights have changed" in told
    assert "name the right one with --model, or extract again with this one" in told
    assert reload_model(run).identity() == run.model


def test_remote_code_needs_leave_again(folder, tmp_path):
    from tests.model_kinds import save_remote

    name = str(save_remote(tmp_path / "model"))
    settings = ExtractSettings(trust_remote_code=True)
    with extract([make_record()], name, tmp_path / "run", settings) as run:
        told = message(AttnprobeError, lambda: reload_model(run))
        assert "made by code that came with its model" in told
        assert "add --trust-remote-code if you trust it" in told
        assert reload_model(run, trust_remote_code=True).identity() == run.model


def test_errors_name_record_role_and_remedy(run):
    def told(**settings):
        return message(AttnprobeError, lambda: knockout_changes(run, KnockoutSettings(**settings)))

    assert "no record has the key role 'histroy'; got 'histroy'; did you mean 'history'?" in told(
        keys=("histroy",)
    )
    assert "the model has no attention in this layer; got 9, expected one of 0, 1, 2" in told(
        layers=(9,)
    )
    assert "record 'item-000/coarse'" in told(layers=(9,))
    assert told(keys=("*",)).startswith("record 'item-000/coarse', layer 0, every head, example ")
    assert told(n_random=-1) == "--random: too small; got -1, expected ≥ 0."
    assert told(window=0) == "--window: too small; got 0, expected ≥ 1."
    assert told(records=2) == (
        "the chosen records: so few tasks cannot carry a claim about new tasks; got 2 tasks in "
        "'coarse', 2 tasks in 'stepwise', expected at least 6 tasks in a style; take more records "
        "(--records), add task families, or compare by item (--by item), on these tasks only."
    )
    assert told(seed=-1) == "no such seed; got -1, expected a whole number from 0 to 2147483647."


# --- the command line ----------------------------------------------------------------------------


def invoke(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_the_command_prints_saves_and_draws(folder, tmp_path):
    out = tmp_path / "changes.json"
    done = invoke(
        "knockout", folder / "run", "--sweep", "--window", 2, "-o", out, "--device", "cpu"
    )
    assert done.exit_code == 0, done.stderr
    facts = json.loads(out.read_text())
    assert {row["keys"] for row in facts["changes"]} >= {"history", "instruction"}
    assert {row["layers"] for row in facts["changes"]} == {"0-1", "2"}
    assert "attention from answer cut" in done.stdout
    drawn = invoke("plot", "knockout", out, "-o", tmp_path / "fig.svg")
    assert drawn.exit_code == 0, drawn.stderr
    args = ("plot", "knockout", out, "--outcome", "beyond_random", "-o", tmp_path / "more.svg")
    drawn = invoke(*args)
    assert drawn.exit_code == 0, drawn.stderr
    assert "beyond that of random cuts" in (tmp_path / "more.svg").read_text()
    assert "attention from answer cut: beyond random" in done.stdout
    assert "0-1" in (tmp_path / "fig.svg").read_text()
    alone = invoke("knockout", folder / "run", "--layers", "1-2", "--random", 0, "--json")
    (row, *_) = json.loads(alone.stdout)["changes"]
    assert (row["layers"], row["keys"]) == ("1-2", "history")


def test_the_command_refuses_in_words(folder):
    done = invoke("knockout", folder / "run", "--from", "nothing")
    assert done.exit_code == 2
    assert "no record has the query role 'nothing'" in done.stderr


def test_a_cut_that_touches_nothing_is_an_error(run):
    told = message(
        ContrastError,
        lambda: knockout_changes(run, KnockoutSettings(query="instruction", keys=("answer",))),
    )
    assert told == (
        "no record has what should be changed; got 24 records of coarse, stepwise; name a role "
        "that comes before the one that looks."
    )
