"""Figures of attributions: what the panel says, and that it is drawn."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import FuncNorm
from matplotlib.text import Text
from typer.testing import CliRunner

from attnprobe import store
from attnprobe.cli import app
from attnprobe.errors import FigureError, SelectionError
from attnprobe.figures import draw_any, draw_attribution, save
from attnprobe.panels import BarPanel, attribution_panel, item_records
from attnprobe.panels.attributions import farthest_from_zero
from attnprobe.types import Attribution, Record, Segment, is_source
from tests.store.builders import (
    causal_weights,
    make_capture,
    make_encoding,
    open_writer,
    write_missing,
)
from tests.tiny import save_model

PARAMS = {"target": "logprob", "unit": "nat"}
SETTINGS = {"attribute": ["input_x_gradient"], "attribute_params": {"input_x_gradient": PARAMS}}


def a_record(style="coarse", n_history=4, n_answer=3, words="w"):
    history = " ".join(f"{words}{i}" for i in range(n_history))
    target = [Segment("answer", " ".join(f"{words}{i}" for i in range(n_answer)))]
    if style == "stepwise":
        target = [Segment(f"step_{i}", f"then {i}") for i in range(1, 9)] + target
    prompt = (Segment("instruction", f"{words}: continue"), Segment("history", history))
    return Record(f"item-0/{style}", "item-0", style, prompt, tuple(target), task="a")


def scored(record, scores=None, seed=0):
    """A capture with scores; those of a step's own token and after it are left out."""
    encoding = make_encoding(record)
    rng = np.random.default_rng(seed)
    shape = (encoding.n_steps, encoding.n_tokens)
    values = rng.standard_t(2, shape) if scores is None else np.array(scores)
    values = np.where(is_source(encoding.n_prompt, encoding.n_steps), values, np.nan)
    delta = np.full(shape[:1], np.nan, np.float32)
    found = Attribution(values.astype(np.float32), delta, "input_x_gradient", PARAMS)
    capture = make_capture(encoding, causal_weights(encoding, 1, 1, rng))
    return replace(capture, attributions={"input_x_gradient": found})


