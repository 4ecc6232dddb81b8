"""`attnprobe export` and `attnprobe merge`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from attnprobe.cli.app import app, progress_bar, say
from attnprobe.errors import FormatError, StoreError
from attnprobe.store.layout import MANIFEST

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is there, after a question.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Answer that question with yes.")]


@app.command("export")
def export_run(
    run: Annotated[Path, typer.Argument(help="A run's folder.", metavar="RUN")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file: .h5 or .nc, by its ending.")],
    overwrite: Overwrite = False,
    yes: Yes = False,
) -> None:
    """Write a run to one file: .h5 as it is stored, .nc decoded and labelled for xarray.

    Of an unfinished run, what is sealed.
    """
    from attnprobe.store.exporting import export

    confirm_overwrite(out, wanted=overwrite, yes=yes)
    with progress_bar(f"export {run.name}") as progress:
        written = export(run, out, overwrite=overwrite, on_progress=progress)
    if not written.complete:
        say(
            f"{run} is not finished: {written.n_chunks} of {written.n_planned} chunks are sealed, "
            "and only they are in the file"
        )
    say(f"{out}: {written.n_records} records, {out.stat().st_size / 1e6:.1f} MB")


@app.command("merge")
def merge_runs(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of finished runs, in this order.", metavar="RUN..."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the merged run.")],
    overwrite: Overwrite = False,
    yes: Yes = False,
) -> None:
    """Put runs of the same settings, but different records, together.

    The runs stay as they are. The same command again continues a merge that was interrupted.
    """
    from attnprobe.store.manifest import read_manifest
    from attnprobe.store.merging import merge

    confirm_overwrite(out, wanted=overwrite, yes=yes)
    with progress_bar(f"merge {out.name}") as progress:
        merge(runs, out, overwrite=overwrite, on_progress=progress)
    plan = read_manifest(out).plan
    say(f"{out}: {sum(map(len, plan))} records of {len(runs)} runs")


def confirm_overwrite(out: Path, *, wanted: bool, yes: bool) -> None:
    """Ask before something that is there is replaced.

    Raises:
        StoreError: If the answer is no, or there is nobody to ask.
    """
    if not wanted or yes or not out.exists():
        return
    held = _held(out)
    if not can_ask():
        raise StoreError(
            "nobody is there to be asked before it is replaced", where=str(out), got=held,
            fix="add --yes to replace it, or name another one",
        )  # fmt: skip
    if not typer.confirm(f"{out} holds {held}. Replace it?", err=True):
        raise StoreError("nothing was replaced", where=str(out), fix="name another one")


def can_ask() -> bool:
    """Whether a person sits at a terminal to answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _held(out: Path) -> str:
    """Say how much would be lost."""
    files = [file for file in (out.rglob("*") if out.is_dir() else [out]) if file.is_file()]
    size = f"{len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB"
    if not (out / MANIFEST).is_file():
        return size
    from attnprobe.store import open_run

    try:
        with open_run(out) as run:
            chunks, records = run.info()["chunks"], run.info()["records"]
    except FormatError:
        return f"a run that cannot be read, {size}"
    return (
        f"a run with {records['sealed']} of {records['planned']} records in {chunks['sealed']} "
        f"shards, {size}"
    )


def check_table(out: Path | None, *suffixes: str) -> None:
    """Refuse a place for a table that cannot be written to, before anything is computed."""
    from attnprobe.contrasts.saving import check_place

    if out is not None:
        check_place(out, "a table", suffixes)
