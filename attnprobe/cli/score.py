"""`attnprobe score`."""

import json
from typing import Annotated, Any

import typer

from attnprobe.cli.app import app, names, say, show_table
from attnprobe.cli.runs import RunFolder


@app.command()
def score(
    run: RunFolder,
    by: Annotated[
        str, typer.Option(help="What to break down by: style, split, task, language.")
    ] = "style,split",
    as_json: Annotated[bool, typer.Option("--json", help="Every column, as JSON.")] = False,
) -> None:
    """Score what the model wrote: pass rates with 95 % intervals, chance beside them, errors."""
    from attnprobe.store import open_run
    from attnprobe.workflows.score import score_run

    keys = names(by) or ()
    with open_run(run) as opened:
        rows = score_run(opened, keys)
        if not opened.complete:
            say(f"{run} is not complete: {len(opened.records)} records so far")
    if as_json:
        print(json.dumps(rows, ensure_ascii=False, allow_nan=False, indent=2))
        return
    show_table([{key: row[key] for key in keys} | shown(row) for row in rows])


def shown(row: dict[str, Any]) -> dict[str, str]:
    """Word the columns that fit a screen; `--json` has all."""
    return {
        "n": str(row["n"]),
        "fine": _rate(row, "pass"),
        "fine chance": _percent(row["chance"]),
        "coarse": _rate(row, "coarse"),
        "coarse chance": _percent(row["coarse_chance"]),
        "parsed": _percent(row["parsed"]),
    }


def _rate(row: dict[str, Any], which: str) -> str:
    if row[f"{which}_rate"] is None:
        return "–"
    low, high = (f"{100 * row[f'{which}_{end}']:.0f}" for end in ("low", "high"))
    return f"{_percent(row[f'{which}_rate'])} ({low}–{high})"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"
