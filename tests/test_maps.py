import itertools
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.text import Text
from typer.testing import CliRunner

from attnprobe.cli import app
from attnprobe.errors import FigureError, MeasureError, SelectionError
from attnprobe.figures import draw_any, draw_maps, save
from attnprobe.figures.tokens import spread
from attnprobe.panels import MapPanel, item_records, map_panels, token_axis
from attnprobe.panels.maps import largest
from attnprobe.panels.tokens import TokenLabel, shortened, token_labels
from attnprobe.types import Encoding, Record, Segment, Span


def encoding(n_prompt, n_tokens, record_id="item-0/coarse", style="coarse", spans=None, texts=None):
    """A record of bare tokens: `t0`, `t1` …"""
    return Encoding(
        record=Record(record_id, record_id.split("/")[0], style, (Segment("history", "x"),)),
        ids=np.arange(n_tokens, dtype=np.int32),
        texts=tuple(texts or (f"t{i}" for i in range(n_tokens))),
        spans=spans or (Span(0, n_prompt, "history"), Span(n_prompt, n_tokens, "answer")),
        n_prompt=n_prompt,
        sinks=(0,),
    )


class Held:
    """A run of given weights: record id → (encoding, [layer, head, query, key], first query)."""

    path = Path("held")

    def __init__(self, held, keep=("full",), layers=(0, 1), heads=(0, 1, 2)):
        self.held, self.keep, self.layers, self.heads = held, keep, layers, heads

    @property
    def records(self):
        rows = [e.record for e, *_ in self.held.values()]
        return pd.DataFrame(
            {"item": [r.item for r in rows], "style": [r.style for r in rows]},
            pd.Index([r.id for r in rows], name="id"),
        )

    def encoding(self, record_id):
        return self.held[record_id][0]

    def weights(self, record_id, layer=None, head=None):
        _, values, first = self.held[record_id]
        queries = np.arange(first, first + values.shape[2])
        whole = xr.DataArray(
            values,
            {
                "layer": list(self.layers), "head": list(self.heads), "query": queries,
                "key": np.arange(values.shape[3]),
                "first_key": ("query", np.zeros_like(queries)), "last_key": ("query", queries),
            },
            ("layer", "head", "query", "key"),
        )  # fmt: skip
        return whole.sel(layer=[layer] if isinstance(layer, int) else layer, head=head)


def softmax_rows(n_queries, n_keys, first, seed=0, shape=(2, 3)):
    scores = np.random.default_rng(seed).normal(size=(*shape, n_queries, n_keys), scale=2)
    seen = np.arange(n_keys) <= first + np.arange(n_queries)[:, None]
    weights = np.where(seen, np.exp(scores), 0)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def square_run(n_tokens=10, n_prompt=6, **more):
    return Held(
        {
            f"item-0/{style}": (
                encoding(n_prompt, n_tokens, f"item-0/{style}", style),
                softmax_rows(n_tokens, n_tokens, 0, seed),
                0,
            )
            for seed, style in enumerate(("coarse", "stepwise"))
        },
        **more,
    )


def rows_run(n_tokens=10, n_prompt=6):
    n_steps = n_tokens - n_prompt
    weights = softmax_rows(n_steps, n_tokens, n_prompt - 1)
    return Held({"item-0/coarse": (encoding(n_prompt, n_tokens), weights, n_prompt - 1)}, ("rows",))


def test_a_map_is_the_mean_of_the_chosen_heads_and_blank_where_nothing_is_seen():
    run = square_run()
    (panel,) = map_panels(run, "item-0/coarse", layer=1, head=[0, 2])
    weights = run.held["item-0/coarse"][1]
    future = np.triu(np.ones((10, 10), bool), 1)
    assert np.array_equal(np.isnan(panel.values), future)
    expected = (weights[1, 0].astype(float) + weights[1, 2]) / 2
    assert panel.values[~future] == pytest.approx(expected[~future])
    assert panel.title == "coarse (item-0): mean of layer 1 and heads 0, 2"
    assert panel.rows.name == "token that looks (query)"
    assert "Blank: keys that the query cannot see." in panel.note


def test_all_layers_count_alike():
    run = square_run()
    (panel,) = map_panels(run, "item-0/coarse")
    weights = run.held["item-0/coarse"][1].astype(float)
    below = np.tril_indices(10)
    assert panel.values[below] == pytest.approx(weights.mean((0, 1))[below])
    assert panel.title.endswith("mean of all 2 layers and all 3 heads")


