import itertools
import warnings

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.image import imread
from matplotlib.text import Text

from attnprobe.errors import FigureError
from attnprobe.figures import LOOKS, cjk, draw, fonts, save, saving
from tests.test_panels import panel

ROLES = ("instruction", "demo_1.question", "history", "coarse_history", "coarse_answer", "answer")


def head_map(n_layers, n_heads, seed=0):
    values = np.random.default_rng(seed).normal(size=(n_layers, n_heads))
    reach = float(np.abs(values).max())
    return panel(
        values,
        title="enrichment, answer → history: coarse − stepwise",
        limits=(-reach, reach),
        diverging=True,
        marks=values > 0.5,
        mark_note="differs at a family-wise error rate of 0.05 (sign flips by task, 12 tasks)",
        note="600 pairs. The claim holds for: new tasks like these.",
    )


def segment_maps(rows=ROLES[3:], columns=ROLES):
    grids = np.random.default_rng(1).normal(size=(3, len(rows), len(columns)))
    grids[1, :, 3:4] = np.nan
    return [
        panel(
            grid,
            rows=rows,
            columns=columns,
            title=title,
            row_axis="predicted segment (query)",
            column_axis="segment looked at (key)",
            name=name,
            limits=(-4.0, 4.0) if name == "enrichment" else (-5.0, 5.0),
            diverging=True,
            note="Mean over 600 items in both styles and over all 30 layers and all 9 heads.",
        )
        for grid, title, name in zip(
            grids,
            ("coarse", "stepwise", "coarse − stepwise"),
            ("enrichment", "enrichment", "difference in enrichment"),
            strict=True,
        )
    ]


def texts_of(figure):
    figure.draw_without_rendering()
    shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in shown]


@pytest.mark.parametrize("look", sorted(LOOKS))
@pytest.mark.parametrize(
    "panels",
    [
        head_map(30, 9),
        head_map(32, 32),
        head_map(1, 1),
        head_map(80, 64),
        segment_maps(),
        segment_maps(("answer",), ("history",)),
    ],
    ids=["30x9", "32x32", "1x1", "80x64", "segments", "one segment"],
)
def test_texts_stay_within_the_figure_and_off_each_other(panels, look):
    figure = draw(panels, look)
    page = figure.bbox
    texts = texts_of(figure)
    for words, box in texts:
        assert box.x0 >= page.x0 - 1, words
        assert box.x1 <= page.x1 + 1, words
        assert box.y0 >= page.y0 - 1, words
        assert box.y1 <= page.y1 + 1, words
    for (words, box), (others, other) in itertools.combinations(texts, 2):
        wide = min(box.x1, other.x1) - max(box.x0, other.x0)
        high = min(box.y1, other.y1) - max(box.y0, other.y0)
        assert wide <= 1 or high <= 1, (words, others)


def test_the_figure_shows_the_panel():
    shown = head_map(4, 5)
    figure = draw(shown)
    axes = figure.axes[0]
    mesh = next(part for part in axes.collections if isinstance(part, QuadMesh))
    assert np.asarray(mesh.get_array()) == pytest.approx(shown.values)
    assert mesh.get_clim() == shown.limits
    marks = next(part for part in axes.collections if isinstance(part, PathCollection))
    places = sorted((row, column) for column, row in np.asarray(marks.get_offsets()).tolist())
    assert places == sorted((r + 0.5, c + 0.5) for r, c in np.argwhere(shown.marks).tolist())
    assert axes.get_ylim() == (4, 0)  # the first row on top
    assert "enrichment (bits)" in [words.replace("\n", " ") for words, _ in texts_of(figure)]


def test_the_dot_is_explained_where_there_is_one():
    with_dots = " ".join(words for words, _ in texts_of(draw(head_map(6, 6))))
    assert "• differs at a family-wise error rate of 0.05" in with_dots
    without = panel(np.zeros((2, 2)), marks=np.zeros((2, 2), dtype=bool), mark_note="No head.")
    assert "•" not in " ".join(words for words, _ in texts_of(draw(without)))


def test_cells_without_a_value_are_hatched_and_explained():
    values = np.array([[1.0, np.nan]])
    figure = draw(panel(values, empty="nothing was visible"))
    assert figure.axes[0].patch.get_hatch()
    assert "Hatched: nothing was visible." in [words for words, _ in texts_of(figure)]


def test_panels_of_one_scale_share_a_colour_bar_and_row_labels():
    figure = draw(segment_maps())
    assert len(figure.axes) == 3 + 2
    labels = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes[:3]]
    assert labels == [["coarse_history", "coarse_answer", "answer"], [], []]


def test_numbers_are_thinned_and_roles_are_not():
    many = draw(head_map(80, 64)).axes[0]
    assert len(many.get_yticks()) < 80
    assert [label.get_text() for label in many.get_yticklabels()][:2] in (["0", "2"], ["0", "5"])
    roles = tuple(f"role_{i}" for i in range(40))
    axes = draw(panel(np.zeros((40, 2)), rows=roles, columns=("a", "b"))).axes[0]
    assert len(axes.get_yticks()) == 40


def test_small_differences_keep_their_digits():
    values = np.array([[0.18, -0.04, 0.0001]])
    shown = panel(
        values, rows=("answer",), columns=("a", "b", "c"), limits=(-0.2, 0.2), diverging=True
    )
    words = [words for words, _ in texts_of(draw(shown))]
    assert {"+0.18", "−0.04", "0"} <= set(words)


