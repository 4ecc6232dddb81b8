import json
import re
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from typer.testing import CliRunner

from attnprobe.cli import app
from attnprobe.errors import MeasureError, ReportError, SelectionError
from attnprobe.report import bertviz_page as pages
from attnprobe.report import head_views as views
from attnprobe.report import scripts
from attnprobe.report.bertviz_page import bertviz_page, save_bertviz
from attnprobe.report.head_views import ViewSettings, head_views
from tests.test_maps import Held, encoding, rows_run, softmax_rows, square_run

BOTH = ("item-0/coarse", "item-0/stepwise")
HOSTILE = (
    "<script>", "</script><img src=x onerror=alert(1)>", " 求[1/3]", "求[2/3]", "\n", "&amp;",
    "'\"`${1}", "\u2028", "t8", "t9",
)  # fmt: skip


def hostile_run():
    texts = encoding(6, 10, "item-0/<b>", "<b>", texts=HOSTILE)
    return Held({"item-0/<b>": (texts, softmax_rows(10, 10, 0), 0)})


def data_in(page):
    return json.loads(re.findall(r'id="attnprobe-data">(.*?)</script>', page)[0])


def decoded(record):
    """Weights as the page's script reads them, [layer, head, pair]."""
    import base64

    codes = np.frombuffer(base64.b64decode(record["codes"]), "<u2")
    shape = len(record["layers"]), len(record["heads"]), -1
    return ((codes / 65535.0) ** 2).reshape(shape)


def test_a_view_holds_every_visible_weight_of_the_chosen_heads():
    run = square_run()
    (view,) = head_views(run, BOTH[:1], ViewSettings(layers=(1,), heads=(0, 2)))
    weights = run.held[BOTH[0]][1]
    assert view.weights.shape == (1, 2, 55)
    assert (view.weights == weights[1, [0, 2]][None, :, *np.tril_indices(10)]).all()
    assert (view.layers, view.heads) == ((1,), (0, 2))
    assert view.texts == tuple(f"t{i}" for i in range(10))
    assert view.places.tolist() == list(range(10))
    assert view.title == "coarse (item-0)"
    assert view.note.startswith("Left: the tokens that look (queries).")


def test_tokens_stand_for_the_rows_that_predict_them():
    run = rows_run()
    (view,) = head_views(run, BOTH[:1], ViewSettings())
    assert view.places.tolist() == [6, 7, 8, 9]
    assert view.last.tolist() == [5, 6, 7, 8]
    assert "Left: the predicted tokens" in view.note
    assert "one extracted with --keep full has every token's." in view.note
    whole = square_run()
    (steps,) = head_views(whole, BOTH[:1], ViewSettings(steps_only=True))
    assert steps.places.tolist() == view.places.tolist()
    assert "--keep" not in steps.note
    expected = whole.held[BOTH[0]][1][..., 5:9, :][..., *np.nonzero(np.tri(4, 10, 5))]
    assert (steps.weights == expected).all()


def test_weights_reach_the_page_as_the_codes_of_runs():
    run = square_run()
    shown = head_views(run, BOTH, ViewSettings())
    for record, view in zip(data_in(bertviz_page(shown)), shown, strict=True):
        assert np.abs(decoded(record) - view.weights).max() < 1.6e-5
        assert record["texts"] == list(view.texts)
        assert record["layers"] == [0, 1]


def test_nothing_of_a_record_is_taken_for_the_page():
    shown = head_views(hostile_run(), ["item-0/<b>"], ViewSettings())
    page = bertviz_page(shown)
    assert "<b>" not in page
    (record,) = data_in(page)
    assert record["texts"][:5] == ["<script>", "</scr…t(1)>", "·求[1/3]", "求[2/3]", "↵"]
    assert "</script" not in page[page.index("attnprobe-data") :].split("</script>")[0]
    assert "\\u003cscript>" in page