def test_rows_of_steps_are_labelled_by_the_token_they_predict():
    (panel,) = map_panels(rows_run(), "item-0/coarse", layer=0, head=1)
    assert panel.values.shape == (4, 10)
    assert [label.text for label in panel.rows.labels] == ["t6", "t7", "t8", "t9"]
    assert panel.rows.positions == (6, 7, 8, 9)
    assert panel.rows.name == "predicted token"
    assert np.isnan(panel.values).sum(1).tolist() == [4, 3, 2, 1]  # read one row before
    assert "it is read one position before that token" in panel.note


def test_zooming_in_to_an_answer_is_the_same_whatever_a_run_keeps():
    whole = square_run()
    record = "item-0/coarse"
    held, values, _ = whole.held[record]
    steps = Held({record: (held, values[:, :, 5:9], 5)}, ("rows",))
    panels = [map_panels(run, record, query="answer")[0] for run in (whole, steps)]
    np.testing.assert_array_equal(panels[0].values, panels[1].values)
    assert panels[0].rows == panels[1].rows
    assert panels[0].rows.name == "predicted token"
    assert panels[0].note == panels[1].note
    (prompt,) = map_panels(whole, record, query="history")
    assert prompt.rows.name == "token that looks (query)"
    assert prompt.values.shape == (6, 10)


def test_colours_end_at_the_largest_weight_outside_the_sinks():
    run = square_run()
    panels = map_panels(run, ["item-0/coarse", "item-0/stepwise"], layer=0, head=0)
    largest_of = [float(np.tril(w[0, 0])[:, 1:].max()) for _, w, _ in run.held.values()]
    assert panels[0].limits == panels[1].limits == pytest.approx((0, max(largest_of)))
    assert "sinks (the first four tokens and BOS) reach beyond" in panels[0].note
    assert panels[0].note == panels[1].note  # said once below the figure
    (log,) = map_panels(run, "item-0/coarse", scale="log")
    assert 0 < log.limits[0] <= 1e-4


def test_each_head_gets_a_map_for_every_record():
    ids = ["item-0/coarse", "item-0/stepwise"]
    panels = map_panels(square_run(), ids, layer=1, head=[0, 2], each=True)
    assert [panel.title for panel in panels] == [
        "coarse (item-0): layer 1 head 0", "stepwise (item-0): layer 1 head 0",
        "coarse (item-0): layer 1 head 2", "stepwise (item-0): layer 1 head 2",
    ]  # fmt: skip


def test_long_records_share_cells_that_show_their_largest_weight():
    run = square_run(n_tokens=25, n_prompt=20)
    (panel,) = map_panels(run, "item-0/coarse", layer=0, head=0, cells=10)
    assert panel.block == (3, 3)
    assert panel.values.shape == (9, 9)
    weights = run.held["item-0/coarse"][1][0, 0]
    assert panel.values[4, 2] == pytest.approx(weights[12:15, 6:9].max())
    assert panel.values[8, 8] == pytest.approx(weights[24, 24])
    assert panel.values[1, 1] == pytest.approx(weights[3:6, 3:6].max())  # on the diagonal
    assert np.isnan(panel.values[2, 3])
    assert "A cell holds 3 × 3 tokens (rows × columns) and shows the largest" in panel.note


def test_pooling_passes_over_cells_without_value():
    values = np.array([[np.nan, 0.5, np.nan], [0.2, np.nan, np.nan]])
    assert np.array_equal(largest(values, (2, 2)), [[0.5, np.nan]], equal_nan=True)
    assert largest(values, (1, 1)) is values


def test_split_characters_get_one_label_over_all_their_tokens():
    texts = ["求[1/3]", "求[2/3]", "求[3/3]", " a", "\n", "数[2/2]", "数[1/2]", "x[1/2]"]
    assert token_labels(texts) == (
        TokenLabel(0, 3, "求"), TokenLabel(3, 4, "·a"), TokenLabel(4, 5, "↵"),
        TokenLabel(5, 6, "数[2/2]"), TokenLabel(6, 7, "数[1/2]"), TokenLabel(7, 8, "x[1/2]"),
    )  # fmt: skip


def test_labels_are_short_and_hold_no_control_characters():
    assert shortened("abcdefghijkl") == "abcdefghijkl"
    assert shortened("<|im_start|>user") == "<|im_s…>user"
    assert len(shortened("x" * 99)) == 12
    assert shortened("一二三四五六七八") == "一二三…七八"
    (label,) = token_labels(["\x1b[2J"])
    assert label.text == "\\x1b[2J"


def test_spans_of_an_axis_count_from_its_first_token():
    spans = (Span(0, 4, "history"), Span(4, 6, "answer"), Span(6, 9, "answer"))
    axis = token_axis(encoding(4, 9, spans=spans), range(3, 8), "key")
    assert axis.spans == (Span(0, 1, "history"), Span(1, 3, "answer"), Span(3, 5, "answer"))
    with pytest.raises(FigureError, match=r"needs tokens of its record; got 9, expected 0 to 8"):
        token_axis(encoding(4, 9), [9], "key")


