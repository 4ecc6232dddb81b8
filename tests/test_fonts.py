"""Chinese labels: every glyph is drawn from a font that has it, in every kind of file."""

import re
import warnings

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from attnprobe.figures import cjk, draw, draw_maps, fonts, save
from attnprobe.panels import map_panels
from tests.test_maps import Held, encoding, roles_run, softmax_rows
from tests.test_panels import panel

WORDS = ("历史", "答案 answer", "粗粒度_1", "あ", "한", "𠮷")


@pytest.fixture
def extra_only(monkeypatch):
    """As on a machine without Chinese fonts, whatever this one has."""
    monkeypatch.setattr(fonts, "_candidates", list)


def labelled(words=WORDS):
    return panel(
        np.ones((1, len(words))), rows=("指令",), columns=words, title="富集度：答案 → 历史"
    )


def font_of(sign, families):
    """The font file that matplotlib takes for a sign, first of the families that has it."""
    for family in families:
        path = font_manager.findfont(family, fallback_to_default=False)
        if ord(sign) in FT2Font(path).get_charmap():
            return path
    return None


def assert_no_tofu(figure):
    for text in figure.findobj(Text):
        for sign in text.get_text():
            if sign.isprintable() and not sign.isspace():
                assert font_of(sign, text.get_fontfamily()), sign


def test_every_sign_of_a_figure_has_a_glyph(extra_only):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw(labelled())
        figure.canvas.draw()  # matplotlib would warn of a missing glyph here
    assert_no_tofu(figure)


def test_every_sign_of_a_map_has_a_glyph(extra_only):
    assert_no_tofu(draw_maps(map_panels(roles_run(30, 22), "item-0/coarse")))
    texts = ("求[1/2]", "求[2/2]", "数", "\n", "列", " 和")
    made = encoding(4, 6, texts=texts)
    run = Held({"item-0/coarse": (made, softmax_rows(6, 6, 0), 0)})
    figure = draw_maps(map_panels(run, "item-0/coarse"))
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["求", "数", "↵", "列", "·和"]
    assert_no_tofu(figure)


def test_cut_fonts_draw_at_the_weight_of_text(extra_only):
    family = fonts.families(["历史"])[-1]
    assert family.startswith("Noto Sans CJK SC ")
    path = font_manager.findfont(family, fallback_to_default=False)
    with TTFont(path) as font:
        assert "fvar" not in font  # matplotlib draws a variable font at its thinnest
        assert font["OS/2"].usWeightClass == 400
        assert set(map(chr, font.getBestCmap())) == set("历史")


def test_strokes_are_as_dark_as_text(extra_only):
    """The thinnest weight would cover a third of what the regular weight does."""
    figure = Figure(figsize=(2, 1), dpi=200)
    canvas = FigureCanvasAgg(figure)
    figure.text(0.1, 0.4, "国国国", fontsize=20, fontfamily=fonts.families(["国"]))
    canvas.draw()
    regular = (255 - np.asarray(canvas.buffer_rgba())[..., 0].astype(float)).sum()
    source = cjk.font_file()
    figure.texts[0].remove()
    figure.text(0.1, 0.4, "国国国", fontsize=20, font=source)
    canvas.draw()
    thin = (255 - np.asarray(canvas.buffer_rgba())[..., 0].astype(float)).sum()
    assert regular > 1.8 * thin > 0


def test_the_same_signs_give_the_same_font_whatever_came_before(extra_only):
    first = fonts.families(["史历"])
    fonts.families(["数列"])
    assert fonts.families(["历史", "历"]) == first


def test_installed_fonts_come_before_the_extra(monkeypatch):
    base = fonts._glyphs(fonts.BASE)
    monkeypatch.setattr(fonts, "_candidates", lambda: ["Chinese Font"])
    glyphs = {"Chinese Font": frozenset("历")}
    monkeypatch.setattr(fonts, "_glyphs", lambda family: glyphs.get(family, base))
    chosen = fonts.families(["历史"])
    assert chosen[:2] == [fonts.BASE, "Chinese Font"]
    with TTFont(font_manager.findfont(chosen[2], fallback_to_default=False)) as font:
        assert set(map(chr, font.getBestCmap())) == {"史"}


def test_pdfs_hold_the_glyphs(extra_only, tmp_path):
    data = save(draw(labelled()), tmp_path / "f.pdf").read_bytes()
    assert b"/Type3" in data  # PostScript outlines as TrueType would be blank
    assert re.search(rb"/uni5386|/cid|/glyph|/CharProcs", data)
    blank = save(draw(labelled(("a",) * len(WORDS))), tmp_path / "g.pdf").read_bytes()
    assert len(data) > len(blank)


def test_svgs_carry_the_cut_font_and_keep_text_as_text(extra_only, tmp_path):
    figure = draw(labelled())
    text = save(figure, tmp_path / "f.svg").read_text(encoding="utf-8")
    assert ">历史<" in text
    (family,) = re.findall(
        r'@font-face\{font-family:"([^"]+)";src:url\(data:font/otf;base64,', text
    )
    chosen = re.findall(r"font(?:-family)?: ([^;\"]*)", text)
    assert chosen
    assert all(families.startswith(f"'{family}', 'DejaVu Sans'") for families in chosen)
    plain = save(draw(panel(np.ones((1, 1)))), tmp_path / "g.svg").read_text(encoding="utf-8")
    assert "@font-face" not in plain


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_figure_gives_the_same_bytes(extra_only, tmp_path, suffix):
    first = save(draw(labelled()), tmp_path / f"1.{suffix}").read_bytes()
    draw(labelled(("别的",)))
    assert save(draw(labelled()), tmp_path / f"2.{suffix}").read_bytes() == first


def test_signs_that_no_font_has_are_told_once(extra_only):
    fonts._warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fonts.families(["历\U000f0000"])
        fonts.families(["历\U000f0000"])
    assert not caught  # private-use signs are not printable, and were never asked for
    with pytest.warns(UserWarning, match="no installed font has the characters '𒀀', which"):
        fonts.families(["历𒀀"])


def test_without_the_extra_nothing_is_cut(monkeypatch):
    monkeypatch.setattr(cjk, "PACKAGE", "no_such_package_anywhere")
    assert cjk.font_file() is None
    assert cjk.from_extra("历") == (None, {"历"})
    assert cjk.face_rule("DejaVu Sans") is None
