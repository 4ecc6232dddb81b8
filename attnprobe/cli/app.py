"""The application object, its errors and exit codes, and what the commands share."""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from attnprobe import __version__
from attnprobe.errors import AttnprobeError, SelectionError

INTERRUPTED = 130


class _Group(TyperGroup):
    """Turn attnprobe's errors into a message on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except AttnprobeError as error:
            say(f"error: {error}")
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            say(
                "interrupted; a run or a training goes on where it was sealed when the same "
                "command is given again, everything else starts anew"
            )
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            say(f"error: {where}{error.strerror or error}")
            raise typer.Exit(AttnprobeError.exit_code) from error


app = typer.Typer(
    name="attnprobe",
    cls=_Group,
    help="Show where a causal language model looks while it predicts a sequence, over a dataset, "
    "and whether that differs between two ways of prompting.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"attnprobe {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options that every command has."""
    log = logging.getLogger("attnprobe")
    if not any(isinstance(handler, _Saying) for handler in log.handlers):
        log.addHandler(_Saying())
        log.setLevel(logging.INFO)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a C locale must not lose Chinese text
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # pyright: ignore


def say(words: str) -> None:
    """Print words for a person, to stderr."""
    print(words, file=sys.stderr, flush=True)


class _Saying(logging.Handler):
    """Says what the library logs: look-ups on the hub, and what could not be compared."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        say(record.getMessage())


def show_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print rows as a table, to stdout."""
    table = Table(title=title or None, title_justify="left")
    for name in rows[0] if rows else ():
        table.add_column(str(name), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console(soft_wrap=False).print(table)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Show records, or whatever is counted, per second."""
        return Text(f"{task.speed:.2f} {self.unit}/s" if task.speed else f"– {self.unit}/s")


@contextmanager
def progress_bar(title: str, unit: str = "records") -> Iterator[Callable[[int, int], None]]:
    """Show a bar with records (or another unit) per second and the time left, on stderr.

    Yields:
        A function to call with what is done and what there is in all.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    progress = Progress(*columns, console=Console(stderr=True))
    bar = progress.add_task(title, total=None)

    def update(done: int, total: int) -> None:
        if not progress.live.is_started:  # what was sealed before says nothing about the speed
            progress.reset(bar, total=total, completed=done)
            progress.start()
        progress.update(bar, completed=done, total=total)

    try:
        yield update
    finally:
        if progress.live.is_started:
            progress.stop()


def numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    """Read a selection such as `0,5-7`.

    Args:
        text: Numbers and ranges, separated by commas; both ends of a range belong to it.
        option: The option's name, for the error message.

    Returns:
        The numbers, ascending and once each; None for no selection.

    Raises:
        SelectionError: If the text is no selection.
    """
    if text is None:
        return None
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise SelectionError(
                "no selection of numbers", where=option, got=text, expected="such as 0,5-7"
            )
        if dash and int(last) < int(first):
            raise SelectionError("a range that runs backwards", where=option, got=part.strip())
        chosen |= set(range(int(first), int(last or first) + 1))
    return tuple(sorted(chosen))


def names(text: str | None) -> tuple[str, ...] | None:
    """Read names separated by commas; None for no selection."""
    if text is None:
        return None
    return tuple(name.strip() for name in text.split(",") if name.strip())


def attributions(
    asked: Sequence[str] | None,
) -> tuple[tuple[str, ...], dict[str, Mapping[str, Any]]]:
    """Read attribution methods with their settings: the names, and the settings of each."""
    if not asked:
        return (), {}
    from attnprobe.attribution import read_method

    read = [read_method(text) for text in asked]
    return tuple(name for name, _ in read), {name: given for name, given in read if given}
