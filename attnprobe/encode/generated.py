"""Tokens that a model wrote → text, roles and spans."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from attnprobe.encode.marks import decode
from attnprobe.encode.tokens import (
    REPLACEMENT,
    SPECIAL,
    TEMPLATE,
    Label,
    readable_texts,
    sinks_of,
    spans_of,
    special_ids,
)
from attnprobe.tasks.styles import style_of
from attnprobe.tasks.styles.parsing import UNPARSED
from attnprobe.types import Encoding, Record

_MAX_CONTEXT = 8
"""Tokens before the first generated one that may be needed to see where a character ends."""


def encode_generated(
    prompt: Encoding, ids: Sequence[int], tokenizer: Any, stops: Collection[int] = ()
) -> Encoding:
    """Add to a prompt what a model wrote after it.

    The text is cut into roles by the parser of the record's style. A token belongs to the role of
    its first character that is no whitespace; whitespace between roles is `template`, as joiners
    are, and what the parser passes over is `unparsed`. Special tokens are `special`; those at the
    end (EOS) leave no text.

    Args:
        prompt: As `encode_prompt` gives it.
        ids: Tokens that came out, one or more.
        tokenizer: The one that encoded the prompt.
        stops: Tokens that end a text, beside the tokenizer's special ones.

    Returns:
        The encoding of prompt and text, with the text under `generated`.
    """
    special = special_ids(tokenizer) | set(stops)
    end = len(ids)
    while end and ids[end - 1] in special:
        end -= 1
    text, offsets = text_with_offsets(prompt.given.tolist(), ids[:end], tokenizer)
    offsets += [(len(text), len(text))] * (len(ids) - end)
    labels = _labels(prompt.record, text, offsets, [token in special for token in ids])
    every = np.concatenate([prompt.ids, np.asarray(ids, np.int32)])
    return replace(
        prompt,
        ids=every,
        texts=prompt.texts + readable_texts(ids, offsets, text, tokenizer),
        spans=prompt.spans + spans_of(labels, first=prompt.n_tokens),
        sinks=sinks_of(every.tolist(), tokenizer.bos_token_id),
        generated=text,
    )


def text_with_offsets(
    before: Sequence[int], ids: Sequence[int], tokenizer: Any
) -> tuple[str, list[tuple[int, int]]]:
    """Decode tokens and say which characters each of them stands for.

    Tokens are decoded after the ones before them, because some tokenizers drop a leading space
    otherwise. Those that make up one character together share its range; a character that is cut
    off at the end is a replacement character.

    Args:
        before: Tokens of the prompt.
        ids: Tokens to decode.
        tokenizer: To decode them.

    Returns:
        The text, and the half-open character range of each token of `ids`.
    """
    text, offsets = "", []
    context, waiting = _context(before, tokenizer), []
    for position, token in enumerate(ids, start=1):
        waiting.append(token)
        piece = _continuation(context, waiting, tokenizer)
        if piece.endswith(REPLACEMENT) and position < len(ids):
            continue  # perhaps the first bytes of a character
        shares = _shares(context, waiting, piece, tokenizer)
        offsets += [(len(text) + start, len(text) + stop) for start, stop in shares]
        text += piece
        context, waiting = (waiting if piece else context + waiting), []
    return text, offsets


def _context(before: Sequence[int], tokenizer: Any) -> list[int]:
    """Return the last tokens of the prompt that are whole characters."""
    for count in range(1, _MAX_CONTEXT):
        if REPLACEMENT not in decode(before[-count:], tokenizer):
            return list(before[-count:])
    return list(before[-1:])


def _continuation(context: list[int], ids: list[int], tokenizer: Any) -> str:
    """Return what tokens add to the text of those before them."""
    known, whole = decode(context, tokenizer), decode(context + ids, tokenizer)
    # A byte that is no character yet can make some tokenizers give up the bytes before it, too.
    return whole[len(known) :] if whole.startswith(known) else decode(ids, tokenizer)


def _shares(
    context: list[int], ids: list[int], piece: str, tokenizer: Any
) -> list[tuple[int, int]]:
    """Return the range of `piece` that each of several tokens stands for."""
    settled, reached = [0], []
    for count in range(1, len(ids)):
        part = _continuation(context, ids[:count], tokenizer)
        settled.append(_common(part, piece))
        reached.append(settled[-1] + (settled[-1] < min(len(part), len(piece))))
    reached.append(len(piece))
    pairs = zip(settled, reached, strict=True)
    return [(start if start < stop else max(stop - 1, 0), stop) for start, stop in pairs]


def _common(one: str, other: str) -> int:
    """Return the length of the common beginning of two texts."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def _labels(
    record: Record, text: str, offsets: Sequence[tuple[int, int]], is_special: Sequence[bool]
) -> list[Label]:
    """Give each token its parsed segment's index and role."""
    at: list[Label] = [(None, TEMPLATE if c.isspace() else UNPARSED) for c in text]
    for index, span in enumerate(style_of(record).parse(text, record)):
        for character in range(max(span.start, 0), min(span.stop, len(text))):
            at[character] = (index, span.role)
    labels: list[Label] = []
    for (start, stop), special in zip(offsets, is_special, strict=True):
        if special or not text:
            labels.append((None, SPECIAL if special else UNPARSED))
            continue
        shown = (c for c in range(start, stop) if not text[c].isspace())
        labels.append(at[next(shown, min(start, len(text) - 1))])
    return labels
