"""The fields of a record: from JSON values, checked, and back."""

import json
from collections.abc import Mapping
from typing import Any

from attnprobe.errors import RecordError, nearest
from attnprobe.types import Record, Segment

REQUIRED = ("id", "item", "style", "prompt")
OPTIONAL = ("target", "task", "split", "joiner", "meta")
PLAIN_PROMPT_ROLE = "prompt"
PLAIN_TARGET_ROLE = "answer"


def parse_json(text: str, what: str, where: str) -> Any:
    """Parse strict JSON, without NaN and infinities.

    Raises:
        RecordError: If `text` is not JSON; `what` names it.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"{what} is not valid JSON", where=where, got=short(text), fix=str(error)
        ) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def record_to_json(record: Record) -> dict[str, Any]:
    """Turn a record into the JSON object that `parse_record` reads back."""
    fields: dict[str, Any] = {"id": record.id, "item": record.item, "style": record.style}
    fields |= {key: value for key in ("task", "split") if (value := getattr(record, key))}
    fields["prompt"] = [{"role": s.role, "text": s.text} for s in record.prompt]
    if record.target:
        fields["target"] = [{"role": s.role, "text": s.text} for s in record.target]
    if record.joiner != "\n":
        fields["joiner"] = record.joiner
    if record.meta:
        fields["meta"] = dict(record.meta)
    return fields


def parse_record(fields: Any, where: str) -> Record:
    """Check one JSON object and turn it into a record.

    Args:
        fields: The parsed JSON.
        where: File and line, for the error message.

    Returns:
        The record. A plain `prompt` string is one segment of role `prompt`, a plain `target` one
        of role `answer`; if both are plain, they are joined verbatim, without a joiner.

    Raises:
        RecordError: If a field is missing, unknown, empty or of the wrong type.
    """
    if not isinstance(fields, Mapping):
        raise RecordError(
            "this line is not a JSON object", where=where, got=type(fields).__name__,
            expected='an object such as {"id": …, "item": …, "style": …, "prompt": …}',
        )  # fmt: skip
    place, where = where, _with_id(where, fields)
    for key in fields:
        if key not in REQUIRED + OPTIONAL:
            raise RecordError(
                f"unknown field '{key}'", where=where,
                fix=f"put your own fields into 'meta'; {nearest(str(key), REQUIRED + OPTIONAL)}",
            )  # fmt: skip
    for key in REQUIRED:
        if key not in fields:
            raise RecordError(
                f"field '{key}' is missing", where=where, got=f"fields {', '.join(fields)}",
                expected=f"all of {', '.join(REQUIRED)}", fix="add it",
            )  # fmt: skip
    texts = {key: _text(fields, key, where) for key in ("id", "item", "style")}
    labels = {key: _text(fields, key, where, default="") for key in ("task", "split")}
    prompt, target = fields["prompt"], fields.get("target", [])
    plain = isinstance(prompt, str) and isinstance(target, str)
    meta = fields.get("meta", {})
    if not isinstance(meta, Mapping):
        raise RecordError(
            "field 'meta' is no object", where=where, got=type(meta).__name__, expected="an object"
        )
    return Record(
        **texts,
        **labels,
        prompt=_segments(prompt, "prompt", where),
        target=_segments(target, "target", where) if "target" in fields else (),
        joiner=_text(fields, "joiner", where, default="" if plain else "\n", may_be_empty=True),
        meta=dict(meta),
        where=place,
    )


def _with_id(where: str, fields: Mapping[Any, Any]) -> str:
    return f"{where} (id '{fields['id']}')" if isinstance(fields.get("id"), str) else where


def _text(
    fields: Mapping[Any, Any],
    key: str,
    where: str,
    default: str | None = None,
    may_be_empty: bool = False,
) -> str:
    value = fields.get(key, default)
    if not isinstance(value, str):
        raise RecordError(
            f"field '{key}' is no text", where=where, got=type(value).__name__, expected="a string"
        )
    if not value and default is None and not may_be_empty:
        raise RecordError(f"field '{key}' is empty", where=where, fix="give it a value")
    _check_unicode(value, f"field '{key}'", where)
    return value


def _check_unicode(value: str, what: str, where: str) -> None:
    """JSON can spell half a surrogate pair; no tokenizer and no UTF-8 file can hold one."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RecordError(
            f"{what} holds a lone surrogate at character {error.start}", where=where,
            expected="valid Unicode", fix="write the character itself instead of half its escape",
        ) from error  # fmt: skip


def _segments(value: Any, side: str, where: str) -> tuple[Segment, ...]:
    if isinstance(value, str):
        role = PLAIN_PROMPT_ROLE if side == "prompt" else PLAIN_TARGET_ROLE
        value = [{"role": role, "text": value}]
    if not isinstance(value, list) or (not value and side == "prompt"):
        raise RecordError(
            f"field '{side}' holds no segments", where=where, got=short(value),
            expected='text, or a list of {"role": …, "text": …}',
        )  # fmt: skip
    return tuple(_segment(part, side, index, where) for index, part in enumerate(value))


def _segment(part: Any, side: str, index: int, where: str) -> Segment:
    if not isinstance(part, Mapping) or set(part) != {"role", "text"}:
        raise RecordError(
            f"{side} segment {index} is malformed", where=where, got=short(part),
            expected='{"role": "…", "text": "…"}',
        )  # fmt: skip
    role, text = part["role"], part["text"]
    if not isinstance(role, str) or not isinstance(text, str) or not role:
        raise RecordError(
            f"{side} segment {index} needs texts for role and text", where=where, got=short(part)
        )
    if not text:
        raise RecordError(
            f"segment role '{role}' is empty", where=where, fix="give it text or remove it"
        )
    _check_unicode(role, f"role of {side} segment {index}", where)
    _check_unicode(text, f"segment role '{role}'", where)
    return Segment(role, text)


def short(value: Any) -> str:
    """Show a value in an error message, cut to 60 characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"
