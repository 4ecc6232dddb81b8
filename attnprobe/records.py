"""Read and write datasets: JSON lines, one record a line, streamed and checked as they pass."""

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attnprobe.errors import RecordError, nearest
from attnprobe.types import Record, Segment

MAX_LINE_BYTES = 16 * 2**20
"""A longer line is not a record but another kind of file; refusing it keeps memory bounded."""

REQUIRED = ("id", "item", "style", "prompt")
OPTIONAL = ("target", "task", "split", "joiner", "meta")
PLAIN_PROMPT_ROLE = "prompt"
PLAIN_TARGET_ROLE = "answer"

_FOREIGN_MARKS = {
    codecs.BOM_UTF8: "a UTF-8 byte order mark",
    codecs.BOM_UTF16_LE: "a UTF-16 byte order mark",
    codecs.BOM_UTF16_BE: "a UTF-16 byte order mark",
}


def read_records(path: str | Path) -> Iterator[Record]:
    """Stream the records of a JSON lines file.

    A record is yielded as soon as its line is checked; the file is never held in memory (only a
    16-byte digest per id and per item + style, to find doubles).

    Args:
        path: A UTF-8 `.jsonl` file.

    Yields:
        Records, in the order of the file.

    Raises:
        RecordError: Naming file, line and id, if the file is missing, empty or not UTF-8, or if a
            line is not a record, or stands there twice.
    """
    path = Path(path)
    ids, pairs = _Doubles(), _Doubles()
    n_records = 0
    for number, line in _numbered_lines(path):
        record = parse_record(_parse_json(line, f"{path.name}:{number}"), f"{path.name}:{number}")
        ids.add(record.id, record.where, "this id")
        pairs.add(f"{record.item}\0{record.style}", record.where, "this item in this style")
        n_records += 1
        yield record
    if n_records == 0:
        raise RecordError("no records in this file", where=str(path), fix="write one JSON a line")


def write_records(records: Iterable[Record], path: str | Path) -> int:
    """Write records as JSON lines, UTF-8, one a line.

    Args:
        records: What to write; consumed once.
        path: The file; its folder is created. It appears whole or not at all.

    Returns:
        How many records were written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")
    n_records = 0
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record_to_json(record), ensure_ascii=False) + "\n")
            n_records += 1
    partial.replace(path)
    return n_records


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
    where = _with_id(where, fields)
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
        where=where.split(" ")[0],
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
            f"field '{side}' holds no segments", where=where, got=_short(value),
            expected='text, or a list of {"role": …, "text": …}',
        )  # fmt: skip
    return tuple(_segment(part, side, index, where) for index, part in enumerate(value))


def _segment(part: Any, side: str, index: int, where: str) -> Segment:
    if not isinstance(part, Mapping) or set(part) != {"role", "text"}:
        raise RecordError(
            f"{side} segment {index} is malformed", where=where, got=_short(part),
            expected='{"role": "…", "text": "…"}',
        )  # fmt: skip
    role, text = part["role"], part["text"]
    if not isinstance(role, str) or not isinstance(text, str) or not role:
        raise RecordError(
            f"{side} segment {index} needs texts for role and text", where=where, got=_short(part)
        )
    if not text:
        raise RecordError(
            f"segment role '{role}' is empty", where=where, fix="give it text or remove it"
        )
    _check_unicode(role, f"role of {side} segment {index}", where)
    _check_unicode(text, f"segment role '{role}'", where)
    return Segment(role, text)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


class _Doubles:
    """Remember what was seen by a 16-byte digest each."""

    def __init__(self) -> None:
        self._seen: dict[bytes, str] = {}

    def add(self, value: str, where: str, what: str) -> None:
        digest = hashlib.blake2b(value.encode(), digest_size=16).digest()
        line = where.rpartition(":")[2]
        if digest in self._seen:
            raise RecordError(
                f"{what} stands in line {self._seen[digest]} already",
                where=where, got=repr(value.replace("\0", " / ")), fix="make it unique",
            )  # fmt: skip
        self._seen[digest] = line


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line numbers from 1 and decoded lines, without blank ones."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise RecordError(
            f"cannot read this file ({error.strerror})", where=str(path), fix="check the path"
        ) from error
    with file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path.name}:{number}"
            if number == 1:
                _check_mark(line, where)
            if len(line) > MAX_LINE_BYTES:
                raise RecordError(
                    "this line is too long for a record", where=where,
                    got=f"over {MAX_LINE_BYTES} bytes", fix="write one JSON object a line",
                )  # fmt: skip
            if text := _decode(line, where).strip():
                yield number, text


def _check_mark(line: bytes, where: str) -> None:
    for mark, name in _FOREIGN_MARKS.items():
        if line.startswith(mark):
            raise RecordError(
                f"the file starts with {name}", where=where,
                expected="UTF-8 without a mark", fix="save it as 'UTF-8' (not 'UTF-8 with BOM')",
            )  # fmt: skip


def _decode(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(
            f"this line is not UTF-8 (byte {error.start + 1})", where=where,
            got=f"0x{line[error.start]:02x}", expected="UTF-8",
            fix="convert the file, e.g. iconv -f GB18030 -t UTF-8",
        ) from error  # fmt: skip


def _parse_json(line: str, where: str) -> Any:
    try:
        return json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RecordError(
            "this line is not valid JSON", where=where, got=_short(line), fix=str(error)
        ) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
