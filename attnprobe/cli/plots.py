"""`attnprobe plot`: figures of runs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnprobe.cli.analysis import (
    Against,
    By,
    Interaction,
    Key,
    Levels,
    Measure,
    OneStyle,
    Query,
    Scale,
    Seed,
    Sides,
    StyleA,
    StyleB,
    checked_by,
    compared,
    two_levels,
)
from attnprobe.cli.app import app, numbers, say
from attnprobe.cli.runs import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

plot = typer.Typer(
    help="Draw a figure: .png, .svg or .pdf, by the name's ending.",
    no_args_is_help=True, rich_markup_mode=None, add_completion=False,
)  # fmt: skip
app.add_typer(plot, name="plot")


def _figure_name(path: Path) -> Path:
    """Refuse a wrong ending before any work is done."""
    from attnprobe.figures.saving import check_figure_name

    return check_figure_name(path)


def _table_name(path: Path | None) -> Path | None:
    from attnprobe.panels.tables import check_table_name

    return None if path is None else check_table_name(path)


FigureOut = Annotated[
    Path,
    typer.Option("-o", "--out", help="fig.png, fig.svg or fig.pdf.", callback=_figure_name),
]
LookName = Annotated[str, typer.Option(help="paper or slides.")]
Width = Annotated[float | None, typer.Option(help="Width in mm; by the look if not given.")]
Columns = Annotated[
    int | None, typer.Option(help="Or: 1 or 2, the columns of a page that it takes.")
]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Write the figure's numbers to this .csv.", callback=_table_name),
]
Layers = Annotated[str | None, typer.Option(help="Such as 0,5-7; all by default.")]
Heads = Annotated[str | None, typer.Option(help="Such as 0,5-7; all by default.")]


def write_figure(
    panels: Any,
    out: Path,
    look: str,
    width: float | None,
    data: Path | None = None,
    draw: Callable[..., "Figure"] | None = None,
) -> None:
    """Draw panels, and write the figure and, if asked for, its numbers.

    Args:
        panels: One, or several of one kind.
        out: The figure.
        look: One of the looks.
        width: In mm, as `figure_width` gives it; by the look if None.
        data: Where to write the numbers.
        draw: What draws them; by their kind if None.
    """
    from attnprobe.figures import draw_any, save
    from attnprobe.panels import write_table

    say(f"wrote {save((draw or draw_any)(panels, look, width), out)}")
    if data is not None:
        say(f"wrote {write_table(panels, data)}")


def figure_width(look: str, width_mm: float | None, columns: int | None) -> float | None:
    """Return the width that was asked for, in mm or in columns; None for the look's own."""
    from attnprobe.figures.looks import chosen_width

    return chosen_width(look, width_mm, columns)


@plot.command()
def heads(
    run: RunFolder,
    out: FigureOut,
    a: StyleA = "coarse",
    b: StyleB = "stepwise",
    measure: Measure = "enrichment",
    query: Query = "answer",
    key: Key = "history",
    by: By = "task",
    interaction: Interaction = None,
    levels: Levels = "seen,unseen",
    scale: Scale = "difference",
    against: Against = None,
    style: OneStyle = None,
    seed: Seed = 0,
    look: LookName = "paper",
    width_mm: Width = None,
    columns: Columns = None,
    data: Data = None,
) -> None:
    """Layers by heads: where two styles or models differ, significant heads marked."""
    from attnprobe.panels import head_panel, unfinished

    width = figure_width(look, width_mm, columns)
    asked = {
        "measure": measure, "query": query, "key": key, "by": checked_by(by), "rng": seed,
        "interaction": interaction, "levels": two_levels(levels), "scale": scale,
    }  # fmt: skip
    with compared(run, (a, b), Sides(style, against), asked) as (result, opened):
        panel = head_panel(result, notice=unfinished(opened))
    write_figure(panel, out, look, width, data)


@plot.command()
def segments(
    run: RunFolder,
    out: FigureOut,
    a: StyleA = "coarse",
    b: StyleB = "stepwise",
    measure: Measure = "enrichment",
    layers: Layers = None,
    heads: Heads = None,
    look: LookName = "paper",
    width_mm: Width = None,
    columns: Columns = None,
    data: Data = None,
) -> None:
    """Query roles by key roles: each style, and their difference."""
    from attnprobe.panels import segment_panels
    from attnprobe.store import open_run

    width = figure_width(look, width_mm, columns)
    with open_run(run) as opened:
        panels = segment_panels(
            opened, a, b, measure,
            layer=numbers(layers, "--layers"), head=numbers(heads, "--heads"),
        )  # fmt: skip
    write_figure(panels, out, look, width, data)


@plot.command()
def training(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder of `attnprobe finetune`, or a training log.", metavar="TRAINING"
        ),
    ],
    out: FigureOut,
    look: LookName = "paper",
    width_mm: Width = None,
    columns: Columns = None,
    data: Data = None,
) -> None:
    """Losses and pass rates of a training, by tokens or steps."""
    from attnprobe.panels import read_training_log, training_panels

    width = figure_width(look, width_mm, columns)
    write_figure(training_panels(read_training_log(source)), out, look, width, data)