def test_names_are_moved_apart_as_little_as_needed():
    wanted = np.array([10.0, 11.0, 40.0])
    assert spread(wanted, 8.0, 100.0) == pytest.approx([6.5, 14.5, 40.0])
    assert spread(np.array([99.0, 99.5]), 8.0, 100.0) == pytest.approx([88.0, 96.0])
    assert spread(np.array([]), 8.0, 100.0).size == 0


def test_the_styles_of_an_item_are_found_by_a_record_or_by_the_item():
    run = square_run()
    assert item_records(run, item="item-0") == ("item-0/coarse", "item-0/stepwise")
    assert item_records(run, "item-0/stepwise") == ("item-0/stepwise", "item-0/coarse")
    ordered = item_records(run, item="item-0", styles=["stepwise", "coarse"])
    assert ordered == ("item-0/stepwise", "item-0/coarse")


def test_what_is_not_there_is_told_with_what_is():
    run = square_run()
    with pytest.raises(SelectionError, match="no record 'item-0/coars'; did you mean 'item-0/coa"):
        item_records(run, "item-0/coars")
    with pytest.raises(SelectionError, match="no item 'item-9'; did you mean 'item-0'"):
        item_records(run, item="item-9")
    with pytest.raises(SelectionError, match="item 'item-0' has no style 'direct'"):
        item_records(run, item="item-0", styles=["direct"])
    with pytest.raises(
        SelectionError, match="item 'item-0' has no second style; got coarse; leave"
    ):
        item_records(rows_run(), item="item-0")
    run.keep = ("steps",)
    with pytest.raises(MeasureError, match=r"does not hold attention rows.*--keep rows .*--keep f"):
        map_panels(run, "item-0/coarse")
    with pytest.raises(SelectionError, match=r"too many maps.* got 14 maps .*at most 12.*--layers"):
        map_panels(square_run(heads=tuple(range(7))), "item-0/coarse", each=True)
    with pytest.raises(FigureError, match=r"no colour scale of that name; got 'sqr'.*'sqrt'"):
        map_panels(square_run(), "item-0/coarse", scale="sqr")


def shown_texts(figure):
    figure.draw_without_rendering()
    shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in shown]


MANY = ("instruction", "demo_1.question", "demo_1.answer", "history", "template", "coarse_history")


def roles_run(n_tokens, n_prompt):
    edges = np.linspace(0, n_prompt, len(MANY) + 1).astype(int)
    spans = [Span(int(a), int(b), role) for a, b, role in zip(edges, edges[1:], MANY, strict=False)]
    spans += [Span(n_prompt, n_tokens - 2, "coarse_answer"), Span(n_tokens - 2, n_tokens, "答案")]
    texts = [("·数[1/1]" if i % 7 else "<|im_start|>") for i in range(n_tokens)]
    held = {}
    for style in ("coarse", "stepwise"):
        name = f"item-0/{style}"
        made = encoding(n_prompt, n_tokens, name, style, tuple(spans), texts)
        held[name] = (made, softmax_rows(n_tokens, n_tokens, 0), 0)
    return Held(held)


@pytest.mark.parametrize("look", ["paper", "slides"])
@pytest.mark.parametrize(("n_tokens", "n_prompt"), [(30, 22), (300, 280)])
@pytest.mark.parametrize("n_maps", [1, 2])
def test_texts_stay_within_the_figure_and_off_each_other(n_tokens, n_prompt, n_maps, look):
    run = roles_run(n_tokens, n_prompt)
    figure = draw_maps(map_panels(run, list(run.held)[:n_maps]), look)
    page, texts = figure.bbox, shown_texts(figure)
    for words, box in texts:
        assert page.x0 - 1 <= box.x0, words
        assert box.x1 <= page.x1 + 1, words
        assert page.y0 - 1 <= box.y0, words
        assert box.y1 <= page.y1 + 1, words
    for (words, box), (others, other) in itertools.combinations(texts, 2):
        wide = min(box.x1, other.x1) - max(box.x0, other.x0)
        high = min(box.y1, other.y1) - max(box.y0, other.y0)
        assert wide <= 1.5 or high <= 1.5, (words, others)


def test_every_token_is_labelled_while_there_is_room_then_positions():
    short = draw_maps(map_panels(square_run(), "item-0/coarse"))
    labels = [label.get_text() for label in short.axes[0].get_xticklabels()]
    assert labels == [f"t{i}" for i in range(10)]
    long = draw_maps(map_panels(square_run(300, 280), "item-0/coarse"))
    labels = [label.get_text() for label in long.axes[0].get_yticklabels()]
    assert labels[:3] in (["0", "20", "40"], ["0", "50", "100"])
    assert long.axes[0].get_ylabel() == "token that looks (query), by position"


