"""Generated text cut into roles: spans over characters, found line by line."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from attnprobe.tasks.styles.numbers import NumberLine, number_line

UNPARSED = "unparsed"


@dataclass(frozen=True, slots=True)
class TextSpan:
    """A piece of generated text, the half-open character range `[start, stop)`, and its role.

    What a parser returns is in order and never overlaps; every character is either in one span or
    is whitespace between two, just as the joiner of a written record lies between segments.
    """

    start: int
    stop: int
    role: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text without the whitespace around it."""

    start: int
    stop: int
    text: str

    def span(self, role: str) -> TextSpan:
        """Give the whole line one role."""
        return TextSpan(self.start, self.stop, role)

    def numbers_span(self, found: NumberLine, count: int, role: str) -> TextSpan:
        """Give the first `count` numbers of the line a role."""
        numbers = found.numbers[:count]
        return TextSpan(self.start + numbers[0].start, self.start + numbers[-1].stop, role)


def lines_of(text: str) -> Iterator[Line]:
    """Yield the lines that are not blank."""
    start = 0
    for raw in text.split("\n"):
        stripped = raw.strip()
        if stripped:
            first = start + len(raw) - len(raw.lstrip())
            yield Line(first, first + len(stripped), stripped)
        start += len(raw) + 1


def answer_line(
    lines: Sequence[Line], horizon: int, labels: tuple[str, ...] = ("", "answer")
) -> tuple[int, NumberLine] | None:
    """Find the line that gives the answer.

    Args:
        lines: The lines to look at.
        horizon: How many numbers the answer has.
        labels: What the numbers may be called.

    Returns:
        Index and numbers of the first line with enough numbers, else of the first with any, else
        None.
    """
    short: tuple[int, NumberLine] | None = None
    for index, line in enumerate(lines):
        found = number_line(line.text)
        if found is None or found.label not in labels:
            continue
        if len(found.numbers) >= horizon:
            return index, found
        short = short or (index, found)
    return short


def cover(text: str, spans: Iterable[TextSpan]) -> tuple[TextSpan, ...]:
    """Order spans and give everything between them that is not whitespace the role `unparsed`."""
    covered: list[TextSpan] = []
    end = 0
    for span in sorted(spans, key=lambda span: span.start):
        covered += _gap(text, end, span.start)
        covered.append(span)
        end = span.stop
    return tuple(covered + _gap(text, end, len(text)))


def _gap(text: str, start: int, stop: int) -> list[TextSpan]:
    between = text[start:stop]
    kept = between.strip()
    if not kept:
        return []
    first = start + len(between) - len(between.lstrip())
    return [TextSpan(first, first + len(kept), UNPARSED)]
