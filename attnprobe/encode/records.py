"""A record → token ids, readable token texts and spans."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attnprobe.encode.offsets import tokens_with_offsets
from attnprobe.encode.tokens import (
    SPECIAL,
    TEMPLATE,
    Label,
    readable_texts,
    sinks_of,
    spans_of,
    special_ids,
)
from attnprobe.encode.wording import Wording, chat_wording, plain_wording
from attnprobe.errors import EncodeError
from attnprobe.types import Encoding, Record, Segment


def encode(
    record: Record,
    tokenizer: Any,
    *,
    max_tokens: int | None = None,
    n_ids: int | None = None,
    chat: bool = False,
) -> Encoding:
    """Tokenize a record and say which tokens belong to which segment.

    The prompt is tokenized as generation would see it, special tokens included; the target goes
    on from there. Every token lies in exactly one span. A token that straddles a border belongs
    to the segment of its first character; what no segment covers (joiners) is `template`, special
    tokens are `special`.

    Args:
        record: What to encode.
        tokenizer: Of transformers. One that gives no character offsets must give back the text.
        max_tokens: The model's context length; None for no limit.
        n_ids: How many token ids the model knows; None for no limit.
        chat: Whether the prompt is said by a user and the target answered, in the tokenizer's chat
            template. What the template adds is `template`, its marks are `special`.

    Returns:
        The encoding.

    Raises:
        EncodeError: If tokens cannot be placed in the text, the record is longer than the context,
            a token is unknown to the model, a segment is left without a token of its own, or there
            is no chat template that leaves the prompt as it is.
    """
    where = _where(record)
    wording = chat_wording(record, tokenizer) if chat else plain_wording(record)
    tokens, n_prompt = _tokenize(wording, tokenizer, where)
    n_tokens = len(tokens.ids)
    if max_tokens is not None and n_tokens > max_tokens:
        raise EncodeError(
            "prompt and target are longer than the model's context", where=where,
            got=f"{n_tokens} tokens ({n_prompt} of them prompt)",
            expected=f"at most {max_tokens}", fix="shorten the record",
        )  # fmt: skip
    if record.target and n_tokens == n_prompt:
        raise EncodeError("the target has no tokens", where=where, fix="give it text")
    if n_ids is not None and max(tokens.ids, default=0) >= n_ids:
        token = max(tokens.ids)
        raise EncodeError(
            "the tokenizer makes a token that the model does not know", where=where,
            got=f"{tokenizer.decode([token])!r} ({token})", expected=f"ids below {n_ids}",
            fix="use the tokenizer files of the model's own checkpoint",
        )  # fmt: skip
    labels = _labels(record, wording, tokens, special_ids(tokenizer))
    _check_all_present(record, labels, where)
    return Encoding(
        record=record,
        ids=np.asarray(tokens.ids, np.int32),
        texts=readable_texts(tokens.ids, tokens.offsets, tokens.text, tokenizer),
        spans=spans_of(labels[:n_prompt]) + spans_of(labels[n_prompt:], first=n_prompt),
        n_prompt=n_prompt,
        sinks=sinks_of(tokens.ids, tokenizer.bos_token_id),
    )


def encode_prompt(
    record: Record,
    tokenizer: Any,
    *,
    max_tokens: int | None = None,
    n_ids: int | None = None,
    chat: bool = False,
) -> Encoding:
    """Tokenize the prompt of a record alone, for a model to go on from.

    Args:
        record: What to encode; its target stays with it but has no tokens.
        tokenizer: As for `encode`.
        max_tokens: The model's context length; None for no limit.
        n_ids: As for `encode`.
        chat: As for `encode`.

    Returns:
        The encoding, without steps.

    Raises:
        EncodeError: As of `encode`, or if the prompt leaves no room to go on.
    """
    alone = encode(replace(record, target=()), tokenizer, n_ids=n_ids, chat=chat)
    encoding = replace(alone, record=record)
    if max_tokens is not None and encoding.n_tokens >= max_tokens:
        raise EncodeError(
            "the prompt fills the model's context, so that nothing can be generated",
            where=_where(record), got=f"{encoding.n_tokens} tokens",
            expected=f"at most {max_tokens - 1}", fix="shorten the prompt",
        )  # fmt: skip
    return encoding


def _where(record: Record) -> str:
    return f"{record.where or 'record'} (id '{record.id}')"


@dataclass(frozen=True, slots=True)
class _Tokens:
    ids: list[int]
    offsets: list[tuple[int, int]]
    text: str


def _tokenize(wording: Wording, tokenizer: Any, where: str) -> tuple[_Tokens, int]:
    """Tokenize prompt + target in one go if the prompt's tokens stay what they are alone.

    Where a tokenizer would merge across the border, the target is tokenized by itself, because
    the model never sees such a merged token when it generates.
    """

    def call(text: str, special: bool) -> _Tokens:
        return _Tokens(*tokens_with_offsets(text, tokenizer, special, where), text)

    prompt = call(wording.prompt, wording.special)
    n_prompt = len(prompt.ids)
    if not wording.target:
        return prompt, n_prompt
    whole = call(wording.prompt + wording.target, wording.special)
    if whole.ids[:n_prompt] == prompt.ids and not _ends_in_special(whole, tokenizer):
        return whole, n_prompt
    target = call(wording.target, special=False)
    shift = len(wording.prompt)
    offsets = prompt.offsets + [(start + shift, stop + shift) for start, stop in target.offsets]
    return _Tokens(prompt.ids + target.ids, offsets, whole.text), n_prompt


def _ends_in_special(tokens: _Tokens, tokenizer: Any) -> bool:
    """Some tokenizers close every text with EOS; a target must not gain one by that."""
    start, stop = tokens.offsets[-1]
    return start == stop and tokens.ids[-1] in tokenizer.all_special_ids


def _labels(
    record: Record, wording: Wording, tokens: _Tokens, special_ids: set[int]
) -> list[Label]:
    """Give each token its segment's index and role; None where it belongs to no segment."""
    segments = record.prompt + record.target
    labels: list[Label] = []
    for token, (start, stop) in zip(tokens.ids, tokens.offsets, strict=True):
        if token in special_ids:
            labels.append((None, SPECIAL))
            continue
        start = _first_own_character(start, stop, tokens)
        index = wording.segment_at[start] if start < len(wording.segment_at) else None
        labels.append((index, TEMPLATE if index is None else segments[index].role))
    return labels


def _first_own_character(start: int, stop: int, tokens: _Tokens) -> int:
    """Return where a token starts; an empty range (a byte-split tail) starts before its end."""
    return start if start < stop else max(0, min(start, len(tokens.text)) - 1)


def _check_all_present(record: Record, labels: Sequence[Label], where: str) -> None:
    present = {index for index, _ in labels}
    segments: tuple[Segment, ...] = record.prompt + record.target
    for index, segment in enumerate(segments):
        if index not in present and segment.role != TEMPLATE:
            raise EncodeError(
                f"segment role '{segment.role}' has no token of its own", where=where,
                got=repr(segment.text[:40]),
                fix="its text was merged into the token before it; put a space or line break there",
            )  # fmt: skip