def write(path, captures):
    write_missing(open_writer(path, captures, keep=("steps",), settings=SETTINGS), captures)
    return store.open_run(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    captures = [scored(a_record("coarse")), scored(a_record("stepwise"), seed=1)]
    with write(tmp_path_factory.mktemp("panel") / "run", captures) as run:
        yield run


def by_hand(tmp_path):
    """Two steps; tokens: <s> w: continue w0 w1 | w0 w1; the first four are sinks."""
    scores = [[9, 0.5, -1, 2, -3, 0, 0], [-1, 0, 0, 0, 1, 4, 0]]
    return write(tmp_path / "run", [scored(a_record(n_history=2, n_answer=2), scores)])


def test_the_map_holds_the_scores_and_nothing_where_there_are_none(tmp_path):
    with by_hand(tmp_path) as run:
        panel = attribution_panel(run, "item-0/coarse")
    (map_,) = panel.maps
    nan = np.nan
    expected = [[9, 0.5, -1, 2, -3, nan], [-1, 0, 0, 0, 1, 4]]
    np.testing.assert_array_equal(map_.values, expected)
    assert [label.text for label in map_.rows.labels] == ["·w0", "·w1"]
    assert map_.rows.positions == (5, 6)
    assert [span.role for span in map_.columns.spans] == [
        "special", "instruction", "history", "answer",
    ]  # fmt: skip
    assert (map_.rows.name, map_.columns.name) == ("predicted token", "token that is credited")
    assert map_.title == "coarse (item-0): input_x_gradient"
    assert (map_.name, map_.unit) == ("credit for the log-probability", "nat")
    assert map_.diverging


def test_colours_end_at_the_largest_score_of_a_token_that_is_no_sink(tmp_path):
    with by_hand(tmp_path) as run:
        (map_,) = attribution_panel(run, "item-0/coarse").maps
    assert map_.limits == (-4, 4)  # the 9 is on a sink
    assert "The colours end at 4, the largest score of a token that is no sink" in map_.note


def test_bars_are_the_sums_by_segment(tmp_path):
    with by_hand(tmp_path) as run:
        bars = attribution_panel(run, "item-0/coarse").bars
    assert bars.bars == ("special", "instruction", "history", "answer")
    np.testing.assert_array_equal(bars.positive, [[9, 0.5, 3, 4]])
    np.testing.assert_array_equal(bars.negative, [[-1, -1, -3, 0]])
    np.testing.assert_array_equal(bars.values, [[8, -0.5, 0, 4]])
    assert bars.series == ("coarse (2 predicted tokens)",)
    assert bars.unit == "nat"


def test_bars_of_all_segments_sum_to_all_scores(run):
    for record in run.records.index:
        bars = attribution_panel(run, record).bars
        total = float(run.attribution(record).sum(dtype=np.float64))
        assert np.nansum(bars.values) == pytest.approx(total)


def test_a_pair_shares_limits_and_bars(run):
    panel = attribution_panel(run, item_records(run, "item-0/stepwise"))
    assert [map_.title.split()[0] for map_ in panel.maps] == ["stepwise", "coarse"]
    one, two = panel.maps
    assert one.limits == two.limits
    assert panel.bars.series == (
        "stepwise (19 predicted tokens)", "coarse (3 predicted tokens)",
    )  # fmt: skip
    steps = panel.bars.bars.index("step_*")  # eight of them count as one
    assert np.isfinite(panel.bars.values[0, steps])
    assert np.isnan(panel.bars.values[1, steps])


def test_one_role_of_predicted_tokens(run):
    every = attribution_panel(run, "item-0/stepwise").maps[0]
    answer = attribution_panel(run, "item-0/stepwise", query="answer")
    np.testing.assert_array_equal(answer.maps[0].values, every.values[-3:])
    assert [span.role for span in answer.maps[0].rows.spans] == ["answer"]
    assert answer.title == "by segment, of role answer"
    assert answer.bars.series == ("stepwise (3 predicted tokens)",)
    first = attribution_panel(run, "item-0/stepwise", query="step_1").maps[0]
    n_sources = first.rows.positions[-1]  # nothing after the last shown step is laid out
    assert first.values.shape == (2, n_sources)
    np.testing.assert_array_equal(first.values, every.values[:2, :n_sources])


def test_long_records_show_the_score_farthest_from_0(run):
    whole = attribution_panel(run, "item-0/stepwise").maps[0]
    small = attribution_panel(run, "item-0/stepwise", cells=10).maps[0]
    assert small.block == (2, 3)
    for row, column in np.ndindex(small.values.shape):
        part = whole.values[2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
        if np.isnan(part).all():
            assert np.isnan(small.values[row, column])
        else:
            flat = part[~np.isnan(part)]
            assert small.values[row, column] == flat[np.abs(flat).argmax()]
    assert "A cell holds 2 × 3 tokens (rows × columns)" in small.note
    assert np.isnan(farthest_from_zero(np.full((3, 3), np.nan), (2, 2))).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("item-0/coarse", "alti"), "no attribution by 'alti'; there is: input_x_gradient;"),
        (("item-0/coars",), "no record 'item-0/coars'; did you mean 'item-0/coarse'?"),
        (
            ("item-0/coarse", None, "anwser"),
            "no record has the predicted role 'anwser'; got 'anwser'; did you mean 'answer'?",
        ),
        (([],), "no record was asked for; expected one or more."),
    ],
)
def test_what_is_not_there_is_named(run, arguments, words):
    with pytest.raises(SelectionError) as error:
        attribution_panel(run, *arguments)
    assert words in str(error.value)


def test_scales_and_cells_are_checked(run):
    with pytest.raises(SelectionError) as error:
        attribution_panel(run, "item-0/coarse", scale="log")
    assert str(error.value) == (
        "no scale of that name for attributions; got 'log', expected sqrt or linear."
    )
    with pytest.raises(SelectionError, match=r"cells: too few cells; got 0, expected ≥ 1\."):
        attribution_panel(run, "item-0/coarse", cells=0)


def test_maps_and_bars_refuse_what_would_lie(run):
    map_ = attribution_panel(run, "item-0/coarse").maps[0]
    with pytest.raises(FigureError, match="diverging colours need limits symmetric about 0"):
        replace(map_, limits=(-1.0, 2.0))
    one = np.ones((1, 1))
    for positive, negative in ((-one, -one), (one, one), (np.inf * one, -one)):
        with pytest.raises(FigureError, match="bars need finite positive and negative parts"):
            BarPanel(positive, negative, ("a",), ("b",), "t", "n", "nat")
    with pytest.raises(FigureError) as error:
        BarPanel(one, -one, ("a",), ("b", "c"), "t", "n", "nat")
    assert str(error.value) == (
        "bars 't': bars need a label each, and a name per series; got 1 × 2 labels, "
        "expected labels for 1 × 1 values."
    )


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible()]


