"""`attnprobe contrast`, and the options it shares with figures."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attnprobe.cli.app import app, say, show_table
from attnprobe.cli.files import check_table
from attnprobe.cli.runs import RunFolder

if TYPE_CHECKING:
    from attnprobe.contrasts import Contrast
    from attnprobe.store import Run

StyleA = Annotated[str, typer.Option("--a", help="Style that positive differences favour.")]
StyleB = Annotated[str, typer.Option("--b", help="Style it is held against.")]
Measure = Annotated[
    str, typer.Option(help="Name of a measure, such as enrichment, mass or entropy.")
]
Query = Annotated[str, typer.Option(help="Role of the predicted tokens that look.")]
Key = Annotated[str, typer.Option(help="Role that is looked at.")]
By = Annotated[
    str, typer.Option(help="task: claims about new tasks; item: about these tasks only.")
]
Seed = Annotated[int, typer.Option(help="Seed of flips and resamples.")]


Over = Annotated[
    str,
    typer.Option(
        help="head; layer, means over heads; span, every query role by every key role; or whole."
    ),
]
Interaction = Annotated[
    str | None,
    typer.Option(
        help="Column of the records, such as split: is the difference another in one group of "
        "them than in another?"
    ),
]
Levels = Annotated[str, typer.Option(help="The two groups of --interaction.")]
Scale = Annotated[str, typer.Option(help="difference, or log-ratio for measures of amounts.")]
Screening = Annotated[str, typer.Option(help="False discovery rate of q: bh, or by.")]
Against = Annotated[
    Path | None,
    typer.Option(
        help="Another run of the same records: compare the two models, in --style, or in the "
        "difference between --a and --b."
    ),
]
OneStyle = Annotated[
    str | None, typer.Option("--style", help="With --against: the style to compare them in.")
]
RunOfB = Annotated[
    Path | None, typer.Option("--b-run", help="Run of the same model that holds style b.")
]
Filler = Annotated[
    str, typer.Option(help="Roles of the text that stands in for a key that one style lacks.")
]
Methods = Annotated[
    str | None, typer.Option(help="Print a methods paragraph for a paper as well: en or zh.")
]


@app.command()
def contrast(
    run: RunFolder,
    a: StyleA = "coarse",
    b: StyleB = "stepwise",
    measure: Measure = "enrichment",
    query: Query = "answer",
    key: Key = "history",
    by: By = "task",
    over: Over = "head",
    interaction: Interaction = None,
    levels: Levels = "seen,unseen",
    scale: Scale = "difference",
    screening: Screening = "bh",
    against: Against = None,
    style: OneStyle = None,
    b_run: RunOfB = None,
    filler: Filler = "*",
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write the heads to .csv, .nc or .json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the heads as JSON.")] = False,
    methods: Methods = None,
    top: Annotated[int, typer.Option(help="Heads in the table.")] = 10,
) -> None:
    """Compare two styles, or two models, head by head, and say what can be claimed."""
    common = {
        "measure": measure, "query": query, "key": key, "by": checked_by(by), "over": over,
        "interaction": interaction, "levels": two_levels(levels), "scale": scale,
        "screening": screening, "rng": seed,
    }  # fmt: skip
    options = Sides(style, against, b_run, filler)
    check_table(out, ".csv", ".nc", ".json")
    with compared(run, (a, b), options, common) as (result, _):
        pass
    if out is not None:
        say(f"wrote {result.save(out)}")
    if as_json:
        print(result.to_json())
        return
    print(result.verdict())
    if methods is not None:
        print(f"\n{result.methods(methods)}")
    rows = [row for row in result.to_table() if not math.isnan(row["p_adjusted"])]
    rows.sort(key=lambda row: (row["p_adjusted"], -abs(row["estimate"])))
    shown = [_shown(row) for row in rows[:top]]
    things = {"head": "heads", "layer": "layers", "span": "span pairs"}.get(result.over, "values")
    show_table(shown, title=f"{len(shown)} of {len(rows)} tested {things}, by adjusted p")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Take what fits a screen of a row; -o and --json have all of it."""
    hidden = ("p", "n_tasks", *(("q",) if math.isnan(row["q"]) else ()))
    return {
        name: float(f"{value:.3g}") if isinstance(value, float) else value
        for name, value in row.items()
        if name not in hidden
    }


@dataclass(frozen=True, slots=True)
class Sides:
    """What is compared, beside the styles of one run."""

    style: str | None = None
    against: Path | None = None
    b_run: Path | None = None
    filler: str = "*"


@contextmanager
def compared(
    run: Path, styles: tuple[str, str], sides: Sides, common: dict[str, Any]
) -> Iterator[tuple["Contrast", "Run"]]:
    """Compare styles, or models; the run stays open meanwhile.

    Args:
        run: Folder of the run.
        styles: The two of them.
        sides: What else is compared.
        common: Other arguments of `contrast` and `contrast_runs`.

    Yields:
        The contrast, and the run.
    """
    from attnprobe.contrasts import contrast as compare_styles
    from attnprobe.contrasts import contrast_runs
    from attnprobe.errors import SelectionError
    from attnprobe.store import open_run

    style, against, b_run = sides.style, sides.against, sides.b_run
    if against is None:
        if style is not None:
            raise SelectionError(
                "one style is compared between two runs", where="--style", got="one run",
                fix="name the other run with --against",
            )  # fmt: skip
        with open_run(run) as opened, (
            nullcontext() if b_run is None else open_run(b_run)
        ) as second:  # fmt: skip
            a, b = styles
            found = compare_styles(opened, a=a, b=b, other=second, filler=sides.filler, **common)
            yield found, opened
        return
    if b_run is not None:
        raise SelectionError(
            "two models are compared, or two styles of one", where="--b-run", got="--against too",
            fix="leave one of them out",
        )  # fmt: skip
    with open_run(run) as opened, open_run(against) as other:
        chosen = {"style": style} if style is not None else {"a": styles[0], "b": styles[1]}
        yield contrast_runs(opened, other, **chosen, **common), opened


def two_levels(levels: str) -> tuple[str, str]:
    """Split the names of two groups."""
    from attnprobe.errors import SelectionError

    found = [level.strip() for level in levels.split(",")]
    if len(found) != 2 or not all(found):
        raise SelectionError(
            "two groups are compared", where="--levels", got=f"'{levels}'",
            expected="two names, such as seen,unseen",
        )  # fmt: skip
    return found[0], found[1]


def checked_by(by: str) -> Literal["task", "item"]:
    """Check the unit of inference that was asked for."""
    from attnprobe.errors import SelectionError

    if by == "task" or by == "item":
        return by
    raise SelectionError("unknown unit of inference", where="--by", got=by, expected="task or item")
