"""Text → token ids, and which characters each token stands for, also where no tokenizer says so."""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from attnprobe.encode.generated import text_with_offsets
from attnprobe.encode.marks import is_fast, special_texts
from attnprobe.errors import EncodeError

Offsets = list[tuple[int, int]]
"""Half-open character range of each token."""

_SHOWN = 12
"""Characters that an error shows."""


def tokens_with_offsets(
    text: str, tokenizer: Any, special: bool, where: str
) -> tuple[list[int], Offsets]:
    """Tokenize a text.

    Fast tokenizers tell the offsets. For those written in Python, as ChatGLM's are, tokens are
    decoded one after the other, and what they say is laid over the text. Tokenizers may change
    white space, the width of characters and their case; all else must come back as it was.

    Args:
        text: What to tokenize.
        tokenizer: Of transformers.
        special: Whether the tokenizer puts its special tokens around the text.
        where: For errors.

    Returns:
        Ids, and the character range of each; special tokens that are not in the text have an
        empty one.

    Raises:
        EncodeError: If the tokens do not give back the text.
    """
    if is_fast(tokenizer):
        out = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        return list(out["input_ids"]), [(int(a), int(b)) for a, b in out["offset_mapping"]]
    plain: list[int] = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
    offsets = _laid_over(text, plain, tokenizer, where)
    if not special:
        return plain, offsets
    # on a copy: ChatGLM's tokenizer appends to the list that it is given
    ids = list(tokenizer.build_inputs_with_special_tokens(list(plain)))
    first = _place_of(plain, ids)
    if first is None:
        raise EncodeError(
            "the tokenizer changes the text when it adds its special tokens", where=where,
            got=type(tokenizer).__name__, expected="special tokens before and after the text",
        )  # fmt: skip
    after = len(ids) - first - len(plain)
    return ids, [(0, 0)] * first + offsets + [(len(text), len(text))] * after


def _place_of(plain: Sequence[int], ids: Sequence[int]) -> int | None:
    """Find one list inside another."""
    starts = range(len(ids) - len(plain) + 1)
    return next((at for at in starts if ids[at : at + len(plain)] == plain), None)


def _laid_over(text: str, ids: Sequence[int], tokenizer: Any, where: str) -> Offsets:
    """Decode tokens, and find the characters of the text that each stands for."""
    marks = special_texts(tokenizer)
    decoded, ranges = "", Offsets()
    start = 0
    for stop in [*(at for at, token in enumerate(ids) if token in marks), len(ids)]:
        before = [] if start == 0 else ids[start - 1 : start]
        piece, found = text_with_offsets(before, ids[start:stop], tokenizer)
        ranges += [(a + len(decoded), b + len(decoded)) for a, b in found]
        decoded += piece
        if stop < len(ids):  # a mark that is written out in the text, as chat templates do
            ranges.append((len(decoded), len(decoded) + len(marks[ids[stop]])))
            decoded += marks[ids[stop]]
        start = stop + 1
    places = _places(decoded, text, where, type(tokenizer).__name__)
    # a token without text goes with what follows it: the space that is put before every text
    return [
        (places[a], places[max(a, b - 1)] + (a < b or places[a] < len(text))) for a, b in ranges
    ]


def _places(decoded: str, text: str, where: str, tokenizer: str) -> list[int]:
    """Say which character of the text each decoded one is, and the text's end for their end.

    White space that only one of the two has is passed over.
    """
    places: dict[int, int] = {}
    wanted = list(_normal(text))
    at = 0
    for char, index in _normal(decoded):
        while not char.isspace() and at < len(wanted) and wanted[at][0].isspace():
            at += 1
        here, place = wanted[at] if at < len(wanted) else ("", len(text) - 1)
        places.setdefault(index, place)
        if char.isspace():
            at += here.isspace()
        elif here == char:
            at += 1
        else:
            raise _changed(decoded[index:], text[place:] if here else "", where, tokenizer)
    if any(not char.isspace() for char, _ in wanted[at:]):
        raise _changed("", text[wanted[at][1] :], where, tokenizer)
    return [places[index] for index in range(len(decoded))] + [len(text)]


def _normal(text: str) -> Iterator[tuple[str, int]]:
    """Yield characters in one width and case, to be compared, and where each comes from."""
    for place, char in enumerate(text):
        for part in unicodedata.normalize("NFKC", char).casefold():
            yield part, place


def _changed(got: str, expected: str, where: str, tokenizer: str) -> EncodeError:
    return EncodeError(
        f"the tokens of {tokenizer} do not give back the text, so that none can be placed in it",
        where=where, got=repr(got[:_SHOWN]), expected=repr(expected[:_SHOWN]),
        fix="replace characters that the tokenizer does not know, or use a fast tokenizer "
        "(tokenizer.json)",
    )  # fmt: skip
