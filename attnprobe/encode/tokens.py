"""What tokens of a record and of generated text have in common: labels, spans, readable texts."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from attnprobe.encode.marks import decode, is_fast, name_of, special_texts
from attnprobe.types import N_POSITION_SINKS, VIRTUAL_ID, Span

TEMPLATE = "template"
SPECIAL = "special"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

Label = tuple[int | None, str]
"""Index of the segment a token belongs to, None where it belongs to none, and its role."""


def readable_texts(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], text: str, tokenizer: Any
) -> tuple[str, ...]:
    """Give every token a text that can be read and drawn.

    Byte-level tokenizers split a rare character (most Chinese ones) over several tokens, none of
    which is text by itself. Such a token shows the whole character and which part of it it is:
    `求[1/3]`.

    Args:
        ids: Token ids.
        offsets: Half-open character range of each token in `text`.
        text: What was tokenized.
        tokenizer: To decode the ids.

    Returns:
        One text per token.
    """
    if is_fast(tokenizer):
        texts = {token: tokenizer.decode([token]) for token in set(ids)}
        decoded = [texts[token] for token in ids]
    else:  # tokens by themselves may lose their space, and marks all their text
        marks = special_texts(tokenizer)
        texts = {token: marks.get(token) or decode([token], tokenizer) for token in set(ids)}
        shown = [text[start:stop] for start, stop in offsets]
        decoded = [
            piece if piece and piece.strip() == texts[token].strip()
            else texts[token] or name_of(token, tokenizer)
            for token, piece in zip(ids, shown, strict=True)
        ]  # fmt: skip
    shares: dict[int, list[int]] = {}
    for index, (start, stop) in enumerate(offsets):
        if REPLACEMENT in decoded[index] and stop > start:
            shares.setdefault(stop - 1, []).append(index)
    for character, indices in shares.items():
        if len(indices) == 1 and text[character] == REPLACEMENT:
            continue  # the text itself holds the replacement character
        for part, index in enumerate(indices, start=1):
            start, stop = offsets[index]
            decoded[index] = f"{text[start:stop]}[{part}/{len(indices)}]"
    return tuple(decoded)


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids of tokens that are no text: BOS, EOS, chat marks and the like."""
    return set(special_texts(tokenizer))


def spans_of(labels: Sequence[Label], first: int = 0) -> tuple[Span, ...]:
    """Join neighbouring tokens of one segment.

    Args:
        labels: One per token.
        first: Position of the first of these tokens.

    Returns:
        A partition of the tokens.
    """
    spans: list[Span] = []
    for (_, role), members in groupby(labels):
        start = spans[-1].stop if spans else first
        spans.append(Span(start, start + len(list(members)), role))
    return tuple(spans)


def sinks_of(ids: Sequence[int], bos: int | None) -> tuple[int, ...]:
    """Return the positions set apart as sinks: the first four of the text, and every BOS."""
    first = list(ids).count(VIRTUAL_ID)
    return tuple(
        position
        for position, token in enumerate(ids)
        if first <= position < first + N_POSITION_SINKS or token == bos
    )
