"""`attnprobe knockout` and `attnprobe faithfulness`, and their figures."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnprobe.cli.analysis import By, Seed, checked_by
from attnprobe.cli.app import app, names, numbers, progress_bar, say, show_table
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

if TYPE_CHECKING:
    from attnprobe.contrasts import Changes

OtherModel = Annotated[
    str | None,
    typer.Option("-m", "--model", help="The run's model, if it is not found by its name there."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Records = Annotated[int | None, typer.Option(help="At most so many records of each style.")]
BatchSize = Annotated[int, typer.Option(help="Variants of a record that share a forward pass.")]
TableOut = Annotated[
    Path | None, typer.Option("-o", "--out", help="Write the table to .csv, or all to .json.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]


@app.command()
def knockout(
    run: RunFolder,
    query: Annotated[
        str, typer.Option("--from", help="Role of the predicted tokens that shall not look.")
    ] = "answer",
    keys: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Roles not to look at, each alone; history, or with --sweep all of prompts.",
        ),
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Such as 8-15; all by default.")] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Windows of layers, one after another.")
    ] = False,
    window: Annotated[int, typer.Option(help="Of --sweep: layers in a window.")] = 4,
    stride: Annotated[
        int | None, typer.Option(help="Of --sweep: layers between windows; its width by default.")
    ] = None,
    outcome: Annotated[
        str | None, typer.Option("--on", help="Role whose log-probability counts; as --from.")
    ] = None,
    written: Annotated[
        bool, typer.Option("--written", help="Let the model write as well, for the pass rate.")
    ] = False,
    random: Annotated[
        int, typer.Option(help="Random cuts of as many other keys, to hold each against; 0: none.")
    ] = 1,
    records: Records = None,
    batch_size: BatchSize = 8,
    by: By = "task",
    seed: Seed = 0,
    model: OtherModel = None,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    out: TableOut = None,
    as_json: AsJson = False,
) -> None:
    """Cut attention from one role to another, and see predictions change."""
    from attnprobe.store import open_run
    from attnprobe.workflows.choosing import chosen_records
    from attnprobe.workflows.knockout import KnockoutSettings, default_keys, knockout_changes

    check_table(out, ".csv", ".json")
    quiet_libraries()
    with open_run(run) as opened, progress_bar(f"knockout {run.name}") as progress:
        say_unfinished(opened)
        asked = names(keys) if keys is not None else ("history",)
        if keys is None and sweep:
            asked = default_keys(opened, chosen_records(opened, records))
        settings = KnockoutSettings(
            query=query, keys=asked or (), layers=numbers(layers, "--layers"),
            window=window if sweep else None, stride=stride, outcome=outcome, written=written,
            records=records, batch_size=batch_size, by=checked_by(by), seed=seed, n_random=random,
        )  # fmt: skip
        found = knockout_changes(
            opened, settings, model, device=device, trust_remote_code=trust_remote_code,
            on_progress=progress,
        )  # fmt: skip
    for why in found.settings.get("no_control", ()):
        say(f"not held against random cuts: {why}")
    _tell(found, out, as_json, _shown, "{title}: {name}")


@app.command()
def faithfulness(
    run: RunFolder,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Stored attribution, or attention; repeatable; all by default."),
    ] = None,
    perturbation: Annotated[
        list[str] | None,
        typer.Option(help="knockout, numbers or embedding; repeatable; all by default."),
    ] = None,
    outcome: Annotated[
        str, typer.Option("--on", help="Role whose log-probability counts.")
    ] = "answer",
    random: Annotated[int, typer.Option(help="Random rankings to hold methods against.")] = 3,
    records: Records = None,
    batch_size: BatchSize = 8,
    by: By = "task",
    seed: Seed = 0,
    model: OtherModel = None,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    out: TableOut = None,
    as_json: AsJson = False,
) -> None:
    """Take away what methods point at, and see whether predictions care."""
    from attnprobe.store import open_run
    from attnprobe.workflows.faithfulness import FaithfulnessSettings, faithfulness_changes
    from attnprobe.workflows.perturbing import PERTURBATIONS

    settings = FaithfulnessSettings(
        methods=tuple(method) if method else None,
        perturbations=tuple(perturbation or PERTURBATIONS), outcome=outcome, n_random=random,
        records=records, batch_size=batch_size, by=checked_by(by), seed=seed,
    )  # fmt: skip
    check_table(out, ".csv", ".json")
    quiet_libraries()
    with open_run(run) as opened, progress_bar(f"faithfulness {run.name}") as progress:
        say_unfinished(opened)
        found = faithfulness_changes(
            opened, settings, model, device=device, trust_remote_code=trust_remote_code,
            on_progress=progress,
        )  # fmt: skip
    _tell(found, out, as_json, _faithful, "{title}, by {name} (nats)")


@plot.command("faithfulness")
def plot_faithfulness(
    changes: Annotated[
        Path,
        typer.Argument(help="What `faithfulness … -o changes.json` wrote.", metavar="CHANGES"),
    ],
    out: FigureOut,
    perturbation: Annotated[str, typer.Option(help="knockout, numbers or embedding.")] = "knockout",
    curves: Annotated[
        bool,
        typer.Option("--curves", help="Instead: what is lost along the way, method by method."),
    ] = False,
    look: LookName = "paper",
    width_mm: Width = None,
    columns: Columns = None,
    data: Data = None,
) -> None:
    """Methods by metrics: how much better than random rankings."""
    if not curves:
        plot_knockout(changes, out, perturbation, look, width_mm, columns, data)
        return
    from attnprobe.contrasts import read_changes
    from attnprobe.figures import draw_lines
    from attnprobe.panels import curve_panels

    width = figure_width(look, width_mm, columns)
    panels = curve_panels(read_changes(changes), perturbation)
    write_figure(panels, out, look, width, data, partial(draw_lines, abreast=2))


@plot.command("knockout")
def plot_knockout(
    changes: Annotated[
        Path, typer.Argument(help="What `knockout … -o changes.json` wrote.", metavar="CHANGES")
    ],
    out: FigureOut,
    outcome: Annotated[
        str, typer.Option(help="log_prob, passed, or beyond_random: against random cuts.")
    ] = "log_prob",
    look: LookName = "paper",
    width_mm: Width = None,
    columns: Columns = None,
    data: Data = None,
) -> None:
    """Windows of layers by spans: what changes when attention is cut."""
    from attnprobe.contrasts import read_changes
    from attnprobe.panels import change_panels

    width = figure_width(look, width_mm, columns)
    panels = change_panels(read_changes(changes), outcome)
    write_figure(panels, out, look, width, data)


def _tell(
    found: "Changes",
    out: Path | None,
    as_json: bool,
    shown: Callable[[dict[str, Any]], dict[str, str]],
    title: str,
) -> None:
    """Print changes as JSON, or in a table for each outcome, and save them."""
    if as_json:
        print(found.to_json())
    else:
        for name in found.effects:
            rows = [shown(row) for row in found.to_table() if row[found.axes[2]] == name]
            show_table(rows, title=title.format(title=found.title, name=name.replace("_", " ")))
    if out is not None:
        say(f"wrote {found.save(out)}")


def _shown(row: dict[str, Any]) -> dict[str, str]:
    """Word a row of a knockout for a screen."""
    return {
        "style": row["style"],
        "layers": row["layers"],
        "keys": row["keys"],
        "before": _number(row["before"]),
        "change": _interval(row),
        "p": _number(row["p_adjusted"]),
        "n": str(row["n_items"]),
    }


def _faithful(row: dict[str, Any]) -> dict[str, str]:
    """Word a row of faithfulness for a screen."""
    return {
        "style": row["style"],
        "method": row["method"],
        "metric": row["metric"],
        "random": _number(row["before"]),
        "difference": _interval(row),
        "p": _number(row["p_adjusted"]),
    }


def _interval(row: dict[str, Any]) -> str:
    return f"{_number(row['estimate'])} ({_number(row['low'])} to {_number(row['high'])})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}".replace("-", "−")
