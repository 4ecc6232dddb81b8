"""`attnprobe bertviz`."""

from pathlib import Path
from typing import Annotated

import typer

from attnprobe.cli.app import app, numbers, say
from attnprobe.cli.runs import RunFolder


@app.command("bertviz")
def bertviz_views(
    run: RunFolder,
    record: Annotated[str, typer.Option(help="Id of the record.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page, such as view.html.")],
    pair: Annotated[
        bool, typer.Option("--pair", help="The other styles of its item beside it.")
    ] = False,
    view: Annotated[
        list[str] | None, typer.Option(help="head or model; repeatable, both by default.")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Such as 0,5-7; all by default.")] = None,
    heads: Annotated[str | None, typer.Option(help="Such as 0,5-7; all by default.")] = None,
    steps: Annotated[
        bool, typer.Option("--steps", help="Only where the target's tokens are predicted.")
    ] = False,
) -> None:
    """Show a record in bertviz's head view and model view: one page, which opens offline.

    Of a run that keeps rows, they show where predicted tokens look; with --keep full, where every
    token looks. bertviz's neuron view needs queries and keys, which runs do not hold.
    """
    from attnprobe.panels import item_records
    from attnprobe.report.bertviz_page import save_bertviz
    from attnprobe.report.head_views import VIEWS, ViewSettings
    from attnprobe.store import open_run

    settings = ViewSettings(
        views=tuple(dict.fromkeys(view or VIEWS)),
        layers=numbers(layers, "--layers"),
        heads=numbers(heads, "--heads"),
        steps_only=steps,
    )
    with open_run(run) as opened:
        ids = item_records(opened, record) if pair else (record,)
        path = save_bertviz(opened, ids, out, settings)
    say(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB")
