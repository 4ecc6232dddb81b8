"""`attnprobe plot`: figures of runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnprobe.cli.analysis import By, Key, Measure, Query, Seed, StyleA, StyleB, checked_by
from attnprobe.cli.app import app, names, numbers, say
from attnprobe.cli.runs import RunFolder

if TYPE_CHECKING:
    from attnprobe.store import Run

plot = typer.Typer(
    help="Draw a figure: .png, .svg or .pdf, by the name's ending.",
    no_args_is_help=True, rich_markup_mode=None, add_completion=False,
)  # fmt: skip
app.add_typer(plot, name="plot")

FigureOut = Annotated[Path, typer.Option("-o", "--out", help="fig.png, fig.svg or fig.pdf.")]
LookName = Annotated[str, typer.Option(help="paper or slides.")]
Width = Annotated[float | None, typer.Option(help="Width in mm; by the look if not given.")]

RecordId = Annotated[str | None, typer.Option(help="Id of the record.")]
ItemId = Annotated[str | None, typer.Option(help="Instead: all styles of this item.")]
Pair = Annotated[
    bool, typer.Option("--pair", help="With --record: the other styles of its item as well.")
]
Styles = Annotated[
    str | None, typer.Option(help="Of the item, such as coarse,stepwise; all by default.")
]


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
    seed: Seed = 0,
    look: LookName = "paper",
    width_mm: Width = None,
) -> None:
    """Layers by heads: where two styles differ, significant heads marked."""
    from attnprobe.contrasts import contrast as compare_styles
    from attnprobe.figures import draw, save
    from attnprobe.panels import head_panel
    from attnprobe.store import open_run

    with open_run(run) as opened:
        result = compare_styles(
            opened, a=a, b=b, measure=measure, query=query, key=key, by=checked_by(by), rng=seed
        )
    say(f"wrote {save(draw(head_panel(result), look, width_mm), out)}")


@plot.command()
def segments(
    run: RunFolder,
    out: FigureOut,
    a: StyleA = "coarse",
    b: StyleB = "stepwise",
    measure: Measure = "enrichment",
    layers: Annotated[str | None, typer.Option(help="Such as 0,5-7; all by default.")] = None,
    heads: Annotated[str | None, typer.Option(help="Such as 0,5-7; all by default.")] = None,
    look: LookName = "paper",
    width_mm: Width = None,
) -> None:
    """Query roles by key roles: each style, and their difference."""
    from attnprobe.figures import draw, save
    from attnprobe.panels import segment_panels
    from attnprobe.store import open_run

    with open_run(run) as opened:
        panels = segment_panels(
            opened, a, b, measure,
            layer=numbers(layers, "--layers"), head=numbers(heads, "--heads"),
        )  # fmt: skip
    say(f"wrote {save(draw(panels, look, width_mm), out)}")


@plot.command("map")
def token_map(
    run: RunFolder,
    out: FigureOut,
    record: RecordId = None,
    item: ItemId = None,
    pair: Pair = False,
    styles: Styles = None,
    layers: Annotated[str | None, typer.Option(help="Such as 0,5-7; all by default.")] = None,
    heads: Annotated[str | None, typer.Option(help="Such as 0,5-7; all by default.")] = None,
    each: Annotated[
        bool, typer.Option("--each", help="A map for each layer and head, not their mean.")
    ] = False,
    scale: Annotated[str, typer.Option(help="Of the colours: sqrt, log or linear.")] = "sqrt",
    look: LookName = "paper",
    width_mm: Width = None,
) -> None:
    """Token by token: where heads look in one record, or in all styles of an item."""
    from attnprobe.figures import draw_maps, save
    from attnprobe.panels import map_panels
    from attnprobe.store import open_run

    with open_run(run) as opened:
        ids = _chosen_records(opened, "plot map", record, item, styles, pair=pair)
        panels = map_panels(
            opened, ids, numbers(layers, "--layers"), numbers(heads, "--heads"),
            each=each, scale=scale,
        )  # fmt: skip
    say(f"wrote {save(draw_maps(panels, look, width_mm), out)}")


@plot.command()
def attribution(
    run: RunFolder,
    out: FigureOut,
    record: RecordId = None,
    item: ItemId = None,
    pair: Pair = False,
    styles: Styles = None,
    method: Annotated[
        str | None, typer.Option(help="Attribution method; the run's only one by default.")
    ] = None,
    query: Annotated[
        str | None, typer.Option(help="Role of the predicted tokens to show; all by default.")
    ] = None,
    scale: Annotated[str, typer.Option(help="Of the colours: sqrt or linear.")] = "sqrt",
    look: LookName = "paper",
    width_mm: Width = None,
) -> None:
    """Predicted tokens by the tokens they owe themselves to, and sums by segment."""
    from attnprobe.figures import draw_attribution, save
    from attnprobe.panels import attribution_panel
    from attnprobe.store import open_run

    with open_run(run) as opened:
        ids = _chosen_records(opened, "plot attribution", record, item, styles, pair=pair)
        panel = attribution_panel(opened, ids, method, query, scale=scale)
    say(f"wrote {save(draw_attribution(panel, look, width_mm), out)}")


def _chosen_records(
    opened: "Run",
    command: str,
    record: str | None,
    item: str | None,
    styles: str | None,
    *,
    pair: bool,
) -> tuple[str, ...]:
    """Find the record, or all records of an item, that a command was asked for."""
    from attnprobe.errors import SelectionError
    from attnprobe.panels import item_records

    if (record is None) == (item is None):
        raise SelectionError(
            "name one record or one item", where=command,
            got="both" if record else "neither", fix="use --record ID, or --item ITEM",
        )  # fmt: skip
    if pair or item is not None or styles is not None:
        return item_records(opened, record, item, names(styles))
    return (str(record),)
