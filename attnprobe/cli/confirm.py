"""`attnprobe confirm` and its figure."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from attnprobe.cli.analysis import Key, Measure, Query, StyleA, StyleB
from attnprobe.cli.app import app, names, progress_bar, say, show_table
from attnprobe.cli.causes import BatchSize, Device, OtherModel
from attnprobe.cli.files import check_table
from attnprobe.cli.models import TrustRemoteCode
from attnprobe.cli.plots import (
    Columns,
    Data,
    FigureOut,
    LookName,
    Width,
    figure_width,
    plot,
    write_figure,
)
from attnprobe.cli.runs import RunFolder, quiet_libraries, say_unfinished

SplitBy = Annotated[
    str,
    typer.Option(
        help="task: halves of whole tasks, 12 at least; item: halves of each task, about these "
        "only; auto."
    ),
]


@app.command()
def confirm(
    run: RunFolder,
    a: StyleA = "coarse",
    b: StyleB = "stepwise",
    measure: Measure = "enrichment",
    query: Query = "answer",
    key: Key = "history",
    by: SplitBy = "auto",
    top: Annotated[int, typer.Option(help="Heads to choose.")] = 5,
    draws: Annotated[int, typer.Option(help="Sets of random heads to hold them against.")] = 10,
    do: Annotated[str, typer.Option(help="knockout, ablation or both.")] = "knockout,ablation",
    mode: Annotated[
        str, typer.Option(help="Of ablation, what takes an output's place: mean, resample, zero.")
    ] = "mean",
    written: Annotated[
        bool, typer.Option("--written", help="Let the model write as well, for the pass rate.")
    ] = False,
    records: Annotated[
        int | None, typer.Option(help="Disturb at most so many records of each style.")
    ] = None,
    batch_size: BatchSize = 8,
    seed: Annotated[int, typer.Option(help="Of the split, random heads and resamples.")] = 0,
    model: OtherModel = None,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write heads to .csv, or all to .json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Choose heads on one half of the items; judge and disturb them on the other."""
    from attnprobe.store import open_run
    from attnprobe.workflows.confirm import ConfirmSettings
    from attnprobe.workflows.confirm import confirm as confirm_heads

    settings = ConfirmSettings(
        a=a, b=b, measure=measure, query=query, key=key, by=by, top=top, n_draws=draws,
        interventions=names(do) or (), mode=mode, written=written, records=records,
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    check_table(out, ".csv", ".json")
    quiet_libraries()
    with open_run(run) as opened, progress_bar(f"confirm {run.name}") as progress:
        say_unfinished(opened)
        found = confirm_heads(
            opened, settings, model, device=device, trust_remote_code=trust_remote_code,
            on_progress=progress,
        )  # fmt: skip
    if out is not None:
        say(f"wrote {found.save(out)}")
    if as_json:
        print(found.to_json())
        return
    print(found.verdict())
    show_table([_head(row) for row in found.heads_table()], title="Chosen heads on the other half")
    for outcome in dict.fromkeys(row["outcome"] for row in found.to_table()):
        rows = [_change(row) for row in found.to_table() if row["outcome"] == outcome]
        show_table(rows, title=f"What changes without them: {outcome.replace('_', ' ')}")


@plot.command("confirm")
def plot_confirm(
    confirmation: Annotated[
        Path,
        typer.Argument(help="What `confirm … -o confirmation.json` wrote.", metavar="CONFIRMATION"),
    ],
    out: FigureOut,
    outcome: Annotated[str, typer.Option(help="log_prob or passed.")] = "log_prob",
    look: LookName = "paper",
    width_mm: Width = None,
    columns: Columns = None,
    data: Data = None,
) -> None:
    """Chosen heads against random ones: what changes without them."""
    from attnprobe.contrasts.confirmation import read_confirmation
    from attnprobe.figures import draw_lines
    from attnprobe.panels import confirmation_panels

    width = figure_width(look, width_mm, columns)
    panels = confirmation_panels(read_confirmation(confirmation), outcome)
    write_figure(panels, out, look, width, data, partial(draw_lines, abreast=2))


def _head(row: dict[str, Any]) -> dict[str, str]:
    return {
        "layer": str(row["layer"]),
        "head": str(row["head"]),
        "where chosen": _number(row["first"]),
        "other half": _interval(row),
        "p adjusted": _number(row["p_adjusted"]),
    }


def _change(row: dict[str, Any]) -> dict[str, str]:
    return {
        "style": row["style"],
        "intervention": row["intervention"],
        "heads": row["heads"],
        "change": _interval(row),
        "p": _number(row["p_adjusted"]),
    }


def _interval(row: dict[str, Any]) -> str:
    return f"{_number(row['estimate'])} ({_number(row['low'])} to {_number(row['high'])})"


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3g}".replace("-", "−")
