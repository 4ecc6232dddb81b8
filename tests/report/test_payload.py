"""What the page of a run is told, by value."""

import json
from functools import partial

import numpy as np
import pytest
from typer.testing import CliRunner

from attnprobe.cli import app
from attnprobe.contrasts import contrast
from attnprobe.errors import MeasureError, ReportError, SelectionError
from attnprobe.measures import measure
from attnprobe.panels import segment_panels
from attnprobe.report import Findings, Payload, write_report
from attnprobe.report.coding import coded_rows, decoded_rows, plain
from attnprobe.report.pairs import paired, spread
from attnprobe.report.profiles import distance_bins, head_profiles
from attnprobe.report.writing import report_html
from attnprobe.store import open_run
from attnprobe.workflows.reporting import ReportSettings, chosen_styles, report_payload
from tests.report.hostile import make_hostile_run
from tests.store.builders import make_captures, make_run, open_writer, write_missing


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with open_run(make_hostile_run(tmp_path_factory.mktemp("payload") / "run")) as opened:
        yield opened


@pytest.fixture(scope="module")
def payload(run):
    return Payload(
        run, Findings("coarse", "stepwise", contrast=contrast(run, a="coarse", b="stepwise"))
    )


# Numbers


def test_numbers_keep_four_digits_and_nan_is_none():
    values = np.array([[123456.0, -0.000123449, 0.0], [np.nan, np.inf, 0.5]])
    assert plain(values) == [[123500.0, -0.0001234, 0.0], [None, None, 0.5]]
    assert json.dumps(plain(values), allow_nan=False)


@pytest.mark.parametrize("signed", [False, True])
def test_rows_come_back_within_half_a_step_of_their_codes(signed):
    rng = np.random.default_rng(0)
    values = rng.exponential(size=(5, 9)) ** 2 * (rng.choice([-1, 1], (5, 9)) if signed else 1)
    first, length = [0, 0, 2, 3, 8], [1, 9, 4, 0, 1]
    piece = json.loads(json.dumps(coded_rows(values, first, length, signed=signed)))
    found = decoded_rows(piece, 9)
    inside = np.array(
        [[f <= k < f + n for k in range(9)] for f, n in zip(first, length, strict=True)]
    )
    assert np.isnan(found[~inside]).all()
    share, true = np.sqrt(np.abs(found[inside])), np.sqrt(np.abs(values[inside]))
    assert np.abs(share - true).max() <= 0.5001 / (127 if signed else 255) * np.sqrt(piece["max"])
    assert (np.sign(found[inside]) * np.sign(values[inside]) >= 0).all()
    assert piece["max"] == np.abs(values[inside]).max()


def test_rows_of_nothing_are_nothing():
    assert decoded_rows(coded_rows(np.zeros((1, 3)), [0], [3]), 3).tolist() == [[0, 0, 0]]
    assert decoded_rows(coded_rows(np.full((1, 3), np.nan), [0], [2]), 3)[0, :2].tolist() == [0, 0]


# Pieces


def test_maps_are_the_weights_of_the_run(run, payload):
    record = run.records.index[3]
    weights = run.weights(record)
    for layer, head in ((None, None), (1, 2)):
        piece = payload.attention(record, layer, head)
        chosen = weights if layer is None else weights.sel(layer=[layer], head=[head])
        wanted = chosen.mean(("layer", "head")).values
        assert piece["queries"] == list(run.encoding(record).step_queries)
        found = decoded_rows(piece, wanted.shape[1])
        assert np.abs(np.sqrt(np.nan_to_num(found)) - np.sqrt(wanted)).max() < 0.51 / 255


def test_attributions_have_the_rows_of_the_same_queries(run, payload):
    record = run.records.index[1]
    piece = payload.attribution(record, "gradient")
    scores = run.attribution(record).values
    found = decoded_rows(piece, scores.shape[1])
    assert (np.isnan(found) == np.isnan(scores)).all()
    assert np.nanmax(np.abs(found - scores)) < 0.03 * piece["max"]
    assert piece["queries"] == payload.attention(record)["queries"]
    assert (piece["unit"], piece["target"]) == ("nat", "logprob")


