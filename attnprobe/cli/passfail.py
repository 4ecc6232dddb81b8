"""`attnprobe passfail` and its figure."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnprobe.cli.analysis import Key, Measure, Query
from attnprobe.cli.app import app, say, show_table
from attnprobe.cli.files import check_table
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
from attnprobe.cli.runs import RunFolder, say_unfinished

if TYPE_CHECKING:
    from attnprobe.contrasts import PassFail
    from attnprobe.workflows.passfail import PassFailSettings

Style = Annotated[
    str | None, typer.Option(help="Style of the records; the run's only one by default.")
]
Outcome = Annotated[
    str,
    typer.Option(
        help="written: what the model wrote was right; shown: it would have predicted each token "
        "of the right answer that it was shown."
    ),
]
Difficulty = Annotated[
    str | None, typer.Option(help="Number in the records' meta that says how hard they are.")
]
NHeads = Annotated[int, typer.Option("--heads", help="Heads that a model is given.")]
Permutations = Annotated[int, typer.Option(help="Permutations behind the models' p-values.")]
Seed = Annotated[int, typer.Option(help="Seed of permutations and resamples.")]


@app.command()
def passfail(
    run: RunFolder,
    measure: Measure = "enrichment",
    query: Query = "answer",
    key: Key = "history",
    style: Style = None,
    outcome: Outcome = "written",
    difficulty: Difficulty = None,
    n_heads: NHeads = 10,
    permutations: Permutations = 200,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write the heads to .csv, .nc or .json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    top: Annotated[int, typer.Option(help="Heads in the table.")] = 10,
) -> None:
    """Tell passed from failed records by where heads look."""
    from attnprobe.contrasts import PredictionSettings
    from attnprobe.workflows.passfail import PassFailSettings

    check_table(out, ".csv", ".nc", ".json")
    prediction = PredictionSettings(n_heads=n_heads, n_permutations=permutations, seed=seed)
    result = _result(
        run,
        PassFailSettings(measure, query, key, style, outcome, difficulty, prediction=prediction),
    )
    if out is not None:
        say(f"wrote {result.save(out)}")
    if as_json:
        print(result.to_json())
        return
    print(result.verdict())
    rows = result.strongest(result.effects["p"].size)
    show_table(
        [_head(row) for row in rows[:top]],
        title=f"{min(top, len(rows))} of {len(rows)} tested heads, by adjusted p",
    )
    if result.models is not None:
        show_table(
            [_model(row) for row in result.models_table()], title="Passing predicted in new tasks"
        )


@plot.command("passfail")
def plot_passfail(
    run: RunFolder,
    out: FigureOut,
    measure: Measure = "enrichment",
    query: Query = "answer",
    key: Key = "history",
    style: Style = None,
    outcome: Outcome = "written",
    seed: Seed = 0,
    look: LookName = "paper",
    width_mm: Width = None,
    columns: Columns = None,
    data: Data = None,
) -> None:
    """Layers by heads: AUROC of passed against failed records, significant heads marked."""
    from attnprobe.contrasts import PredictionSettings
    from attnprobe.panels import pass_fail_panel
    from attnprobe.panels.notices import with_notice
    from attnprobe.store import open_run
    from attnprobe.workflows.passfail import PassFailSettings

    width = figure_width(look, width_mm, columns)
    seeded = PredictionSettings(seed=seed)
    result = _result(
        run,
        PassFailSettings(measure, query, key, style, outcome, prediction=seeded, models=False),
    )
    panel = pass_fail_panel(result)
    with open_run(run) as opened:
        panel = replace(panel, note=with_notice(panel.note, opened))
    write_figure(panel, out, look, width, data)


def _result(run: Path, settings: "PassFailSettings") -> "PassFail":
    from attnprobe.store import open_run
    from attnprobe.workflows.passfail import pass_fail

    with open_run(run) as opened:
        say_unfinished(opened)
        return pass_fail(opened, settings)


def _head(row: dict[str, Any]) -> dict[str, str]:
    """Word a row of heads for a screen; `--json` has all."""
    return {
        "layer": str(row["layer"]),
        "head": str(row["head"]),
        "AUROC": _interval(row),
        "p adjusted": f"{row['p_adjusted']:.2g}",
        "p of tasks": _number(row["p_tasks"]),
        "tasks above 0.5": f"{row['n_tasks_above']} of {row['n_tasks']}",
    }


def _model(row: dict[str, Any]) -> dict[str, str]:
    gain = f"{row['gain']:+.3f} ({row['gain_low']:+.3f} to {row['gain_high']:+.3f})"
    return {
        "model": row["model"],
        "AUROC": _interval(row),
        "p": f"{row['p']:.2g}",
        "more than baselines": "–" if row["gain"] != row["gain"] else gain.replace("-", "−"),
    }


def _interval(row: dict[str, Any]) -> str:
    return f"{row['auroc']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.2g}"