def test_the_figure_shows_the_panel():
    (panel,) = map_panels(square_run(), "item-0/coarse")
    figure = draw_maps(panel)
    (image,) = figure.axes[0].get_images()
    assert np.ma.filled(image.get_array(), np.nan) == pytest.approx(panel.values, nan_ok=True)
    assert image.get_clim() == panel.limits
    assert image.norm(panel.limits[1] / 4) == pytest.approx(0.5)  # square-root scale
    assert figure.axes[0].get_ylim() == (10, 0)
    words = [words.replace("\n", " ") for words, _ in shown_texts(figure)]
    assert "attention (probability, square-root scale)" in words
    assert {"history", "answer"} <= set(words)


def test_wide_and_low_maps_stand_below_each_other():
    held = {}
    for style in ("coarse", "stepwise"):
        made = encoding(90, 100, f"item-0/{style}", style)
        held[f"item-0/{style}"] = (made, softmax_rows(10, 100, 89), 89)
    figure = draw_maps(map_panels(Held(held, ("rows",)), list(held)))
    upper, lower = (axes.get_position() for axes in figure.axes[:2])
    assert upper.y0 > lower.y1
    assert upper.x0 == pytest.approx(lower.x0)


def test_a_thousand_tokens_are_drawn_in_seconds():
    run = square_run(1000, 980)
    start = time.process_time()
    draw_maps(map_panels(run, "item-0/coarse", layer=0, head=0))
    assert time.process_time() - start < 3


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_map_gives_the_same_bytes(tmp_path, suffix):
    files = []
    for name in ("1", "2"):
        figure = draw_maps(map_panels(roles_run(30, 22), "item-0/coarse"))
        files.append(save(figure, tmp_path / f"{name}.{suffix}").read_bytes())
    assert files[0] == files[1]


def test_wrong_maps_are_refused():
    (panel,) = map_panels(square_run(), "item-0/coarse")
    facts = {"rows": panel.rows, "columns": panel.columns, "title": "a map", "limits": (0.0, 1.0)}
    with pytest.raises(FigureError, match=r"one value per cell; got \(3, 3\), expected \(10, 10\)"):
        MapPanel(np.zeros((3, 3)), **facts)
    with pytest.raises(FigureError, match="expected above 0 on a logarithmic scale"):
        MapPanel(panel.values, **facts, scale="log")
    with pytest.raises(FigureError, match="no map to draw"):
        draw_maps([])
    with pytest.raises(FigureError, match=r"no room left.*width_mm"):
        draw_maps(panel, width_mm=20.0)


def test_a_notebook_shows_the_drawn_map():
    (panel,) = map_panels(square_run(), "item-0/coarse")
    html = panel._repr_html_()
    assert re.match(
        r'<img alt="coarse \(item-0\): mean[^"]*" src="data:image/png;base64,iVBOR', html
    )
    assert draw_any(panel).axes[0].get_images()


def command(*words):
    return CliRunner().invoke(app, ["plot", "map", *words])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    from attnprobe.workflows.extract import ExtractSettings, extract
    from tests.tiny import make_record, save_model

    folder = tmp_path_factory.mktemp("maps")
    records = [make_record(0, style) for style in ("coarse", "stepwise")]
    save_model(folder / "model")
    settings = ExtractSettings(keep=("full",), device="cpu")
    extract(records, str(folder / "model"), folder / "run", settings).close()
    return folder / "run"


def test_the_command_draws_both_styles_of_an_item(run_folder, tmp_path):
    out = tmp_path / "map.png"
    done = command(str(run_folder), "--item", "item-000", "--layers", "1", "-o", str(out))
    assert done.exit_code == 0, done.output
    assert out.stat().st_size > 10_000
    one = command(str(run_folder), "--record", "item-000/coarse", "--pair", "-o", str(out))
    assert one.exit_code == 0, one.output


def test_the_command_says_what_is_wrong(run_folder, tmp_path):
    out = ("-o", str(tmp_path / "map.png"))
    neither = command(str(run_folder), *out)
    assert neither.exit_code == 2
    assert "name one record or one item; got neither; use --record ID" in neither.output
    absent = command(str(run_folder), "--record", "item-000/coars", *out)
    assert "no record 'item-000/coars'; did you mean 'item-000/coarse'" in absent.output
    head = command(str(run_folder), "--record", "item-000/coarse", "--heads", "9", *out)
    assert head.exit_code == 2
    assert "head 9 is not stored; expected one of 0 to 3" in head.output
