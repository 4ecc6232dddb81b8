"""Every kind of figure, in English and Chinese, for paper and slides: legible to the last word."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from attnprobe.figures import LOOKS, draw_any
from attnprobe.panels import (
    Line,
    LinePanel,
    Panel,
    attribution_panel,
    attribution_texts,
    map_panels,
    record_step_panels,
    step_panels,
    training_panels,
)
from attnprobe.types import Span
from tests.drawn import faults
from tests.test_maps import Held, encoding, softmax_rows

WORDS = {
    "en": {
        "roles": ("instruction", "history", "coarse_history", "coarse_answer", "answer"),
        "styles": ("coarse", "stepwise"),
        "texts": ("Continue", " the", " sequence", "\n", " 12", " 345", ",", "  ", "\t", "unhappy"),
        "long": "enrichment beyond recency, answer → history: coarse − stepwise, in all families",
    },
    "zh": {
        "roles": ("指令", "历史数列", "每三项之和", "粗粒度答案", "最终答案"),
        "styles": ("粗粒度", "逐步"),
        "texts": (
            "请续写",
            "数列",
            "，",
            "カタカナ",
            "と漢字",
            "\n",
            " 12",
            "é",
            "求[1/2]",
            "求[2/2]",
        ),
        "long": "富集度：最终答案 → 历史数列，粗粒度 − 逐步，所有数列家族的平均值",
    },
}


def a_map(n_rows, n_columns, words):
    values = np.random.default_rng(0).normal(size=(n_rows, n_columns))
    reach = float(np.abs(values).max())
    labels = [tuple(map(str, range(n))) for n in (n_rows, n_columns)]
    return Panel(
        values, *labels, words["long"], "layer", "head", "difference in enrichment", "bits",
        (-reach, reach), diverging=True, marks=values > 1.5, mark_note=words["long"] * 2,
        note=words["long"] * 3,
    )  # fmt: skip


def segments(words):
    grids = np.random.default_rng(1).normal(size=(3, 3, len(words["roles"])))
    grids[1, :, 2] = np.nan
    return [
        Panel(
            grid, words["roles"][2:], words["roles"], title, "predicted segment (query)",
            "segment looked at (key)", "enrichment" if i < 2 else words["long"], "bits",
            (-4.0, 4.0) if i < 2 else (-5.0, 5.0), diverging=True, note=words["long"] * 4,
        )
        for i, (grid, title) in enumerate(
            zip(grids, (*words["styles"], words["long"]), strict=True)
        )
    ]  # fmt: skip


def a_record(words, style, n_prompt=24, n_target=12):
    n = n_prompt + n_target
    edges = [0, 2, n_prompt // 3, n_prompt - 4, n_prompt, n_prompt + n_target // 3, n]
    roles = ("special", *words["roles"])
    spans = tuple(
        Span(start, stop, role) for start, stop, role in zip(edges, edges[1:], roles, strict=False)
    )
    texts = [words["texts"][i % len(words["texts"])] for i in range(n)]
    item = words["roles"][1]
    return encoding(n_prompt, n, f"{item}/{style}", style, spans, texts)


class Figured(Held):
    """A run of given weights that has step masses and attributions as well."""

    def step_mass(self, record_id, layer=None, head=None):
        found, values, first = self.held[record_id]
        rows = values[:, :, found.n_prompt - 1 - first :][:, :, : found.n_steps]
        mass = np.stack([rows[..., s.start : s.stop].sum(-1) for s in found.spans], -1)
        roles = [s.role for s in found.spans for _ in range(len(s))]
        return xr.DataArray(
            mass,
            {
                "layer": list(self.layers), "head": list(self.heads),
                "role": ("group", [s.role for s in found.spans]),
                "is_sink": ("group", [s.role == "special" for s in found.spans]),
                "step_role": ("step", roles[found.n_prompt :]),
            },
            ("layer", "head", "step", "group"),
        )  # fmt: skip

    def iter_step_mass(self, ids, layer=None, head=None):
        return ((one, self.step_mass(one, layer, head)) for one in ids)

    def attribution(self, record_id, method=None):
        found = self.held[record_id][0]
        rng = np.random.default_rng(2)
        scores = rng.standard_t(2, (found.n_steps, found.n_tokens))
        positions = np.arange(found.n_prompt, found.n_tokens)
        scores[np.arange(found.n_tokens) >= positions[:, None]] = np.nan
        roles = [s.role for s in found.spans for _ in range(len(s))]
        return xr.DataArray(
            scores,
            {
                "position": ("step", positions), "source_role": ("source", roles),
                "step_role": ("step", roles[found.n_prompt :]),
            },
            ("step", "source"),
            attrs={"method": "input_x_gradient", "units": "nat", "target": "logprob"},
        )  # fmt: skip


def a_run(words, n_prompt=24, n_target=12, square=False):
    held = {}
    for seed, style in enumerate(words["styles"]):
        found = a_record(words, style, n_prompt, n_target)
        first = 0 if square else n_prompt - 1
        n_rows = found.n_tokens - first - (not square)
        held[found.record.id] = found, softmax_rows(n_rows, found.n_tokens, first, seed), first
    return Figured(held, ("full",) if square else ("rows",))


def a_log(words):
    log = [{"step": i, "tokens": i * 150_000, "loss": 5 / (i + 1)} for i in range(1, 40)]
    for line in log[9::10]:
        line["validation_loss"] = dict.fromkeys(words["styles"], 4 / line["step"])
        line["pass_rate"] = {
            f"{split}/{style}": line["step"] / 50
            for split in ("seen", "unseen") for style in words["styles"]
        }  # fmt: skip
    return log


def curves(words):
    x = np.linspace(0, 1, 9)
    return [
        LinePanel(
            tuple(
                Line(role, x, x**power, x**power - 0.1, x**power + 0.1)
                for power, role in enumerate(words["roles"])
            ),
            words["long"], "share of tokens taken away", "log-probability kept", "share",
            level=0.5, note=words["long"] * 3,
        )
        for _ in range(3)
    ]  # fmt: skip


def half_passed(run):
    return {record: i % 2 == 0 for i, record in enumerate(run.held)}


KINDS = {
    "heads": lambda words: a_map(30, 9, words),
    "heads of 32 × 32": lambda words: a_map(32, 32, words),
    "knockout": lambda words: [
        replace(segments(words)[0], rows=("0-3", "4-7", "8-11"), title=words["long"])
    ],
    "segments": segments,
    "map of steps": lambda words: map_panels(run := a_run(words), list(run.held)),
    "map of all tokens": lambda words: map_panels(
        run := a_run(words, square=True), list(run.held), scale="log"
    ),
    "map of each head": lambda words: map_panels(
        run := a_run(words, square=True), next(iter(run.held)), each=True
    ),
    "map of many tokens": lambda words: map_panels(
        run := a_run(words, 320, 60, square=True), next(iter(run.held)), scale="linear"
    ),
    "zoomed map": lambda words: map_panels(
        run := a_run(words, 320, 60, square=True), next(iter(run.held)),
        query=words["roles"][-1], key=words["roles"][1],
    ),
    "steps": lambda words: step_panels(run := a_run(words), passed=half_passed(run)),
    "steps as lines": lambda words: step_panels(a_run(words), stacked=False),
    "steps of records": lambda words: record_step_panels(run := a_run(words), list(run.held)),
    "attribution": lambda words: attribution_panel(run := a_run(words), list(run.held)),
    "attribution of many tokens": lambda words: attribution_panel(
        run := a_run(words, 320, 60), next(iter(run.held))
    ),
    "text": lambda words: attribution_texts(run := a_run(words), list(run.held)),
    "long text": lambda words: attribution_texts(
        run := a_run(words, 320, 60), next(iter(run.held))
    ),
    "training": lambda words: training_panels(a_log(words), words["long"]),
    "curves": curves,
}  # fmt: skip


@pytest.mark.parametrize("look", sorted(LOOKS))
@pytest.mark.parametrize("language", sorted(WORDS))
@pytest.mark.parametrize("kind", KINDS)
def test_no_text_is_cut_or_overlaps_and_no_glyph_is_missing(kind, language, look):
    figure = draw_any(KINDS[kind](WORDS[language]), look)
    assert faults(figure) == {"cut": [], "overlapping": []}


@pytest.mark.parametrize("kind", ["heads", "map of steps", "steps", "text", "training"])
@pytest.mark.parametrize("look", sorted(LOOKS))
def test_the_same_holds_in_one_column(kind, look):
    figure = draw_any(KINDS[kind](WORDS["en"]), look, LOOKS[look].single_mm)
    assert figure.get_figwidth() * 25.4 == pytest.approx(LOOKS[look].single_mm)
    assert faults(figure) == {"cut": [], "overlapping": []}


def test_the_check_sees_cut_and_overlapping_texts():
    figure = Figure(figsize=(2, 1))
    FigureCanvasAgg(figure)
    figure.add_artist(Text(0.5, 0.5, "one"))
    figure.add_artist(Text(0.52, 0.5, "two"))
    figure.add_artist(Text(0.98, 0.9, "three"))
    figure.add_artist(Text(0.1, 0.1, "hidden", visible=False))
    assert faults(figure) == {"cut": ["three"], "overlapping": [("one", "two")]}


def test_the_check_sees_missing_glyphs():
    figure = Figure(figsize=(2, 1))
    FigureCanvasAgg(figure)
    figure.add_artist(Text(0.2, 0.5, "历", family=["DejaVu Sans"]))
    with pytest.raises(UserWarning, match="Glyph 21382"):
        faults(figure)