@pytest.mark.parametrize("look", ["paper", "slides"])
@pytest.mark.parametrize("n_records", [1, 2])
def test_a_figure_says_what_it_shows(run, look, n_records):
    panel = attribution_panel(run, list(run.records.index)[:n_records])
    figure = draw_attribution(panel, look)
    words = texts(figure)
    assert "credit for the log-probability (nat, square-root scale)" in words
    assert "credit for the log-probability, summed over tokens (nat)" in words
    assert "coarse (3 predicted tokens)" in words
    assert any("red speaks for it" in text.replace("\n", " ") for text in words)
    assert {"history", "instruction", "answer"} <= set(words)
    for number in range(n_records):
        image = figure.axes[number].images[0]
        assert isinstance(image.norm, FuncNorm)
        assert image.norm(0.0) == pytest.approx(0.5)
        assert image.get_cmap().name == "RdBu_r"


def test_colours_are_even_in_the_root(run):
    panel = attribution_panel(run, "item-0/coarse")
    norm = draw_attribution(panel).axes[0].images[0].norm
    high = panel.maps[0].limits[1]
    assert norm(high / 4) == pytest.approx(0.75)
    assert norm(-high / 4) == pytest.approx(0.25)
    panel = attribution_panel(run, "item-0/coarse", scale="linear")
    norm = draw_attribution(panel).axes[0].images[0].norm
    assert norm(high / 4) == pytest.approx(0.625)


def test_bars_stand_at_their_values(tmp_path):
    with by_hand(tmp_path) as run:
        figure = draw_attribution(attribution_panel(run, "item-0/coarse"))
    widths = sorted(patch.get_width() for patch in figure.axes[-1].patches)
    assert widths == sorted([9, 0.5, 3, 4, -1, -1, -3, 0, 8, -0.5, 0, 4])


@pytest.mark.parametrize(("n_history", "n_answer"), [(12, 8), (250, 40), (900, 90)])
def test_records_of_every_length_and_script_are_drawn(tmp_path, n_history, n_answer):
    record = a_record("coarse", n_history, n_answer, words="数")
    with write(tmp_path / "run", [scored(record)]) as run:
        panel = attribution_panel(run, record.id)
        path = save(draw_any(panel), tmp_path / "figure.png")
    assert path.stat().st_size > 10_000
    assert "<img alt=" in panel._repr_html_()


def test_scores_that_are_all_0_are_white(tmp_path):
    record = a_record(n_history=2, n_answer=2)
    with write(tmp_path / "run", [scored(record, np.zeros((2, 7)))]) as run:
        panel = attribution_panel(run, record.id)
    assert panel.maps[0].limits == (-1, 1)
    draw_attribution(panel)


RUNNER = CliRunner()


def invoke(*arguments):
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


def test_from_the_command_line(tmp_path):
    model = save_model(tmp_path / "model")
    data, run, figure = (tmp_path / name for name in ("data.jsonl", "run", "figure.svg"))
    made = invoke(
        "dataset", "sequences", "-o", data, "--split", "seen", "--items", 1, "--styles",
        "coarse,direct", "--families", "arithmetic",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    done = invoke(
        "extract", data, "-m", model, "-o", run, "--keep", "steps", "--attribute",
        "input_x_gradient", "--attribute-target", "logit",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    item = "arithmetic-seen-0000"
    done = invoke("plot", "attribution", run, "--item", item, "--query", "answer", "-o", figure)
    assert done.exit_code == 0, done.output
    assert f"wrote {figure}" in done.stderr
    assert "credit for the logit (logit, square-root scale)" in figure.read_text(encoding="utf-8")
    done = invoke("plot", "attribution", run, "-o", figure)
    assert done.exit_code == 2
    assert done.stderr == (
        "error: plot attribution: name one record or one item; got neither; "
        "use --record ID, or --item ITEM.\n"
    )
    done = invoke("extract", data, "-m", model, "-o", run, "--attribute", "gradient")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: no attribution method of that name; got 'gradient'; ")
