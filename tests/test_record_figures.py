"""Steps, attributed texts and trainings: what the panels hold, and how the commands fail."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from typer.testing import CliRunner

from attnprobe.cli import app
from attnprobe.errors import FigureError, SelectionError
from attnprobe.figures import LOOKS, draw_texts
from attnprobe.figures.looks import chosen_width
from attnprobe.panels import (
    TextPanel,
    attribution_texts,
    map_panels,
    read_training_log,
    record_step_panels,
    step_panels,
    training_panels,
    unfinished,
    write_table,
)
from attnprobe.panels.tokens import token_labels
from attnprobe.types import Span
from tests.drawn import drawn_texts
from tests.test_all_figures import WORDS, a_log, a_run

EN = WORDS["en"]
RUNNER = CliRunner()


def value_of(panel, label):
    return next(line for line in panel.lines if line.label == label).y


def test_steps_are_shares_of_spans_averaged_over_heads():
    run = a_run(EN)
    coarse, _ = step_panels(run)
    found, weights, first = run.held[next(iter(run.held))]
    rows = weights.mean((0, 1), dtype=np.float64)[found.n_prompt - 1 - first :]
    span = next(span for span in found.spans if span.role == "history")
    assert coarse.title == "coarse (1 record)"
    assert value_of(coarse, "history") == pytest.approx(rows[:, span.start : span.stop].sum(1))
    assert sum(line.y for line in coarse.lines) == pytest.approx(np.ones(found.n_steps), abs=1e-6)
    assert coarse.lines[0].label == "sinks"
    assert value_of(coarse, "sinks") == pytest.approx(rows[:, :2].sum(1))
    assert "Mean over all 2 layers and all 3 heads." in coarse.note


def test_steps_that_half_of_the_records_lack_are_left_out():
    run = a_run(EN)
    run.held |= {f"more-{n}/coarse": one_of(n) for n in (3, 5, 12)}
    (panel,) = step_panels(run, ["coarse"])
    lengths = sorted(held[0].n_steps for key, held in run.held.items() if key.endswith("/coarse"))
    assert lengths == [3, 5, 12, 12]
    assert panel.lines[0].x.tolist() == list(range(1, 13))
    run.held.pop("more-12/coarse")
    (panel,) = step_panels(run, ["coarse"])
    assert panel.lines[0].x.tolist() == [1, 2, 3, 4, 5]
    shares = [value_of(step_panels(alone(run, key), ["coarse"])[0], "history")[:3]
              for key in list(run.held) if key.endswith("/coarse")]  # fmt: skip
    assert value_of(panel, "history")[:3] == pytest.approx(np.mean(shares, 0))


def one_of(n_target):
    found, *rest = next(iter(a_run(EN, n_target=n_target).held.values()))
    record = replace(found.record, id=f"more-{n_target}/coarse")
    return replace(found, record=record), *rest


def alone(run, key):
    made = a_run(EN)
    made.held = {key: run.held[key]}
    return made


def test_passed_and_failed_records_stand_apart():
    run = a_run(EN)
    first, second = run.held
    panels = step_panels(run, passed={first: True, second: None})
    assert [panel.title for panel in panels] == [
        "coarse, passed (1 record)", "coarse, failed (no record)",
        "stepwise, passed (no record)", "stepwise, failed (no record)",
    ]  # fmt: skip
    assert all(np.isnan(line.y).all() for panel in panels[1:] for line in panel.lines)
    assert "1 records without a score are left out." in panels[0].note


def test_steps_of_one_role_and_of_single_records():
    run = a_run(EN)
    record, *_ = run.held
    found = run.held[record][0]
    (panel,) = record_step_panels(run, record, query="answer")
    answer = found.spans[-1]
    assert panel.tokens.positions == tuple(range(answer.start, answer.stop))
    assert panel.lines[0].x.tolist() == [i + 0.5 for i in range(len(answer))]
    whole = record_step_panels(run, record)[0]
    assert value_of(panel, "history") == pytest.approx(
        value_of(whole, "history")[answer.start - found.n_prompt :]
    )
    with pytest.raises(SelectionError, match=r"no record has the predicted role 'anwser'.*answer"):
        record_step_panels(run, record, query="anwser")
    with pytest.raises(SelectionError, match=r"coarse"):
        step_panels(run, ["corse"])


def test_segments_that_nothing_looks_at_are_put_together():
    run = a_run(EN)
    for _, weights, _ in run.held.values():
        weights[..., 2:8] *= 1e-3  # the instruction
        weights[..., :2] *= 1e-3  # the sinks
        weights /= weights.sum(-1, keepdims=True)
    coarse, _ = step_panels(run)
    labels = [line.label for line in coarse.lines]
    assert labels[-1] == "other"
    assert not {"sinks", "instruction"} & set(labels)
    assert "Other: sinks, instruction, each below 2% at every step." in coarse.note
    assert sum(line.y for line in coarse.lines) == pytest.approx(np.ones(12), abs=1e-6)


def test_a_text_credits_its_tokens_for_what_comes_after_them():
    run = a_run(EN)
    record, *_ = run.held
    found = run.held[record][0]
    (panel,) = attribution_texts(run, record, query="answer")
    scores = run.attribution(record)
    steps = scores["step_role"].values == "answer"
    expected = np.nansum(scores.values[steps], axis=0)
    first = found.spans[-1].start
    assert panel.values[:first] == pytest.approx(expected[:first])
    assert np.isnan(panel.values[-1])  # nothing is predicted after the last token
    assert [i for i, one in enumerate(panel.predicted) if one] == list(range(first, found.n_tokens))
    assert panel.limits[1] == pytest.approx(np.nanmax(np.abs(np.delete(panel.values, 0))))
    assert panel.title == f"coarse (history): {'input_x_gradient'}"


def a_text(texts, values, spans, **more):
    words = token_labels(texts, longest=None)
    return TextPanel(
        words, np.asarray(values, float), more.pop("predicted", (False,) * len(words)), spans,
        "title", "credit", "nat", (-1.0, 1.0), **more,
    )  # fmt: skip


def test_a_text_keeps_its_lines_and_colours_its_ground():
    spans = Span(0, 2, "history"), Span(2, 4, "answer")
    panel = a_text(("one", " two", "a\n", "b"), [1.0, -1.0, 0.0, np.nan], spans)
    figure = draw_texts(panel)
    boxes = dict(drawn_texts(figure))
    assert boxes["one"].y0 == pytest.approx(boxes["two"].y0, abs=3)
    assert boxes["one"].x1 < boxes["two"].x0
    assert boxes["b"].y1 < boxes["a↵"].y0  # the break is kept
    assert {"history", "answer", "title"} <= set(boxes)
    grounds = [p.get_facecolor() for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    assert len(grounds) == 3  # none for the token without a value
    red, blue, white = (ground[:3] for ground in grounds)
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert min(white) > 0.95


def test_words_wider_than_a_line_are_broken():
    panel = a_text(("x" * 400,), [0.5], (Span(0, 1, "history"),))
    words = [text for text, _ in drawn_texts(draw_texts(panel)) if set(text) == {"x"}]
    assert len(words) > 1
    assert "".join(words) == "x" * 400


def test_texts_that_would_lie_are_refused():
    span = (Span(0, 1, "a"),)
    with pytest.raises(FigureError, match=r"one value per word; got 2 values, expected 1"):
        a_text(("x",), [1.0, 2.0], span)
    with pytest.raises(FigureError, match=r"there is no text to draw"):
        draw_texts([])
    with pytest.raises(FigureError, match=r"no room left for the text.*width_mm"):
        draw_texts(a_text(("x",), [1.0], span), width_mm=40.0)
    with pytest.raises(SelectionError, match=r"no scale of that name.*got 'log'"):
        attribution_texts(run := a_run(EN), next(iter(run.held)), scale="log")
    with pytest.raises(SelectionError, match=r"no record was asked for"):
        attribution_texts(a_run(EN), [])


def test_maps_zoom_in_to_roles():
    run = a_run(EN, square=True)
    record, *_ = run.held
    found, weights, _ = run.held[record]
    (panel,) = map_panels(run, record, 0, 1, query="answer", key="*history")
    answer, history = found.spans[-1], [s for s in found.spans if s.role.endswith("history")]
    columns = [i for span in history for i in range(span.start, span.stop)]
    at = slice(answer.start - 1, answer.stop - 1)  # a token is predicted one row before it
    assert panel.values == pytest.approx(weights[0, 1, at][:, columns])
    assert panel.columns.positions == tuple(columns)
    assert [span.role for span in panel.rows.spans] == ["answer"]
    assert "Zoomed in to rows of answer and columns of *history." in panel.note
    with pytest.raises(SelectionError, match=r"no key token of role 'histroy'.*'history'"):
        map_panels(run, record, key="histroy")
    with pytest.raises(
        SelectionError, match=r"no chosen query sees a chosen key.*before the query"
    ):
        map_panels(run, record, query="instruction", key="answer")


def test_rows_of_steps_zoom_by_what_is_predicted():
    run = a_run(EN)
    record, *_ = run.held
    found, weights, _ = run.held[record]
    (panel,) = map_panels(run, record, 0, 0, query="answer")
    n_answer = len(found.spans[-1])
    assert np.nan_to_num(panel.values) == pytest.approx(weights[0, 0, -n_answer:])


def test_a_training_log_becomes_losses_and_pass_rates(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in a_log(EN)), encoding="utf-8")
    losses, rates = training_panels(read_training_log(tmp_path))
    assert [line.label for line in losses.lines] == [
        "training", "validation, coarse", "validation, stepwise"
    ]  # fmt: skip
    assert losses.x_axis == "million tokens"
    assert losses.lines[0].x[:2].tolist() == [0.15, 0.3]
    assert losses.lines[0].y[:2].tolist() == [2.5, 5 / 3]
    assert losses.scale == "log"
    assert [line.label for line in rates.lines][:2] == ["seen, coarse", "seen, stepwise"]
    assert rates.lines[0].y.tolist() == [20.0, 40.0, 60.0]
    assert (rates.lines[0].hue, rates.lines[0].dash) == ("coarse", "seen")


def test_a_finetunings_log_goes_by_steps():
    log = [
        {"loss": 2.0, "step": 5}, {"validation_loss": 1.5, "passed": {"coarse": 0.5}, "step": 10},
        {"train_runtime": 3.0, "step": 10},
    ]  # fmt: skip
    losses, rates = training_panels(log)
    assert losses.x_axis == "step"
    assert [line.label for line in losses.lines] == ["training", "validation"]
    assert rates.lines[0].y.tolist() == [50.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"loss": 1}\n', r"log.jsonl:1: this line of a training log cannot be read; got no line"),
        ('{"step": 1, "loss": 1}\n{', r"log.jsonl:2: .*cannot be read; got Expecting"),
        ('{"step": 1}\n', "the log holds no loss; got 1 lines, expected loss or validation_loss"),
        ("", "the log holds no loss; got 0 lines"),
    ],
)
def test_broken_logs_say_what_is_wrong(tmp_path, text, words):
    (tmp_path / "log.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(FigureError, match=words):
        training_panels(read_training_log(tmp_path))


def test_a_folder_without_a_log_says_which_one_is_meant(tmp_path):
    done = RUNNER.invoke(app, ["plot", "training", str(tmp_path), "-o", "f.png"])
    assert done.exit_code == 2
    assert "there is no log of a training; expected log.jsonl or training-log.jsonl" in done.stderr


def rows_of(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_tables_hold_what_the_figure_shows(tmp_path):
    run = a_run(EN, square=True)
    record, *_ = run.held
    panel = map_panels(run, record, 0, 0, query="answer", key="history")[0]
    path = write_table(panel, tmp_path / "new" / "map.csv")
    rows = rows_of(path)
    assert len(rows) == int((~np.isnan(panel.values)).sum())
    first = rows[0]
    assert first["row"] == str(panel.rows.positions[0])
    assert first["row_role"] == "answer"
    assert first["column_role"] == "history"
    assert float(first["value"]) == pytest.approx(panel.values[0, 0])
    steps = step_panels(run)
    rows = rows_of(write_table(steps, tmp_path / "s.csv"))
    assert len(rows) == sum((~np.isnan(line.y)).sum() for panel in steps for line in panel.lines)
    assert rows[0]["low"] == ""
    with pytest.raises(FigureError, match=r"got suffix '\.xlsx', expected \.csv"):
        write_table(panel, tmp_path / "map.xlsx")
    (tmp_path / "file").touch()
    with pytest.raises(FigureError, match=r"cannot write the table.*name another file"):
        write_table(panel, tmp_path / "file" / "map.csv")


def test_an_unfinished_run_is_drawn_with_a_notice():
    run = a_run(EN)
    run.complete = False
    run.info = lambda: {"records": {"sealed": 2, "planned": 5}}
    notice = "The run is unfinished: 2 of 5 records so far."
    assert unfinished(run) == notice
    record, *_ = run.held
    for panel in (
        *step_panels(run), *record_step_panels(run, record), *map_panels(run, record),
        *attribution_texts(run, record),
    ):  # fmt: skip
        assert panel.note.endswith(notice)
    run.complete = True
    assert unfinished(run) == ""


def test_widths_by_columns():
    assert chosen_width("paper", None, 1) == LOOKS["paper"].single_mm
    assert chosen_width("slides", None, 2) == LOOKS["slides"].wide_mm
    assert chosen_width("paper", 70.0, None) == 70.0
    assert chosen_width("paper", None, None) is None
    for width, columns, words in (
        (70.0, 1, "give one of them"), (None, 3, "got 3, expected 1 or 2"),
        (-1.0, None, "a width above 0 mm; got -1.0"),
    ):  # fmt: skip
        with pytest.raises(FigureError, match=words):
            chosen_width("paper", width, columns)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("steps", "run", "-o", "f.gif"), "not written to this kind of file; got suffix '.gif'"),
        (("steps", "run", "-o", "f.png", "--data", "f.txt"), "got suffix '.txt', expected .csv"),
        (("steps", "run", "-o", "f.png", "--by", "split"), "--by: no such choice; got 'split'"),
        (("steps", "run", "-o", "f.png", "--by", "passed", "--item", "x"), "leave out --by"),
        (("steps", "run", "-o", "f.png", "--as", "pie"), "expected areas or lines"),
        (("attribution", "run", "-o", "f.png", "--as", "song"), "expected map or text"),
        (("map", "run", "-o", "f.png", "--columns", "4"), "a page has one or two columns"),
        (("heads", "run", "-o", "f.png", "--look", "posters"), "no look of that name"),
    ],
)
def test_wrong_options_are_refused_before_any_work(arguments, words):
    done = RUNNER.invoke(app, ["plot", *arguments])
    assert done.exit_code == 2
    assert words in done.stderr
