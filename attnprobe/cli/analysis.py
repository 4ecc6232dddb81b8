"""`attnprobe contrast`, and the options it shares with figures."""

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from attnprobe.cli.app import app, say, show_table
from attnprobe.cli.runs import RunFolder

StyleA = Annotated[str, typer.Option("--a", help="Style that positive differences favour.")]
StyleB = Annotated[str, typer.Option("--b", help="Style it is held against.")]
Measure = Annotated[str, typer.Option(help="mass, density, enrichment or sink_mass.")]
Query = Annotated[str, typer.Option(help="Role of the predicted tokens that look.")]
Key = Annotated[str, typer.Option(help="Role that is looked at.")]
By = Annotated[
    str, typer.Option(help="task: claims about new tasks; item: about these tasks only.")
]
Seed = Annotated[int, typer.Option(help="Seed of flips and resamples.")]


@app.command()
def contrast(
    run: RunFolder,
    a: StyleA = "coarse",
    b: StyleB = "stepwise",
    measure: Measure = "enrichment",
    query: Query = "answer",
    key: Key = "history",
    by: By = "task",
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write the heads to .csv, .nc or .json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the heads as JSON.")] = False,
    top: Annotated[int, typer.Option(help="Heads in the table.")] = 10,
) -> None:
    """Compare two styles head by head, and say what can be claimed."""
    from attnprobe.contrasts import contrast as compare_styles
    from attnprobe.store import open_run

    with open_run(run) as opened:
        result = compare_styles(
            opened, a=a, b=b, measure=measure, query=query, key=key, by=checked_by(by), rng=seed
        )
    if out is not None:
        say(f"wrote {result.save(out)}")
    if as_json:
        print(result.to_json())
        return
    print(result.verdict())
    rows = [row for row in result.to_table() if not math.isnan(row["p_adjusted"])]
    rows.sort(key=lambda row: (row["p_adjusted"], -abs(row["estimate"])))
    show_table(
        rows[:top], title=f"{min(top, len(rows))} of {len(rows)} tested heads, by adjusted p"
    )


def checked_by(by: str) -> Literal["task", "item"]:
    """Check the unit of inference that was asked for."""
    from attnprobe.errors import SelectionError

    if by == "task" or by == "item":
        return by
    raise SelectionError("unknown unit of inference", where="--by", got=by, expected="task or item")
