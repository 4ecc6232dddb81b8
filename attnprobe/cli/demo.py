"""`attnprobe demo`."""

from pathlib import Path
from typing import Annotated

import typer

from attnprobe.cli.app import app, progress_bar, say
from attnprobe.cli.runs import quiet_libraries


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for everything it makes.")] = (
        Path("attnprobe-demo")
    ),
    model: Annotated[
        str, typer.Option("-m", "--model", help="A known name, folder or hub id.")
    ] = "smollm2-135m-instruct",
) -> None:
    """Run everything on a small dataset: 36 number sequences in two styles of prompting."""
    from attnprobe.workflows.demonstrate import demonstrate

    quiet_libraries()
    say(f"{model}: 36 problems of 6 families, each stepwise and coarse (the first time, "
        "the model is converted)")  # fmt: skip
    with progress_bar("extract") as progress:
        result = demonstrate(out, model, on_progress=progress)
    print(result.contrast.verdict())
    say("\nWhat was made:")
    for file in result.files:
        print(file)
