"""`attnprobe demo`."""

from pathlib import Path
from typing import Annotated

import typer

from attnprobe.cli.app import app, progress_bar, say, show_table
from attnprobe.cli.runs import quiet_libraries


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for everything it makes.")] = (
        Path("attnprobe-demo")
    ),
    model: Annotated[
        str, typer.Option("-m", "--model", help="A known name, folder or hub id.")
    ] = "reference",
    decode: Annotated[
        str | None,
        typer.Option(
            help="greedy: the model writes; gold: it is shown the targets. "
            "greedy with the reference model, else gold."
        ),
    ] = None,
) -> None:
    """Run everything on a small dataset: 36 number sequences in two styles of prompting."""
    from attnprobe.cli.score import shown
    from attnprobe.workflows.demonstrate import demonstrate

    quiet_libraries()
    say(f"{model}: 36 problems of 6 families, each stepwise and coarse")
    with progress_bar("extract") as progress:
        result = demonstrate(out, model, decode, on_progress=progress)
    if result.scores:
        show_table([{"style": row["style"]} | shown(row) for row in result.scores])
    print(result.contrast.verdict())
    say("\nWhat was made:")
    for file in result.files:
        print(file)