def test_saved_files_are_what_their_suffix_says(tmp_path):
    figure = draw(segment_maps())
    png = save(figure, tmp_path / "new" / "f.png")
    image = imread(png)
    assert image.shape[1] == pytest.approx(180 / 25.4 * 300, abs=2)
    assert image[..., :3].std() > 0.05

    svg = save(figure, tmp_path / "f.svg").read_text(encoding="utf-8")
    for role in ROLES:
        assert f">{role}<" in svg
    assert "coarse − stepwise" in svg

    pdf = save(figure, tmp_path / "f.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.pdf", "f.svg", "new"]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_panel_gives_the_same_bytes(tmp_path, suffix):
    first = save(draw(head_map(5, 4)), tmp_path / f"1.{suffix}").read_bytes()
    second = save(draw(head_map(5, 4)), tmp_path / f"2.{suffix}").read_bytes()
    assert first == second


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(FigureError, match=r"got suffix '\.jpg', expected \.png or \.svg or \.pdf"):
        save(draw(head_map(2, 2)), tmp_path / "f.jpg")
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = save(draw(head_map(2, 2)), tmp_path / "f.png")
    before = path.read_bytes()
    figure = draw(head_map(3, 3))

    def broken(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", broken)
    with pytest.raises(FigureError, match=r"cannot write the figure \(disk full\)"):
        save(figure, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["f.png"]


def test_wrong_use_says_what_is_right():
    with pytest.raises(FigureError, match="no look of that name; got 'papr'; did you mean 'paper'"):
        draw(head_map(2, 2), "papr")
    with pytest.raises(FigureError, match="no panel to draw"):
        draw([])
    with pytest.raises(FigureError, match=r"no room left for the cells.*width_mm"):
        draw(segment_maps(), width_mm=30.0)


def test_width_is_as_asked():
    assert draw(head_map(3, 3), width_mm=120.0).get_figwidth() == pytest.approx(120 / 25.4)


def test_drawing_leaves_matplotlib_as_it_was():
    before = {name: mpl.rcParams[name] for name in mpl.rcParams if name != "backend"}
    draw(head_map(3, 3))
    assert {name: mpl.rcParams[name] for name in before} == before


def chinese():
    return panel(np.ones((1, 2)), rows=("答案",), columns=("历史", "指令"), title="富集度")


def test_missing_glyphs_are_told_once_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(fonts, "_candidates", list)
    monkeypatch.setattr(cjk, "font_file", lambda: None)
    fonts._warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure = draw(chinese())
        save(figure, tmp_path / "f.png")
        save(figure, tmp_path / "f.pdf")
        draw(chinese())
    assert len(caught) == 1
    assert "pip install 'attnprobe[cjk]'" in str(caught[0].message)
    assert "apt install fonts-noto-cjk" in str(caught[0].message)
    assert "'历史" in str(caught[0].message) or "历" in str(caught[0].message)


def test_a_font_with_the_glyphs_is_a_fallback_and_no_more(monkeypatch):
    monkeypatch.setattr(fonts, "_candidates", lambda: ["Other Font", "Chinese Font"])
    glyphs = {"Other Font": frozenset("x"), "Chinese Font": frozenset("答案历史指令富集度")}
    base = fonts._glyphs(fonts.BASE)
    monkeypatch.setattr(fonts, "_glyphs", lambda family: glyphs.get(family, base))
    assert fonts.families(["历史 history"]) == [fonts.BASE, "Chinese Font"]
    assert fonts.families(["history"]) == [fonts.BASE]


def test_postscript_outlines_are_drawn_because_truetype_would_leave_blanks(tmp_path, monkeypatch):
    figure = draw(panel(np.zeros((1, 2))))
    monkeypatch.setattr(saving, "has_postscript_outlines", lambda family: family == fonts.BASE)
    pdf = save(figure, tmp_path / "f.pdf").read_bytes()
    assert b"/Type3" in pdf
    assert b"/FontFile2" not in pdf


def test_outlines_are_told_by_the_font_file(tmp_path):
    plain, collection = tmp_path / "a.otf", tmp_path / "b.ttc"
    plain.write_bytes(b"OTTO" + bytes(12))
    offset = (20).to_bytes(4, "big")
    collection.write_bytes(b"ttcf" + bytes(8) + offset + bytes(4) + b"OTTO")
    assert fonts._sfnt_version(plain) == fonts._sfnt_version(collection) == b"OTTO"
    assert not fonts.has_postscript_outlines(fonts.BASE)
    assert not fonts.has_postscript_outlines("No Such Font")


def test_panels_beside_one_with_marks_look_like_it_and_do_not_contradict_it():
    marked = panel(
        np.ones((1, 2)), rows=("a",), marks=np.array([[True, False]]), mark_note="differs"
    )
    none = np.zeros((1, 2), dtype=bool)
    bare = panel(np.ones((1, 2)), rows=("a",), marks=none, mark_note="No cell differs.")
    figure = draw([marked, bare])
    words = " ".join(words for words, _ in texts_of(figure))
    assert "• differs" in words
    assert "No cell differs" not in words
    assert not any(axes.texts for axes in figure.axes[:2])
    assert "No cell differs." in " ".join(words for words, _ in texts_of(draw([bare, bare])))
    assert all(axes.texts for axes in draw([bare, bare]).axes[:2])