def test_the_page_names_what_it_carries_and_may_ask_nobody():
    page = bertviz_page(head_views(square_run(), BOTH[:1], ViewSettings()), ("head",))
    assert "jQuery (© OpenJS Foundation and other contributors, MIT)" in page
    assert "D3 (© Mike Bostock, BSD-3-Clause), bertviz head view (© Jesse Vig, Apache" in page
    assert "bertviz model view (" not in page
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)[0]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == 6  # two libraries, two of ours, one view, and the style


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": ("neuron",)}, "--view: bertviz's neuron view needs the queries and keys of "
         "every head, which runs do not hold"),
        ({"views": ("heads",)}, "--view: no view 'heads'; did you mean 'head'? there is: head"),
    ],
)  # fmt: skip
def test_a_view_that_is_not_there(settings, message):
    with pytest.raises(SelectionError, match=re.escape(message)):
        ViewSettings(**settings)


def test_more_lines_than_a_browser_draws_are_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(views, "MAX_LINES", 164)
    with pytest.raises(SelectionError) as caught:
        head_views(square_run(), BOTH, ViewSettings())
    assert str(caught.value) == (
        "record 'item-0/coarse': too many lines for a browser in the head view; got 165 (3 heads "
        "× 55 pairs of tokens), expected at most 164; choose fewer heads (--heads 0-3), or only "
        "the rows of predicted tokens (--steps)."
    )
    with pytest.raises(SelectionError) as caught:
        head_views(square_run(), BOTH, ViewSettings(("model",)))
    assert str(caught.value) == (
        "record 'item-0/coarse': too many lines for a browser in the model view; got 330 (2 "
        "layers × 3 heads × 55 pairs of tokens), expected at most 164; choose fewer layers or "
        "heads (--layers 0-3 --heads 0-3), or leave this view out (--view head), or only the rows "
        "of predicted tokens (--steps)."
    )
    assert head_views(square_run(), BOTH, ViewSettings(layers=(0,), heads=(1, 2)))
    assert head_views(square_run(), BOTH, ViewSettings(("head",), steps_only=True))


def test_more_weights_than_a_page_holds_are_refused(monkeypatch):
    monkeypatch.setattr(views, "MAX_WEIGHTS", 659)
    with pytest.raises(SelectionError) as caught:
        head_views(square_run(), BOTH, ViewSettings())
    assert str(caught.value) == (
        "too many weights for one page; got 660, in 2 records, expected at most 659; choose fewer "
        "layers (--layers 0-3)."
    )


def test_more_heads_than_fit_beside_one_another_are_refused():
    held = {BOTH[0]: (encoding(2, 3), softmax_rows(3, 3, 0, shape=(1, 41)), 0)}
    run = Held(held, layers=(0,), heads=tuple(range(41)))
    with pytest.raises(SelectionError) as caught:
        head_views(run, BOTH[:1], ViewSettings())
    assert str(caught.value) == (
        "too many heads side by side in the model view; got 41, expected at most 40; choose fewer "
        "(--heads 0-31), or leave this view out (--view head)."
    )
    assert head_views(run, BOTH[:1], ViewSettings(("head",)))


def test_a_run_without_rows_says_what_gives_them():
    run = square_run(keep=("steps", "pooled"))
    with pytest.raises(MeasureError) as caught:
        head_views(run, BOTH[:1], ViewSettings())
    assert "held: the run does not hold attention rows; got --keep steps pooled; " in str(
        caught.value
    )
    assert "--keep full" in str(caught.value)


def test_a_record_without_target_has_no_predicted_tokens():
    run = Held({BOTH[0]: (encoding(10, 10), softmax_rows(10, 10, 0), 0)})
    assert head_views(run, BOTH[:1], ViewSettings())
    with pytest.raises(MeasureError, match="the record has no attention rows; name a record with"):
        head_views(run, BOTH[:1], ViewSettings(steps_only=True))


def test_other_endings_are_refused_and_what_was_there_stays(tmp_path):
    with pytest.raises(ReportError, match=r"got suffix '\.pdf', expected \.html"):
        save_bertviz(square_run(), BOTH[:1], tmp_path / "view.pdf")
    path = tmp_path / "view.html"
    path.write_text("before")
    with pytest.raises(KeyError):
        save_bertviz(square_run(), ["nobody"], path)
    assert path.read_text() == "before"
    assert save_bertviz(square_run(), BOTH[:1], tmp_path / "new" / "view.html").is_file()


