"""`attnprobe report`."""

from pathlib import Path
from typing import Annotated

import typer

from attnprobe.cli.analysis import By, Key, Measure, Query, Seed, checked_by
from attnprobe.cli.app import app, progress_bar, say
from attnprobe.cli.runs import RunFolder

StyleA = Annotated[
    str | None,
    typer.Option("--a", help="Style that positive differences favour; coarse, or the first."),
]
StyleB = Annotated[
    str | None, typer.Option("--b", help="Style it is held against; stepwise, or the next.")
]


@app.command()
def report(
    run: RunFolder,
    out: Annotated[Path, typer.Option("-o", "--out", help="The page: report.html.")],
    a: StyleA = None,
    b: StyleB = None,
    measure: Measure = "enrichment",
    query: Query = "answer",
    key: Key = "history",
    by: By = "task",
    seed: Seed = 0,
) -> None:
    """Write one page that opens the whole run: verdict, heads, records, texts. It works offline."""
    from attnprobe.report import write_report
    from attnprobe.store import open_run
    from attnprobe.workflows.reporting import ReportSettings, report_payload

    settings = ReportSettings(a, b, measure, query, key, checked_by(by), seed)
    with open_run(run) as opened:
        payload = report_payload(opened, settings)
        with progress_bar(f"report {run.name}") as progress:
            written = write_report(payload, out, on_progress=progress)
        if not opened.complete:
            say(f"{run} is not complete: {len(opened.records)} records so far")
    say(f"wrote {written} ({written.stat().st_size / 1e6:.1f} MB)")