def test_the_grid_is_the_mean_over_items_and_examples_lead_it(run, payload):
    grid = payload.overview()["grid"]
    values = measure(run, "enrichment", "answer", "history")
    in_coarse = values.values[values["style"].values == "coarse"]
    in_stepwise = values.values[values["style"].values == "stepwise"]
    assert np.allclose(grid["styles"][0], in_coarse.mean(0), rtol=1e-3)
    assert np.allclose(grid["difference"], (in_coarse - in_stepwise).mean(0), rtol=1e-3)
    assert np.allclose(grid["effects"]["estimate"], grid["difference"], rtol=1e-3)
    differences = (in_coarse - in_stepwise)[:, 1, 0]
    best = payload.head(1, 0)["examples"]
    sign = np.sign(differences.mean())
    assert [e["values"][0] - e["values"][1] for e in best] == pytest.approx(
        sign * np.sort(sign * differences)[::-1][:5], rel=5e-3
    )


def test_segments_are_those_of_the_figure(run, payload):
    panels = segment_panels(run, "coarse", "stepwise", layer=1, head=2)
    found = payload.head(1, 2)["segments"]
    for panel, grid in zip(panels, [*found["styles"], found["difference"]], strict=True):
        for i, query in enumerate(panel.rows):
            for j, key in enumerate(panel.columns):
                value = grid[found["queries"].index(query)][found["keys"].index(key)]
                expected = panel.values[i, j]
                assert (value is None) == np.isnan(expected)
                assert value is None or value == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_segments_are_the_same_in_chunks_and_for_one_head(run, payload, monkeypatch):
    whole = payload.heads()
    monkeypatch.setattr("attnprobe.report.segments.RECORDS_AT_ONCE", 4)
    assert payload.heads()[1, 2]["segments"] == whole[1, 2]["segments"]
    assert payload.head(0, 1) == whole[0, 1]


def test_profiles_by_hand(run):
    assert distance_bins(9) == ((0, 0), (1, 1), (2, 2), (3, 4), (5, 8), (9, 16))
    pairs = paired(run.records, ("coarse", "stepwise"))[:2]
    found = head_profiles(run, pairs, [1], [2])
    for side in (0, 1):
        means = []
        for pair in pairs:
            record = pair.first[side]
            weights, encoding = run.weights(record, 1, 2).values[0, 0], run.encoding(record)
            taken = [
                weights[row, key]
                for row, query in enumerate(encoding.step_queries)
                for key in range(query + 1)
                if 3 <= query - key <= 4 and key not in encoding.sinks
            ]
            means.append(np.mean(taken))
        at = found.bins.index((3, 4))
        assert found.values[side, 0, 0, at] == pytest.approx(np.mean(means), rel=1e-5)


def test_texts_name_what_was_written_and_what_was_expected(run, payload):
    record = run.records.index[0]
    piece = payload.record(record)
    encoding = run.encoding(record)
    assert piece["texts"] == list(encoding.texts)
    assert piece["generated"] == encoding.generated
    assert piece["expected"] == encoding.record.target_text
    assert piece["spans"][-1] == [encoding.spans[-1].start, encoding.n_tokens, "answer"]
    assert piece["log_probs"] == [-0.5, -1.25, -2.0]


def test_requests_answer_what_the_methods_do(run, payload):
    record = run.records.index[0]
    assert payload.answer("head", {"layer": "1", "head": "2"}) == payload.head(1, 2)
    assert payload.answer("attention", {"id": record}) == payload.attention(record)
    assert payload.answer("records", {})["id"] == list(run.records.index)
    wrong = {
        ("heads", ""): "no such piece; got 'heads'; did you mean 'head'?",
        ("head", "layer=1"): "the request lacks 'head'; got layer.",
        ("head", "layer=1&head=x"): "'head' is no number; got 'x', expected such as 3.",
        ("head", "layer=9&head=0"): "layer 9 is not stored; expected 0, 1.",
        ("record", "id=task"): "no record 'task'; ",
        ("attribution", f"id={record}&method=x"): "no attribution by 'x'; ",
    }
    for (name, query), words in wrong.items():
        asked = dict(part.split("=") for part in query.split("&") if part)
        with pytest.raises(SelectionError) as error:
            payload.answer(name, asked)
        assert words in str(error.value)