def test_a_missing_script_is_named_with_the_package_that_carries_it(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    with pytest.raises(ReportError, match="no script of that name; got 'D4'; did you mean 'D3'"):
        scripts.find_script("D4")
    lost = scripts.Script("D3", "BSD-3-Clause", "x", "mpld3", "mpld3/js/nothing.js")
    with pytest.raises(ReportError, match="which the package mpld3 carries; got no such file in"):
        lost.text()
    monkeypatch.setattr(scripts, "distribution", absent)
    with pytest.raises(ReportError) as caught:
        bertviz_page(head_views(square_run(), BOTH[:1], ViewSettings()))
    assert str(caught.value) == (
        "the page needs jQuery, which the package XStatic-jQuery carries; got no such package; "
        "pip install --force-reinstall XStatic-jQuery."
    )


def test_another_bertviz_is_noticed(monkeypatch):
    monkeypatch.setattr(pages, "_MARKER", "OTHER_PARAMS")
    with pytest.raises(ReportError, match="this version of bertviz takes its data in another way"):
        bertviz_page(head_views(square_run(), BOTH[:1], ViewSettings()))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    from attnprobe.workflows.extract import ExtractSettings, extract
    from tests.tiny import make_record, save_model

    folder = tmp_path_factory.mktemp("bertviz")
    records = [make_record(0, style) for style in ("coarse", "stepwise")]
    save_model(folder / "model")
    for keep in ("full", "rows", "steps"):
        settings = ExtractSettings(keep=(keep,), device="cpu")
        extract(records, str(folder / "model"), folder / keep, settings).close()
    return folder


def command(*words):
    return CliRunner().invoke(app, ["bertviz", *map(str, words)])


def test_the_command_says_what_is_wrong(run_folder, tmp_path):
    out = ("-o", tmp_path / "view.html")
    absent = command(run_folder / "full", "--record", "item-000/coars", *out)
    assert absent.exit_code == 2
    assert "no record 'item-000/coars'; did you mean 'item-000/coarse'" in absent.output
    head = command(run_folder / "full", "--record", "item-000/coarse", "--heads", "9", *out)
    assert "head 9 is not stored; expected one of 0 to 3" in head.output
    none = command(run_folder / "steps", "--record", "item-000/coarse", *out)
    assert none.exit_code == 2
    assert "does not hold attention rows; got --keep steps; extract again with" in none.output
    neuron = command(run_folder / "rows", "--record", "item-000/coarse", "--view", "neuron", *out)
    assert "neuron view needs the queries and keys" in neuron.output
    assert not (tmp_path / "view.html").exists()


def shown_in(watched, path):
    watched.page.goto(path.as_uri())
    return watched.page


def opacities(page, figure):
    lines = page.locator(f"#{figure} #attention line")
    return np.array(lines.evaluate_all("all => all.map(l => +l.getAttribute('stroke-opacity'))"))


def test_the_head_view_draws_the_stored_weights(run_folder, tmp_path, watched):
    from attnprobe.store import open_run

    out = tmp_path / "view.html"
    done = command(run_folder / "full", "--record", "item-000/coarse", "--pair", "-o", out)
    assert done.exit_code == 0, done.output
    page = shown_in(watched, out)
    with open_run(run_folder / "full") as run:
        stored = run.weights("item-000/stepwise", layer=2).values
        texts = run.encoding("item-000/coarse").texts
    page.locator("#head-0 #layer").select_option("2")
    assert page.locator("#head-1 #layer").input_value() == "2"  # styles go together
    first, *others = np.split(stored[0], stored.shape[2], axis=1)
    drawn = [first[:, 0], *(row[:, 0, : at + 1] for at, row in enumerate(others, 1))]
    drawn = np.concatenate(drawn, axis=1).ravel()  # each row up to its own token; the first whole
    assert np.abs(opacities(page, "head-1") * 4 - drawn).max() < 2e-5
    assert page.locator("#head-0 #left text").all_text_contents()[0] == "<s>"
    assert len(texts) == page.locator("#head-0 #left text").count()

    page.locator("#head-1 svg rect").last.click()  # hides head 3
    assert np.abs(opacities(page, "head-1").reshape(4, -1)[3]).max() == 0
    page.locator("#head-0 #left text").nth(3).hover()
    hidden = page.locator("#head-0 #attention")
    assert hidden.get_attribute("visibility") == "hidden"
    assert page.locator("#head-0 line[visibility=visible]").count() == 4 * 4
    assert watched.complaints == []
    assert watched.requests == [out.as_uri()]


def test_the_model_view_opens_and_enlarges_a_head(run_folder, tmp_path, watched):
    from attnprobe.store import open_run

    out = tmp_path / "view.html"
    done = command(
        run_folder / "rows", "--record", "item-000/coarse", "--layers", "1-2", "--heads", "0,3",
        "-o", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    page = shown_in(watched, out)
    assert page.locator("#model-0 line").count() == 0  # drawn when it is asked for
    page.get_by_text("Model view", exact=True).focus()
    page.keyboard.press("Enter")
    page.locator("#model-0 line").first.wait_for(state="attached")
    with open_run(run_folder / "rows") as run:
        stored = run.weights("item-000/coarse", layer=[1, 2], head=[0, 3])
        encoding = run.encoding("item-000/coarse")
    first, last = stored["first_key"].values, stored["last_key"].values
    keys = np.arange(stored.sizes["key"])
    seen = (keys >= first[:, None]) & (keys <= last[:, None])
    lines = page.locator("#model-0 line")
    drawn = lines.evaluate_all("all => all.map(l => +l.getAttribute('stroke-opacity'))")
    assert np.abs(np.array(drawn) - stored.values[:, :, seen].ravel()).max() < 2e-5

    page.locator("#model-0 #attn_background_1_1 ~ rect").click()
    assert page.locator("#model-0 text.detail").text_content() == "Layer 2, Head 3"
    tokens = page.locator("#model-0 text.token").all_text_contents()
    left, right = tokens[: encoding.n_tokens], tokens[encoding.n_tokens :]
    assert left == [""] * encoding.n_prompt + right[encoding.n_prompt :]
    assert len(right) == encoding.n_tokens
    assert watched.complaints == []
    assert watched.requests == [out.as_uri()]


def test_texts_of_records_stay_texts_in_the_browser(tmp_path, watched):
    out = save_bertviz(hostile_run(), ["item-0/<b>"], tmp_path / "view.html")
    page = shown_in(watched, out)
    shown = page.locator("#head-0 #right text").evaluate_all("all => all.map(t => t.textContent)")
    assert shown[0] == "<script>"
    assert shown[1].startswith("</sc")
    assert shown[2:6] == ["·求[1/3]", "求[2/3]", "↵", "&amp;"]
    assert page.locator("figcaption").first.inner_text() == "<b> (item-0)"
    assert page.title() == "<b> (item-0): attention"
    assert page.locator("img").count() == 0
    assert watched.complaints == []


def test_what_was_not_meant_to_run_does_not(tmp_path, watched):
    out = save_bertviz(square_run(), BOTH[:1], tmp_path / "view.html")
    out.write_text(
        out.read_text("utf-8").replace("</body>", "<script>window.ran=1</script>"), "utf-8"
    )
    page = shown_in(watched, out)
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in words for words in watched.complaints)
    watched.page.evaluate("fetch('https://example.org/').catch(() => 0)")
    assert any("example.org" in words for words in watched.complaints)


def test_hovering_shows_only_what_is_there(tmp_path, watched):
    out = save_bertviz(rows_run(), BOTH[:1], tmp_path / "view.html", ViewSettings(("head",)))
    page = shown_in(watched, out)
    boxes = "all => all.map(box => +getComputedStyle(box).opacity)"
    page.locator("#head-0 #right text").nth(8).hover()  # seen by the last step alone
    shown = page.locator("#head-0 #left .attentionBoxes rect").evaluate_all(boxes)
    weights = rows_run().held[BOTH[0]][1][0, :, 3, 8]
    assert np.abs(np.reshape(shown, (3, 10))[:, 9] - weights).max() < 2e-5
    assert np.count_nonzero(shown) == 3
    page.locator("#head-0 #left text").nth(9).hover()
    shown = page.locator("#head-0 #right .attentionBoxes rect").evaluate_all(boxes)
    assert np.abs(np.reshape(shown, (3, 10)) - rows_run().held[BOTH[0]][1][0, :, 3]).max() < 2e-5
    assert watched.complaints == []
