"""`attnprobe dataset …`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnprobe.cli.app import app, names, say
from attnprobe.errors import DatasetError
from attnprobe.records import write_records
from attnprobe.types import Record

if TYPE_CHECKING:
    from attnprobe.tasks.styles import CoarseReading

dataset = typer.Typer(
    help="Make a dataset.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)
app.add_typer(dataset, name="dataset")

Out = Annotated[Path, typer.Option("-o", "--out", help="The JSON lines file to write.")]
Seed = Annotated[int, typer.Option(help="Same seed, same bytes.")]


@dataset.command()
def sequences(
    out: Out,
    seed: Seed = 0,
    train: Annotated[
        int | None,
        typer.Option(help="Write this many training problems per family, instead of the tests."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="seen, unseen-parameters or unseen; all three by default."),
    ] = None,
    families: Annotated[
        str | None, typer.Option(help="Names with commas; all of the split by default.")
    ] = None,
    styles: Annotated[
        str, typer.Option(help="direct, stepwise, coarse, stepwise-filler, coarse-filler.")
    ] = "direct,stepwise,coarse",
    items: Annotated[int, typer.Option(help="Problems of each family and split.")] = 20,
    history: Annotated[int, typer.Option(help="Terms that are given.")] = 12,
    horizon: Annotated[int, typer.Option(help="Terms that are asked for.")] = 3,
    digits: Annotated[int, typer.Option(help="Most digits of a value.")] = 5,
    decimals: Annotated[int, typer.Option(help="Digits after the point, real-valued.")] = 2,
    separator: Annotated[str, typer.Option(help="Text between two numbers.")] = " ",
    language: Annotated[str, typer.Option(help="Of the instruction: en or zh.")] = "en",
    coarse: Annotated[
        str, typer.Option(help="What coarse means: sums, means, bins or merge, and its size.")
    ] = "sums:3",
    demos: Annotated[
        str | None,
        typer.Option(help="Show solved training problems first: random, retrieval or cluster."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many of them.")] = 8,
    rationale: Annotated[
        str, typer.Option(help="Their rationales: gold, or a model that thinks step by step.")
    ] = "gold",
) -> None:
    """Number sequences of sixteen families, in several styles of prompting."""
    from attnprobe.tasks.sequences import SequenceSettings, generate, generate_tests
    from attnprobe.tasks.styles import NumberFormat

    settings = SequenceSettings(
        families=names(families),
        styles=names(styles) or (),
        split="train" if train is not None else split or _split_of(names(families)),
        n_per_family=items if train is None else train,
        seed=seed,
        history=history,
        horizon=horizon,
        number_format=NumberFormat(digits, decimals, separator),
        language=language,
        coarse=_coarse_reading(coarse),
    )
    every_split = train is None and split is None and families is None
    records = generate_tests(settings) if every_split else generate(settings)
    if demos is not None:
        pool = generate(replace(settings.for_split("train"), n_per_family=max(items, k)))
        records = _demonstrated(records, pool, (demos, k, seed), rationale)
    say(f"{out}: {write_records(records, out)} records")


@dataset.command()
def maths(
    out: Out,
    seed: Seed = 0,
    n: Annotated[int, typer.Option("--n", help="Problems, spread over the templates.")] = 1000,
    language: Annotated[str, typer.Option(help="en, zh, or both: each problem in both.")] = "en",
    templates: Annotated[
        str | None, typer.Option(help="Names with commas; all 44 by default.")
    ] = None,
    styles: Annotated[
        str, typer.Option(help="direct, stepwise, coarse, stepwise-filler, coarse-filler.")
    ] = "direct,stepwise,coarse",
    split: Annotated[str, typer.Option(help="train, seen, unseen or all.")] = "all",
    unseen: Annotated[
        bool,
        typer.Option("--unseen", help="Hold nine templates out of training: the split unseen."),
    ] = False,
    merge: Annotated[int, typer.Option(help="Steps that coarse merges into one.")] = 2,
    demos: Annotated[
        str | None,
        typer.Option(help="Show solved training problems first: random, retrieval or cluster."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many of them.")] = 8,
    rationale: Annotated[
        str, typer.Option(help="Their rationales: gold, or a model that thinks step by step.")
    ] = "gold",
) -> None:
    """Maths problems of 44 templates, 7 in 10 for training, in several styles of prompting."""
    from attnprobe.tasks.maths import HELD_OUT, MathsSettings, generate

    chosen = names(templates) or ()
    held_out = tuple(name for name in HELD_OUT if name in (chosen or HELD_OUT)) if unseen else ()
    if (unseen or split == "unseen") and not held_out:
        raise DatasetError(
            "no problem would be in the split 'unseen'",
            where="--unseen" if unseen else "--split unseen",
            fix=f"choose some of {', '.join(HELD_OUT)}" if unseen else "add --unseen",
        )
    settings = MathsSettings(
        n=n,
        language=language,
        styles=names(styles) or (),
        merge=merge,
        templates=chosen,
        unseen=held_out,
        splits=("train", "seen", "unseen") if split == "all" else (split,),
        seed=seed,
    )
    records = generate(settings)
    if demos is not None:
        pool = generate(replace(settings, splits=("train",)))
        records = _demonstrated(records, pool, (demos, k, seed), rationale)
    say(f"{out}: {write_records(records, out)} records")


def _demonstrated(
    records: Iterator[Record],
    pool: Iterator[Record],
    chosen: tuple[str, int, int],
    rationale: str,
) -> Iterator[Record]:
    from attnprobe.tasks.demonstrations import DemonstrationSettings

    settings = DemonstrationSettings(*chosen)
    if rationale == "gold":  # no model, no torch
        from attnprobe.tasks.demonstrations import with_demonstrations

        return with_demonstrations(records, pool, settings)
    from attnprobe.cli.runs import quiet_libraries
    from attnprobe.workflows.demonstrations import demonstrated

    quiet_libraries()
    return demonstrated(records, pool, settings, rationale)


def _split_of(families: tuple[str, ...] | None) -> str:
    """Choose the split that families named by the user belong to."""
    from attnprobe.tasks.sequences import find_family

    held_out = [find_family(name).held_out for name in families or ()]
    return "unseen" if held_out and all(held_out) else "seen"


def _coarse_reading(text: str) -> "CoarseReading":
    from attnprobe.tasks.styles import CoarseReading

    kind, _, size = text.partition(":")
    if size and not size.isdecimal():
        raise DatasetError("no size of a coarse reading", where="--coarse", got=text,
                           expected="such as sums:3")  # fmt: skip
    return CoarseReading(kind, int(size)) if size else CoarseReading(kind)
