"""The records of one problem, in the styles it was written in."""

from collections.abc import Iterable, Sequence
from typing import Any

from attnprobe.errors import SelectionError, nearest


def item_records(
    run: Any,
    record: str | None = None,
    item: str | None = None,
    styles: Sequence[str] | None = None,
) -> tuple[str, ...]:
    """Find the records of one problem in all its styles.

    Args:
        run: An open run.
        record: One of the records; it comes first. Or:
        item: The problem.
        styles: Which styles, in this order; all the item has by default.

    Returns:
        Record ids, of two styles at least.

    Raises:
        SelectionError: If the record, the item or a second style is not there.
    """
    if (record is None) == (item is None):
        raise SelectionError("name either a record or an item")
    table, where = run.records, str(run.path)
    if record is not None:
        item = str(table["item"][_known(record, table.index, "record", where)])
    members = table["style"][table["item"] == _known(str(item), table["item"], "item", where)]
    first = [name for name in members.index if name == record]
    rest = [name for name in members.index if name != record]
    there: dict[str, str] = {}
    for name in (*first, *rest):
        there.setdefault(str(members[name]), str(name))
    for style in styles or ():
        if style not in there:
            raise SelectionError(
                f"item '{item}' has no style '{style}'", where=where, fix=nearest(style, there)
            )
    wanted = list(styles or there)
    if len(set(wanted)) < 2:
        raise SelectionError(
            f"item '{item}' has no second style", where=where, got=", ".join(there),
            fix="leave out --pair, or name an item that has two styles",
        )  # fmt: skip
    return tuple(there[style] for style in wanted)


def _known(name: str, there: Iterable[str], what: str, where: str) -> str:
    names = set(there)
    if name not in names:
        raise SelectionError(f"no {what} '{name}'", where=where, fix=nearest(name, names))
    return name