def test_pairs_are_items_with_every_style(run):
    table = run.records
    whole = paired(table, ("coarse", "stepwise"))
    assert len(whole) == 12
    assert whole[0].first == ("task0-000/coarse", "task0-000/stepwise")
    cut = table.drop("task0-000/stepwise")
    assert "task0-000" not in {pair.item for pair in paired(cut, ("coarse", "stepwise"))}
    assert len(paired(cut, ("coarse",))) == 12
    assert [p.item for p in spread(whole, 3)] == [whole[0].item, whole[6].item, whole[11].item]


# From a run to the page


def test_what_a_run_does_not_allow_is_said(tmp_path, monkeypatch):
    path = make_run(tmp_path / "run", keep=("steps",), tasks=3)
    with open_run(path) as run:
        payload = report_payload(run)
        kinds = {n["kind"]: n["values"] for n in payload.overview()["notices"]}
        assert kinds.keys() == {"no_contrast", "no_rows", "gold"}
        assert "task" in kinds["no_contrast"]["reason"]
        assert payload.overview()["grid"]["difference"] is not None
        assert payload.head(0, 0)["profile"] is None
        with pytest.raises(MeasureError, match="extract again with --keep rows"):
            payload.attention(run.records.index[0])
        mistyped = ReportSettings(query="nothing")
        with pytest.raises(SelectionError, match="no record has the query role 'nothing'"):
            report_payload(run, mistyped)
        usual = partial(ReportSettings, query="nothing")  # a usual role that the run lacks
        monkeypatch.setattr("attnprobe.workflows.reporting.ReportSettings", usual)
        absent = report_payload(run, mistyped).overview()
        kinds = {n["kind"]: n["values"] for n in absent["notices"]}
        assert absent["grid"] is None
        assert "no record has the query role 'nothing'" in kinds["no_grid"]["reason"]
        assert '"no_grid"' not in report_html(payload)


def test_an_unfinished_run_is_shown_as_far_as_it_is(tmp_path):
    captures = make_captures()
    writer = open_writer(tmp_path / "run", captures)
    for chunk in writer.missing()[:1]:
        with writer.chunk(chunk) as sink:
            for capture in captures[:8]:
                sink.append(capture)
    with open_run(tmp_path / "run") as run:
        overview = report_payload(run).overview()
        assert overview["notices"][0] == {
            "kind": "unfinished", "values": {"sealed": 8, "planned": 24}
        }  # fmt: skip
        assert overview["n_pairs"] == 4


def test_an_empty_run_has_no_report(tmp_path):
    open_writer(tmp_path / "run", make_captures())
    with open_run(tmp_path / "run") as run, pytest.raises(SelectionError) as error:
        report_payload(run)
    assert "the run holds no record yet; let the extraction seal its first chunk" in str(
        error.value
    )


def test_styles_are_found_or_named(run):
    assert chosen_styles(run, None, None) == ("coarse", "stepwise")
    assert chosen_styles(run, "stepwise", None) == ("stepwise", "coarse")
    assert chosen_styles(run, None, "coarse") == ("stepwise", "coarse")
    with pytest.raises(SelectionError, match="no style 'corse'; did you mean 'coarse'"):
        chosen_styles(run, "corse", None)
    with pytest.raises(SelectionError, match="a style does not differ from itself"):
        chosen_styles(run, "coarse", "coarse")
    with pytest.raises(SelectionError, match="does not tell them apart; got 'rollout'"):
        report_payload(run, ReportSettings(measure="rollout"))


def test_the_command_writes_a_page(tmp_path):
    path = tmp_path / "run"
    write_missing(open_writer(path, make_captures(effect=2.0)), make_captures(effect=2.0))
    out = tmp_path / "new" / "report.html"
    done = CliRunner().invoke(app, ["report", str(path), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert f"wrote {out} (5." in done.output or f"wrote {out} (4.9" in done.output
    first = out.read_bytes()
    CliRunner().invoke(app, ["report", str(path), "-o", str(out)])
    assert out.read_bytes() == first
    assert [file.name for file in out.parent.iterdir()] == ["report.html"]


def test_only_html_is_written(payload, tmp_path):
    with pytest.raises(ReportError) as error:
        write_report(payload, tmp_path / "report.pdf")
    assert "not written to this kind of file; got suffix '.pdf', expected .html." in str(
        error.value
    )
    assert not list(tmp_path.iterdir())
