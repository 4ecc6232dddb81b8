"""Whether records that are paired by name over two runs are of the same problem.

Names of items say which family a problem is of and which number it has, not which seed drew it, so
two datasets can give one name to different problems.
"""

from collections.abc import Sequence
from typing import Any

from attnprobe.contrasts.pairing import select_styles
from attnprobe.errors import ContrastError

_SHOWN = 60
"""Characters of a text that are shown."""


def require_same_prompts(
    run: Any, other: Any, styles: Sequence[str], ids: Sequence[str] | None
) -> None:
    """Refuse runs in which one item has different prompts in one style.

    Args:
        run: An open run.
        other: The run whose records are paired with its own.
        styles: Of the records that are compared.
        ids: Records that are compared; None for all.

    Raises:
        ContrastError: If no prompt of an item in a style is in both runs.
    """
    texts = [_texts(source, styles, ids) for source in (run, other)]
    for (item, style), own in texts[0].items():
        theirs = texts[1].get((item, style), own)
        if not own.keys() & theirs.keys():
            (text, record_id), (another, _) = next(iter(own.items())), next(iter(theirs.items()))
            place = next(
                (at for at, (a, b) in enumerate(zip(text, another, strict=False)) if a != b),
                min(len(text), len(another)),
            )
            shown = [_shown(one, max(0, place - _SHOWN // 2)) for one in (text, another)]
            raise ContrastError(
                "the two runs have different prompts under one name",
                where=f"record '{record_id}'", got=f"{shown[0]} and {shown[1]}",
                expected="the same records under two models",
                fix="extract both runs from one data file; names do not tell seeds apart",
            )  # fmt: skip


def require_same_answers(
    run: Any, other: Any, styles: Sequence[str], ids: Sequence[str] | None
) -> None:
    """Refuse two runs, of one style each, in which one item has different right answers.

    Args:
        run: An open run, of the first style.
        other: That of the second.
        styles: The two.
        ids: Records that are compared; None for all.

    Raises:
        ContrastError: If the records of an item say different answers.
    """
    first, second = (
        {str(run.records["item"][one]): one for one in select_styles(run, (style,), ids)}
        for run, style in zip((run, other), styles, strict=True)
    )
    for item in (one for one in first if one in second):
        answers = [
            source.encoding(one).record.meta.get("answer")
            for source, one in ((run, first[item]), (other, second[item]))
        ]
        if None not in answers and answers[0] != answers[1]:
            raise ContrastError(
                "the two runs have different problems under one name", where=f"item '{item}'",
                got=f"the answers {answers[0]} in '{styles[0]}' and {answers[1]} in '{styles[1]}'",
                expected="one problem in two styles",
                fix="make both styles from one dataset; names do not tell seeds apart",
            )  # fmt: skip


def _texts(
    run: Any, styles: Sequence[str], ids: Sequence[str] | None
) -> dict[tuple[str, str], dict[str, str]]:
    """Map item and style to prompts, and those to a record that has them."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    table = run.records
    for one in select_styles(run, styles, ids):
        key = str(table["item"][one]), str(table["style"][one])
        found.setdefault(key, {}).setdefault(run.encoding(one).record.prompt_text, one)
    return found


def _shown(text: str, start: int) -> str:
    cut = text[start : start + _SHOWN]
    return repr(("…" if start else "") + cut + ("…" if start + _SHOWN < len(text) else ""))
