"""How fast a report opens, and how fast it answers a click.

    python scripts/bench_report.py [--records 1000] [--layers 30] [--heads 9] [--report FILE]

A synthetic run (random softmax rows, two styles, ten tasks) is written and its report made, or the
report of FILE is taken as it is; it is opened in Debian's Chromium and its heads are clicked. Load:
from the navigation until everything is drawn. Click: from the mouse button until the head's
figures, its examples and the coloured text are drawn and on the screen. Wall clock, and the CPU
time of the page's main thread beside it; let nothing else run meanwhile.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from attnprobe import store
from attnprobe.report import write_report
from attnprobe.store import open_run
from attnprobe.types import Encoding, Segment
from attnprobe.workflows.reporting import report_payload

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the runs of the tests

from tests.store.builders import causal_weights, make_capture, make_encoding, make_record

PER_CHUNK, TASKS, STYLES, HISTORY = 50, 10, ("coarse", "stepwise"), 40
LOADS, CLICKS = 5, 30
CLICKED = """() => {
  const body = document.body;
  window.clicks = [];
  addEventListener("pointerdown", () => { window.began = performance.now(); }, true);
  new MutationObserver(() => requestAnimationFrame(() => setTimeout(() =>
    body.dataset.clicks = window.clicks.push(performance.now() - window.began)))).observe(body,
    { attributes: true, attributeFilter: ["data-head"] });
}"""
"""Times each click up to the frame after the page says that the head is drawn."""


def encodings(n_records: int) -> Iterator[Encoding]:
    """Make records of some 60 tokens, pair by pair."""
    for number in range(n_records // len(STYLES)):
        task, item = number % TASKS, number // TASKS
        for style in STYLES:
            record = make_record(style, task, item, np.random.default_rng([task, item]))
            terms = Segment("history", " ".join(str((7 * i + number) % 90) for i in range(HISTORY)))
            prompt = tuple(terms if s.role == "history" else s for s in record.prompt)
            yield make_encoding(replace(record, prompt=prompt))


def write_run(path: Path, n_records: int, n_layers: int, n_heads: int) -> None:
    """Write a synthetic run, a chunk in memory at a time."""
    every = list(encodings(n_records))
    chunks = [every[i : i + PER_CHUNK] for i in range(0, len(every), PER_CHUNK)]
    writer = store.RunWriter.open(
        path,
        settings={"keep": ["rows"], "encoding": "u16", "seed": 0},
        model={"id": "synthetic", "n_layers": n_layers, "n_heads": n_heads},
        layers=tuple(range(n_layers)),
        heads=tuple(range(n_heads)),
        chunks=[[store.PlannedRecord.of(one) for one in chunk] for chunk in chunks],
    )
    for index in writer.missing():
        with writer.chunk(index) as sink:
            for place, encoding in enumerate(chunks[index]):
                rng = np.random.default_rng([index, place])
                boost = 1.0 if encoding.record.style == STYLES[0] else 0.0
                weights = causal_weights(encoding, n_layers, n_heads, rng, boost)
                sink.append(make_capture(encoding, weights))
    writer.complete()


def cpu_seconds(session: Any) -> float:
    """Return the CPU time of the page's main thread so far."""
    found = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    return found["TaskDuration"]


def opened(page: Page, report: Path) -> tuple[float, float, Any]:
    """Open the report; return wall and CPU seconds until all is drawn, and the session."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(report.resolve().as_uri())
    page.wait_for_selector("body[data-ready]", timeout=300_000)
    wall = page.evaluate("performance.getEntriesByName('ready')[0].startTime") / 1000
    return wall, cpu_seconds(session), session


def click_heads(page: Page, session: Any) -> tuple[list[float], float]:
    """Click heads all over the grid; return wall milliseconds of each, and CPU ms of all."""
    grid = page.evaluate("document.getElementById('grid').data[0].z.map(row => row.length)")
    page.evaluate(CLICKED)
    began = cpu_seconds(session)
    page.evaluate("document.getElementById('grid').scrollIntoView({ block: 'center' })")
    box = page.locator("#grid .nsewdrag").first.bounding_box()
    for number in range(CLICKS):
        row, column = (7 * number + 3) % len(grid), (5 * number + 1) % grid[0]
        page.mouse.move(
            box["x"] + (column + 0.5) / grid[0] * box["width"],
            box["y"] + (row + 0.5) / len(grid) * box["height"],
        )
        page.mouse.down()
        page.mouse.up()
        page.wait_for_selector(f'body[data-clicks="{number + 1}"]', timeout=60_000)
    used = 1000 * (cpu_seconds(session) - began) / CLICKS
    return page.evaluate("window.clicks"), used


def measure_page(report: Path) -> None:
    """Print how long the page takes to open and to answer."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise SystemExit("no Chromium to open the report with: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        loads = []
        for _ in range(LOADS):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            wall, cpu, session = opened(page, report)
            loads.append((wall, cpu))
            clicks, click_cpu = click_heads(page, session) if len(loads) == LOADS else ([], 0.0)
            page.close()
        browser.close()
    walls, cpus = zip(*loads, strict=True)
    print(f"load: median {statistics.median(walls):.2f} s of {LOADS}, worst {max(walls):.2f} s; "
          f"CPU {statistics.median(cpus):.2f} s (wanted: 2 s)")  # fmt: skip
    print(f"click: median {statistics.median(clicks):.0f} ms of {CLICKS}, worst "
          f"{max(clicks):.0f} ms; CPU {click_cpu:.0f} ms (wanted: 100 ms)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--report", type=Path, help="a report that is there already")
    asked = parser.parse_args()
    if asked.report:
        measure_page(asked.report)
        return
    with tempfile.TemporaryDirectory() as folder:
        run, report = Path(folder) / "run", Path(folder) / "report.html"
        write_run(run, asked.records, asked.layers, asked.heads)
        began = time.process_time()
        with open_run(run) as opened_run:
            write_report(report_payload(opened_run), report)
        print(f"{asked.records} records × {asked.layers * asked.heads} heads: "
              f"{report.stat().st_size / 1e6:.1f} MB, made in {time.process_time() - began:.0f} s "
              "of CPU")  # fmt: skip
        measure_page(report)


if __name__ == "__main__":
    main()
