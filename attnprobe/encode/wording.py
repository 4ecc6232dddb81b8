"""Records as the text a model reads: plain, or inside the chat template of its tokenizer."""

import datetime
import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attnprobe.errors import EncodeError
from attnprobe.types import Record, Segment

_USER, _ASSISTANT = "attnprobeAsksHere", "attnprobeAnswersHere"
"""Stand for the two messages while a template is read; no template has these words of its own."""

_DATE = datetime.datetime(2024, 7, 26, 12, tzinfo=datetime.UTC)
"""What a template that asks for the date is told, so that a record reads the same tomorrow."""

_ASKS_DATE = re.compile(r"""strftime_now\(\s*(?P<quote>['"])(?P<format>.*?)(?P=quote)\s*\)""")


@dataclass(frozen=True, slots=True)
class Wording:
    """What a model reads of a record, and whose character is whose."""

    prompt: str
    """Up to where the model begins to write."""
    target: str
    """What it should write; empty where only generation is wanted."""
    segment_at: tuple[int | None, ...]
    """Per character of both, the index of its segment; None where it belongs to none."""
    special: bool
    """Whether the tokenizer adds its special tokens; a chat template writes them itself."""


def plain_wording(record: Record) -> Wording:
    """Write a record as it stands, with its joiners."""
    joined = _owners(record, record.prompt, 0)
    owners = [*joined, *[None] * len(record.joiner)]
    owners += _owners(record, record.target, len(record.prompt))
    return Wording(record.prompt_text, record.target_text, tuple(owners), special=True)


def chat_wording(record: Record, tokenizer: Any) -> Wording:
    """Write a record as a chat: the prompt's segments are what the user says, the target answers.

    Where the message lies is read off the template itself, rendered with a word in its place that
    occurs nowhere else, so that it does not matter what else the template says.

    Args:
        record: What to write.
        tokenizer: With a chat template.

    Returns:
        The wording. White space that the template puts before the answer belongs to the target's
        first segment, as it does to the answer's first token.

    Raises:
        EncodeError: If there is no template, or it changes the message.
    """
    where = f"{record.where or 'record'} (id '{record.id}')"
    if not getattr(tokenizer, "chat_template", None):
        raise EncodeError(
            "this tokenizer has no chat template", where=where, got=type(tokenizer).__name__,
            fix="leave out --chat, or use the tokenizer of a model made for chats",
        )  # fmt: skip
    said = record.joiner.join(segment.text for segment in record.prompt)
    rendered = _render(tokenizer, where, said)
    before, after = _around(_render(tokenizer, where, _USER), _USER, where)
    shown = rendered[len(before) : len(rendered) - len(after)]
    lead = len(said) - len(said.lstrip()) if shown == said.strip() else 0
    if rendered != before + shown + after or shown not in (said, said.strip()):
        raise EncodeError(
            "the chat template changes the text of the prompt", where=where, got=_short(shown),
            expected=_short(said), fix="leave out --chat, or mend the template",
        )  # fmt: skip
    gap, header = _turn(tokenizer, where, before, after)
    owners = _owners(record, record.prompt, 0)[lead : lead + len(shown)]
    target = gap + record.target_text if record.target else ""
    every = [*[None] * len(before), *owners, *[None] * len(after + header)]
    if record.target:
        first = len(record.prompt) if not gap.strip() else None
        every += [first] * len(gap) + _owners(record, record.target, len(record.prompt))
    return Wording(rendered + header, target, tuple(every), special=False)


def _owners(record: Record, segments: Sequence[Segment], first: int) -> list[int | None]:
    """Name the segment of each character of joined segments."""
    parts = [[index] * len(segment.text) for index, segment in enumerate(segments, start=first)]
    joiner: list[int | None] = [None] * len(record.joiner)
    joined = itertools.chain.from_iterable((*part, *joiner) for part in parts)
    owners = list(joined)
    return owners[: len(owners) - len(joiner)] if parts else owners


def _turn(tokenizer: Any, where: str, before: str, after: str) -> tuple[str, str]:
    """Find how the answer follows the message.

    Returns:
        What the template puts between the prompt and an answer, and what the prompt lacks: a
        template that does not know how to ask for an answer leaves out the answer's header.
    """
    asked = before + _USER + after
    whole = _render(tokenizer, where, _USER, _ASSISTANT)
    head, _ = _around(whole, _ASSISTANT, where)
    if not head.startswith(asked):
        return "", ""  # what it writes before its own answers is not what it asks with
    gap = head[len(asked) :]
    if gap.strip() and _render(tokenizer, where, _USER, ask=False) == asked:
        header = gap.rstrip()
        return gap[len(header) :], header
    return gap, ""


def _around(rendered: str, word: str, where: str) -> tuple[str, str]:
    parts = rendered.split(word)
    if len(parts) != 2:
        raise EncodeError(
            "the chat template does not show each message once", where=where,
            got=f"{len(parts) - 1} times", expected="once", fix="leave out --chat",
        )  # fmt: skip
    return parts[0], parts[1]


def _render(
    tokenizer: Any, where: str, said: str, answered: str | None = None, ask: bool = True
) -> str:
    from jinja2 import TemplateError

    messages = [{"role": "user", "content": said}]
    if answered is not None:
        messages.append({"role": "assistant", "content": answered})
    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=ask and answered is None,
            chat_template=_dated(tokenizer.get_chat_template()),
        )  # fmt: skip
    except (TemplateError, TypeError, ValueError) as error:
        raise EncodeError(
            "the chat template cannot be rendered", where=where,
            got=" ".join(str(error).split())[:200],
            expected="a template for one message of a user and its answer",
            fix="leave out --chat, or mend the template",
        ) from error  # fmt: skip


@functools.lru_cache
def _dated(template: str) -> str:
    return _ASKS_DATE.sub(lambda found: repr(_DATE.strftime(found["format"])), template)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
