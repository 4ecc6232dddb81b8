"""What an analysis may take: which records, how many of them, which measures."""

from collections.abc import Sequence

from attnprobe.contrasts.inference import MIN_UNITS
from attnprobe.errors import ContrastError, RecordError, SelectionError
from attnprobe.measures import Measure, find_measure
from attnprobe.store import Run


def chosen_records(run: Run, most: int | None, ids: Sequence[str] | None = None) -> list[str]:
    """List the ids of some records of each style, as many of every task as of the others.

    Args:
        run: An open run.
        most: Records of each style; None for all.
        ids: Records to choose among; None for all of the run.

    Returns:
        Ids, in the order that they were given in, or of the run.

    Raises:
        RecordError: If there are none.
    """
    table = run.records if ids is None else run.records.loc[list(ids)]
    if not len(table):
        raise RecordError("the run has no records yet", where=str(run.path))
    if most is None:
        return [str(one) for one in table.index]
    turn = table.groupby(["style", "task"], sort=False).cumcount()
    in_turn = table.assign(turn=turn).sort_values("turn", kind="stable")
    chosen = set(in_turn.groupby("style", sort=False).head(most).index)
    return [str(one) for one in table.index if one in chosen]


def require_units(run: Run, ids: Sequence[str], by: str) -> None:
    """Refuse records too few for any claim, before a model runs over them.

    Raises:
        ContrastError: If no style has enough tasks, or items.
    """
    table = run.records.loc[list(ids)]
    counted = table.groupby("style", sort=False)[by].nunique()
    if counted.max() >= MIN_UNITS:
        return
    claim = "carry a claim about new tasks" if by == "task" else "be tested"
    fix = "take more records (--records)"
    if by == "task":
        fix += ", add task families, or compare by item (--by item), on these tasks only"
    raise ContrastError(
        f"so few {by}s cannot {claim}", where="the chosen records",
        got=", ".join(f"{n} {by}s in '{style}'" for style, n in counted.items()),
        expected=f"at least {MIN_UNITS} {by}s in a style", fix=fix,
    )  # fmt: skip


def require_heads(name: str, what: str) -> Measure:
    """Find a measure by its name, and refuse one that does not tell heads apart.

    Args:
        name: Of the measure.
        what: What heads are needed for, for the message: `a report shows heads`.

    Raises:
        SelectionError: If there is no such measure, or it has no values for heads.
    """
    measure = find_measure(name)
    if measure.axes != ("layer", "head"):
        raise SelectionError(
            f"{what}, and this measure does not tell them apart", got=f"'{name}'",
            expected="a measure of every layer and head, such as enrichment or entropy",
        )  # fmt: skip
    return measure
