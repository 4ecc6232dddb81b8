"""`attnprobe plot map`, `attribution` and `steps`: figures of records, token by token."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnprobe.cli.app import names, numbers
from attnprobe.cli.plots import (
    Columns,
    Data,
    FigureOut,
    Heads,
    Layers,
    LookName,
    Width,
    figure_width,
    plot,
    write_figure,
)
from attnprobe.cli.runs import RunFolder

if TYPE_CHECKING:
    from attnprobe.store import Run

RecordId = Annotated[str | None, typer.Option(help="Id of the record.")]
ItemId = Annotated[str | None, typer.Option(help="Instead: all styles of this item.")]
Pair = Annotated[
    bool, typer.Option("--pair", help="With --record: the other styles of its item as well.")
]
Styles = Annotated[
    str | None, typer.Option(help="Of the item, such as coarse,stepwise; all by default.")
]


@plot.command("map")
def token_map(
    run: RunFolder,
    out: FigureOut,
    record: RecordId = None,
    item: ItemId = None,
    pair: Pair = False,
    styles: Styles = None,
    layers: Layers = None,
    heads: Heads = None,
    each: Annotated[
        bool, typer.Option("--each", help="A map for each layer and head, not their mean.")
    ] = False,
    query: Annotated[
        str | None, typer.Option(help="Zoom in to rows that predict, or are of, this role.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Zoom in to columns of this role.")] = None,
    scale: Annotated[str, typer.Option(help="Of the colours: sqrt, log or linear.")] = "sqrt",
    look: LookName = "paper",
    width_mm: Width = None,
    columns: Columns = None,
    data: Data = None,
) -> None:
    """Token by token: where heads look in one record, or in all styles of an item."""
    from attnprobe.panels import map_panels
    from attnprobe.store import open_run

    width = figure_width(look, width_mm, columns)
    with open_run(run) as opened:
        ids = _chosen_records(opened, "plot map", record, item, styles, pair=pair)
        panels = map_panels(
            opened, ids, numbers(layers, "--layers"), numbers(heads, "--heads"),
            each=each, query=query, key=key, scale=scale,
        )  # fmt: skip
    write_figure(panels, out, look, width, data)


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
    form: Annotated[
        str, typer.Option("--as", help="map: steps by tokens; text: the text on coloured ground.")
    ] = "map",
    look: LookName = "paper",
    width_mm: Width = None,
    columns: Columns = None,
    data: Data = None,
) -> None:
    """What predicted tokens owe to others: by token and segment, or as text."""
    from attnprobe.panels import attribution_panel, attribution_texts
    from attnprobe.store import open_run

    arrange = _one_of("--as", form, {"map": attribution_panel, "text": attribution_texts})
    width = figure_width(look, width_mm, columns)
    with open_run(run) as opened:
        ids = _chosen_records(opened, "plot attribution", record, item, styles, pair=pair)
        panels = arrange(opened, ids, method, query, scale=scale)
    write_figure(panels, out, look, width, data)


@plot.command()
def steps(
    run: RunFolder,
    out: FigureOut,
    styles: Annotated[
        str | None, typer.Option(help="Such as coarse,stepwise; all by default.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="passed: answers that pass and that fail, side by side.")
    ] = None,
    record: Annotated[str | None, typer.Option(help="Instead of the mean: one record.")] = None,
    item: Annotated[
        str | None, typer.Option(help="Instead of the mean: all styles of this item.")
    ] = None,
    query: Annotated[
        str | None, typer.Option(help="Role of the predicted tokens to show; all by default.")
    ] = None,
    layers: Layers = None,
    heads: Heads = None,
    form: Annotated[
        str, typer.Option("--as", help="areas: shares stacked to the whole; lines: one for each.")
    ] = "areas",
    look: LookName = "paper",
    width_mm: Width = None,
    columns: Columns = None,
    data: Data = None,
) -> None:
    """How the attention of each predicted token divides over the segments."""
    from attnprobe.errors import SelectionError
    from attnprobe.figures import draw_lines
    from attnprobe.panels import record_step_panels, step_panels
    from attnprobe.store import open_run
    from attnprobe.workflows.score import passed_records

    width = figure_width(look, width_mm, columns)
    _one_of("--by", by, {None: None, "passed": None})
    if by is not None and (record or item):
        raise SelectionError(
            "a single answer is not divided by --by", where="plot steps",
            fix="leave out --by, or --record and --item",
        )  # fmt: skip
    chosen = {
        "query": query, "layer": numbers(layers, "--layers"), "head": numbers(heads, "--heads"),
        "stacked": _one_of("--as", form, {"areas": True, "lines": False}),
    }  # fmt: skip
    with open_run(run) as opened:
        if record or item:
            ids = _chosen_records(opened, "plot steps", record, item, styles, pair=False)
            panels = record_step_panels(opened, ids, **chosen)
        else:
            passed = passed_records(opened) if by else None
            panels = step_panels(opened, names(styles), passed=passed, **chosen)
    draw = partial(draw_lines, abreast=2 if by else 1)
    write_figure(panels, out, look, width, data, draw)


def _one_of(option: str, asked: str | None, known: Mapping[str | None, Any]) -> Any:
    """Look up what an option names."""
    from attnprobe.errors import SelectionError

    if asked not in known:
        raise SelectionError(
            "no such choice", where=option, got=f"'{asked}'",
            expected=" or ".join(filter(None, known)),
        )  # fmt: skip
    return known[asked]


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
