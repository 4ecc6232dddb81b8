"""An axis of tokens: what a reader sees of them, and the segments that they belong to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from attnprobe.errors import FigureError
from attnprobe.signs import visible
from attnprobe.types import Encoding, Span

LONGEST_LABEL = 12
"""Glyphs of a label, Chinese ones counted twice, beyond which its middle is left out."""
_PART = re.compile(r"(?s)(?P<text>.+)\[(?P<part>\d+)/(?P<of>\d+)\]")


@dataclass(frozen=True, slots=True)
class TokenLabel:
    """The text of the tokens `[start, stop)` of an axis, counted from its first token."""

    start: int
    stop: int
    text: str


@dataclass(frozen=True, slots=True)
class TokenAxis:
    """Tokens along one side of a figure."""

    name: str
    """What the tokens do here, for the axis title."""
    positions: tuple[int, ...]
    """Position of each token in its record."""
    labels: tuple[TokenLabel, ...]
    """What to write; tokens that share one character share a label."""
    spans: tuple[Span, ...]
    """Segments along the axis, counted from its first token; they cover all of it."""

    def __post_init__(self) -> None:
        edges = [0, *(span.stop for span in self.spans)]
        gapless = [span.start for span in self.spans] == edges[:-1]
        if not self.positions or not gapless or edges[-1] != len(self.positions):
            raise FigureError(
                "the spans do not cover the tokens of the axis", where=f"axis '{self.name}'",
                got=[(span.start, span.stop) for span in self.spans],
                expected=f"0 to {len(self.positions)} without gap or overlap",
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.positions)

    def named(self, place: int) -> tuple[int, str, str]:
        """Return position, text and role of one token of the axis."""
        label = next((one for one in self.labels if one.start <= place < one.stop), None)
        span = next(span for span in self.spans if span.start <= place < span.stop)
        return self.positions[place], label.text if label else "", span.role


def token_axis(encoding: Encoding, positions: Sequence[int], name: str) -> TokenAxis:
    """Lay some tokens of a record along an axis.

    Args:
        encoding: The record in tokens.
        positions: Which tokens, ascending.
        name: What they do there.

    Returns:
        The axis, with labels that show spaces and line breaks, and the segments.

    Raises:
        FigureError: If there is no token, or one is not in the record.
    """
    outside = [p for p in positions if not 0 <= p < encoding.n_tokens]
    if not positions or outside:
        raise FigureError(
            "an axis needs tokens of its record", where=f"record '{encoding.record.id}'",
            got=outside[0] if outside else "none", expected=f"0 to {encoding.n_tokens - 1}",
        )  # fmt: skip
    return TokenAxis(
        name=name,
        positions=tuple(int(p) for p in positions),
        labels=token_labels([encoding.texts[p] for p in positions]),
        spans=_spans(encoding.spans, positions),
    )


def token_labels(
    texts: Sequence[str], longest: int | None = LONGEST_LABEL
) -> tuple[TokenLabel, ...]:
    """Word the labels of consecutive tokens.

    A character that was split over several tokens (`求[1/3]`, `求[2/3]`, `求[3/3]`) gets one label
    over all of them; without its other parts, the part keeps its number.

    Args:
        texts: Of the tokens.
        longest: Width beyond which the middle of a label is left out; None to leave texts whole,
            with spaces as they are.
    """
    labels: list[TokenLabel] = []
    start = 0
    while start < len(texts):
        stop, text = _whole_character(texts, start)
        if longest is None:
            words = " ".join(map(visible, text.split(" ")))
        else:
            words = shortened(visible(text), longest)
        labels.append(TokenLabel(start, stop, words))
        start = stop
    return tuple(labels)


def shortened(text: str, longest: int = LONGEST_LABEL) -> str:
    """Leave out the middle of a long text."""
    if sum(map(glyph_width, text)) <= longest:
        return text
    half = (longest - 1) // 2
    return f"{_at_most(text, longest - 1 - half)}…{_at_most(text[::-1], half)[::-1]}"


def glyph_width(sign: str) -> int:
    """Return 2 for the wide signs of Chinese, Japanese and Korean, 1 for others."""
    return 2 if ord(sign) > 0x2E7F else 1


def _at_most(text: str, width: int) -> str:
    taken = 0
    for index, sign in enumerate(text):
        taken += glyph_width(sign)
        if taken > width:
            return text[:index]
    return text


def _whole_character(texts: Sequence[str], start: int) -> tuple[int, str]:
    """Find where the character that begins here ends, and its text."""
    first = _PART.fullmatch(texts[start])
    if first is None or first["part"] != "1":
        return start + 1, texts[start]
    n_parts = int(first["of"])
    parts = [_PART.fullmatch(text) for text in texts[start : start + n_parts]]
    numbers = [(part["part"], part["of"]) for part in parts if part]
    if numbers != [(str(1 + i), first["of"]) for i in range(n_parts)]:
        return start + 1, texts[start]
    return start + n_parts, first["text"]


def _spans(spans: Sequence[Span], positions: Sequence[int]) -> tuple[Span, ...]:
    """Cut spans down to the tokens that are shown, counted from the first of them."""
    holder = [next(i for i, s in enumerate(spans) if s.start <= p < s.stop) for p in positions]
    breaks = [i for i in range(1, len(holder)) if holder[i] != holder[i - 1]]
    edges = pairwise([0, *breaks, len(holder)])
    return tuple(Span(start, stop, spans[holder[start]].role) for start, stop in edges)
