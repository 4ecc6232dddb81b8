"""The page of a run, opened in a real browser."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from attnprobe.contrasts import contrast
from attnprobe.report import Budget, Findings, Notice, Payload, page_html, write_report
from attnprobe.report.coding import decoded_rows
from attnprobe.report.page import embedded
from attnprobe.store import open_run
from tests.report.hostile import IMAGE, SCRIPT, make_hostile_run
from tests.store.builders import make_run

SCORES = [
    {
        "style": "coarse", "split": "seen", "n": 6, "pass_rate": 0.5, "pass_low": 0.19,
        "pass_high": 0.81, "chance": 0.01, "coarse_rate": None, "coarse_low": None,
        "coarse_high": None, "coarse_chance": None, "parsed": 1.0,
    }
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with open_run(make_hostile_run(tmp_path_factory.mktemp("report") / "run <b>")) as opened:
        yield opened


@pytest.fixture(scope="module")
def payload(run):
    found = contrast(run, a="coarse", b="stepwise")
    passed = {name: number % 2 == 0 for number, name in enumerate(run.records.index)}
    findings = Findings("coarse", "stepwise", contrast=found, scores=SCORES, passed=passed)
    return Payload(run, findings)


@pytest.fixture(scope="module")
def report(payload, tmp_path_factory):
    return write_report(payload, tmp_path_factory.mktemp("page") / "report.html")


def opened(watched, path, address=""):
    """Open a report and wait until it is drawn."""
    watched.page.goto(f"file://{path}{address}")
    watched.page.wait_for_selector("body[data-ready]")
    return watched.page


def click_head(page, grid, layer, head):
    """Click the middle of a cell of the grid."""
    box = page.locator("#grid .nsewdrag").first.bounding_box()
    x = (grid["heads"].index(head) + 0.5) / len(grid["heads"]) * box["width"]
    y = (grid["layers"].index(layer) + 0.5) / len(grid["layers"]) * box["height"]
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.mouse.click(box["x"] + x, box["y"] + y)
    page.wait_for_selector(f'body[data-head="{layer}.{head}"]')


def strengths(page, side=0):
    """How strongly each token of a side is coloured, by position."""
    return page.evaluate(
        """side => Object.fromEntries([...document.querySelectorAll('.side')[side]
        .querySelectorAll('.token')].map(t => [t.dataset.position,
        Number((t.style.backgroundColor.match(/, ([0-9.]+)\\)/) ?? [0, 0])[1])]))""",
        side,
    )


def unhurt(watched, report):
    """Nothing was complained of, asked for elsewhere, or run that a record says."""
    assert watched.complaints == []
    assert watched.asked_elsewhere(f"file://{report}") == []
    assert watched.page.evaluate("window.hacked") is None


def test_a_click_on_a_head_shows_where_it_looks(watched, report, payload):
    page = opened(watched, report, "#lang=en")
    overview = payload.overview()
    grid, piece = overview["grid"], payload.head(1, 0)
    assert "heads differ between coarse and stepwise" in page.inner_text("#headline")
    assert "50 % (19–81)" in page.inner_text("#scores")
    assert page.inner_text("#title") == "attnprobe · run <b>"
    click_head(page, grid, 1, 0)
    assert page.inner_text("#head-title") == "Layer 1, Head 0"
    facts = page.inner_text("#head-facts")
    assert f"{grid['styles'][0][1][0]:.3g}".rstrip("0") in facts.replace("−", "-")
    drawn = page.evaluate("document.getElementById('segments').data.map(t => t.z)")
    rows = [i for i, row in enumerate(piece["segments"]["styles"][0])
            if any(part[i][j] is not None for part in piece["segments"]["styles"]
                   for j in range(len(row)))]  # fmt: skip
    shown = [v for i in rows for v in piece["segments"]["styles"][0][i] if v is not None]
    assert [v for row in drawn[0] for v in row if v is not None] == shown
    profile = page.evaluate("document.getElementById('profile').data.map(t => t.y)")
    assert profile == piece["profile"]["styles"]
    items = page.locator("#examples tbody tr td:first-child").all_inner_texts()
    assert items == [example["item"] for example in piece["examples"]]
    page.focus("#grid")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector('body[data-head="1.1"]')
    page.keyboard.press("ArrowUp")
    page.wait_for_selector('body[data-head="0.1"]')
    page.select_option("#head", "2")
    page.wait_for_selector('body[data-head="0.2"]')
    unhurt(watched, report)


def test_hovering_over_a_step_colours_what_it_looks_at(watched, report, payload):
    record = payload.head(1, 2)["examples"][0]["records"][0]
    page = opened(watched, report, f"#lang=en&record={record.replace('/', '%2F')}&head=1.2")
    encoding = payload.encodings[record]
    piece = payload.attention(record, 1, 2)
    rows = decoded_rows(piece, encoding.n_tokens)
    step = encoding.n_prompt + 1
    token = page.locator(f'.side >> nth=0 >> .token[data-position="{step}"]')
    token.hover()
    row = rows[piece["queries"].index(step - 1)].copy()
    seen = strengths(page)
    assert len(seen) == encoding.n_tokens
    row[list(encoding.sinks)] = 0
    row = np.nan_to_num(row)
    expected = 0.85 * np.sqrt(row / row.max())
    for position in range(4, encoding.n_tokens):
        wanted = expected[position] if expected[position] > 0.85 * 0.03 else 0
        assert seen[str(position)] == pytest.approx(wanted, abs=0.01)
    assert "Looks at:" in page.inner_text(".step-info >> nth=0")
    assert "log-probability −1.25 nat" in page.inner_text(".step-info >> nth=0")
    # the text of the record, and nothing but its text
    assert SCRIPT.strip() in page.inner_text(".side >> nth=0")
    assert IMAGE.strip() in page.inner_text(".side >> nth=0")
    assert page.locator(".tokens img, .tokens script, .tokens b").count() == 0
    # pinned, it stays; the arrow keys go on; the other style stands beside it
    token.click()
    page.mouse.move(5, 5)
    assert strengths(page) == seen
    page.keyboard.press("ArrowRight")
    assert page.locator(".token.current").get_attribute("data-position") == str(step + 1)
    assert page.locator(".side").count() == 2
    page.select_option("#by", "gradient")
    page.locator("#text-note", has_text="gradient").wait_for()
    scores = decoded_rows(payload.attribution(record, "gradient"), encoding.n_tokens)
    best = int(np.nanargmax(np.abs(np.where(np.arange(encoding.n_tokens) < 4, 0, scores[2]))))
    seen = strengths(page)
    assert max(seen, key=lambda p: seen[p] if int(p) > 3 else 0) == str(best)
    page.keyboard.press("Escape")
    assert set(strengths(page).values()) == {0}
    unhurt(watched, report)


def test_records_are_filtered_and_opened(watched, report, run):
    page = opened(watched, report, "#lang=en")
    assert page.inner_text("#count") == "24 of 24 records"
    page.select_option("#f-task", "task_3")
    page.select_option("#f-style", "stepwise")
    assert page.inner_text("#count") == "2 of 24 records"
    page.select_option("#f-passed", "failed")
    table = run.records
    wanted = table[(table.task == "task_3") & (table["style"] == "stepwise")].index
    assert page.locator("#table tbody tr").count() == len(wanted)
    page.select_option("#f-passed", "passed")
    assert page.inner_text("#count") == "0 of 24 records"
    page.click("#f-clear")
    page.fill("#f-id", "TASK5-001")
    assert page.locator("#table tbody tr").count() == 2
    page.locator("#table button").nth(1).click()
    page.wait_for_selector('body[data-record="task5-001/stepwise"]')
    titles = page.locator(".side h3").all_inner_texts()
    assert titles == [
        "coarse · task5-001/coarse · ✓ passed", "stepwise · task5-001/stepwise · ✗ failed"
    ]  # fmt: skip
    unhurt(watched, report)


def test_language_theme_downloads_and_links(watched, report, payload):
    page = opened(watched, report, "#lang=en&theme=light")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.select_option("#language", "zh")
    page.locator("#heads-h", has_text="注意力头").wait_for()
    assert page.get_attribute("html", "lang") == "zh-CN"
    page.select_option("#theme", "dark")
    page.wait_for_selector('html[data-theme="dark"]')
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.select_option("#view", "1")
    click_head(page, payload.overview()["grid"], 0, 1)
    tables = {}
    for name in ("grid", "segments", "profile", "records", "text"):
        with page.expect_download() as download:
            page.click(f'[data-csv="{name}"]')
        text = Path(download.value.path()).read_text(encoding="utf-8-sig")
        tables[name] = list(csv.DictReader(io.StringIO(text)))
        assert download.value.suggested_filename.endswith(".csv")
    estimates = [float(row["estimate"]) for row in tables["grid"]]
    assert estimates == pytest.approx(
        payload.findings.contrast.effects["estimate"].values.ravel(), rel=1e-3
    )
    assert {row["head"] for row in tables["segments"]} == {"1"}
    assert len(tables["records"]) == 24
    assert tables["profile"][0].keys() >= {"distance_from", "weight_coarse", "weight_stepwise"}
    assert len({row["record"] for row in tables["text"]}) == 2
    page.select_option("#f-split", "seen")
    steps = page.locator(".side >> nth=1 >> .token.step")
    steps.nth(2).click()
    link = page.evaluate("location.href")
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector("body[data-ready]")
    assert page.input_value("#language") == "zh"
    assert page.input_value("#view") == "1"
    assert page.input_value("#f-split") == "seen"
    assert page.get_attribute("body", "data-head") == "0.1"
    assert page.locator(".side >> nth=1 >> .token.current").count() == 1
    unhurt(watched, report)


def test_what_is_thinned_is_named_and_the_rest_works(watched, payload, tmp_path, monkeypatch):
    for share in ("RECORDS_SHARE", "HEADS_SHARE"):
        monkeypatch.setattr(f"attnprobe.report.writing.{share}", 1.0)
    heads = {f"{layer}.{head}": piece for (layer, head), piece in payload.heads().items()}
    texts = {name: payload.record(name) for name in payload.run.records.index}
    sizes = [len(embedded("", piece)) for piece in (payload.records(), heads, texts)]
    tables = sizes[0] + sizes[1] + sizes[2] * 3 // 4
    small = Budget(tables=tables, maps=9_000, strong_heads=1, examples=1, every_pairs=1)
    report = write_report(payload, tmp_path / "small.html", small)
    page = opened(watched, report, "#lang=en")
    thinned = page.inner_text("#thinned")
    assert re.search(
        r"Token maps: the mean over heads of \d+ of 24 records, all heads of \d", thinned
    )
    assert re.search(r"Texts: \d+ of 24 records", thinned)
    missing = page.evaluate(
        """async () => [...document.querySelectorAll('#table button')].at(-1).textContent"""
    )
    page.locator("#table button", has_text=missing).click()
    page.wait_for_selector(f'body[data-record="{missing}"]')
    said = page.inner_text("#sides")
    assert (
        f"The text of {missing} is not in this report, for its size; attnprobe view shows" in said
    )
    unhurt(watched, report)


def test_a_run_that_lacks_much_still_opens(watched, tmp_path):
    with open_run(make_run(tmp_path / "run", keep=("steps",), styles=("coarse",))) as run:
        notices = (
            Notice("one_style", {"style": "coarse"}),
            Notice("no_contrast", {"reason": "<b>"}),
        )
        report = write_report(
            Payload(run, Findings("coarse", notices=notices)), tmp_path / "report.html"
        )
    page = opened(watched, report, "#lang=en")
    said = page.inner_text("#notices")
    assert "Extract again with --keep rows to see where each token looks." in said
    assert "the model was shown the targets" in said.lower()
    assert "one style only (coarse)" in said
    assert "The styles were not compared. <b>" in said
    assert page.locator("#profile").is_hidden()
    assert page.locator("#segments").is_visible()
    page.locator("#examples button").first.click()
    page.locator("#text-note", has_text="--keep rows").wait_for()
    unhurt(watched, report)


def test_the_page_can_ask_for_nothing(report):
    text = report.read_text(encoding="utf-8")
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)[0].replace(
        "&#x27;", "'"
    )
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src" not in policy
    assert "unsafe-eval" not in policy
    assert not re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?!data:)', text)
    assert "connect-src &#x27;self&#x27;" in page_html("a run")
    assert SCRIPT not in text
    assert report.stat().st_size < 15e6
    assert len(re.findall("<script>(.*?)</script>", text, re.DOTALL)[0]) < 5e6


def test_all_words_are_there_in_both_languages(report):
    text = report.read_text(encoding="utf-8")
    words = json.loads(re.findall(r'data-piece="words">(.*?)</script>', text, re.DOTALL)[0])
    assert words["en"].keys() == words["zh"].keys()
    for name, english in words["en"].items():
        blanks = set(re.findall(r"\{\w+\}", english))
        assert set(re.findall(r"\{\w+\}", words["zh"][name])) == blanks, name
    own = text[text.rindex("<script>") :]
    asked = {*re.findall(r'data-(?:word|label)="(\w+)"', text), *re.findall(r"\bwords\.(\w+)", own)}
    assert asked <= words["en"].keys()
