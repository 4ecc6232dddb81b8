"""The styles by name, and a problem in a style as a record."""

from typing import Any

from attnprobe.errors import DatasetError, nearest
from attnprobe.tasks.styles.problem import Problem, coarse_text
from attnprobe.tasks.styles.writing import BaseStyle, Coarse, Direct, Filler, Stepwise, Style
from attnprobe.types import Record

STYLES: dict[str, Style] = {
    "direct": Direct(),
    "stepwise": Stepwise(),
    "coarse": Coarse(),
    "stepwise-filler": Filler(Stepwise(), "stepwise-filler"),
    "coarse-filler": Filler(Coarse(), "coarse-filler"),
}
"""Every style there is. Add your own under its name."""


def find_style(name: str) -> Style:
    """Look a style up by name.

    Raises:
        DatasetError: If there is none, with the nearest name.
    """
    if name not in STYLES:
        raise DatasetError("unknown style", got=f"'{name}'", fix=nearest(name, STYLES))
    return STYLES[name]


def style_of(record: Record) -> Style:
    """Return the style that reads a record's generated text.

    A style that is not registered, as in a JSONL file of the user's, is read by the order of the
    record's own target: one line of text for each line there, and the answer where `answer` is.
    """
    return STYLES.get(record.style) or _AsWritten()


def record_of(problem: Problem, style: str, *, split: str) -> Record:
    """Put a problem in a style.

    Args:
        problem: The problem.
        style: A name in `STYLES`.
        split: Which split the problem belongs to.

    Returns:
        A record with id `item/style`. Its meta holds `horizon`, `answer` (numbers), `language`,
        `coarse` (reading, size and the true coarse values under `answer`, None without any; all
        None where the reading does not fit the problem) and all that the problem carries.

    Raises:
        DatasetError: If the style is unknown or cannot write this problem.
    """
    prompt, target = find_style(style).write(problem)
    meta: dict[str, Any] = {
        "horizon": len(problem.answer),
        "answer": problem.values,
        "language": problem.language,
        "coarse": _coarse_meta(problem),
        **problem.meta,
    }
    return Record(
        id=f"{problem.item}/{style}",
        item=problem.item,
        style=style,
        prompt=prompt,
        target=target,
        task=problem.task,
        split=split,
        meta=meta,
    )


def _coarse_meta(problem: Problem) -> dict[str, Any] | None:
    try:
        return dict(coarse_text(problem).meta)
    except DatasetError:
        return None


class _AsWritten(BaseStyle):
    """A style known only from its records."""

    def write(self, problem: Problem) -> Any:
        """Refuse: there is nothing to write by."""
        raise DatasetError("style has no writer", where=problem.item, fix=nearest("", STYLES))
