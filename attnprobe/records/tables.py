"""CSV files: one record a row, streamed; columns of the user's own go into `meta`."""

import csv
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnprobe.errors import RecordError
from attnprobe.records.fields import OPTIONAL, REQUIRED, parse_json, parse_record, short
from attnprobe.records.lines import MARK, MAX_LINE_BYTES, numbered_lines
from attnprobe.types import Record

_OPTIONAL_TEXTS = ("target", "task", "split")
"""Columns whose empty cells say that there is nothing, as if the column were not there."""


def read_csv(path: Path) -> Iterator[Record]:
    """Stream the records of a CSV file.

    The first row names the columns: `id`, `item`, `style`, `prompt` and, as wanted, `target`,
    `task`, `split`, `joiner`, `meta` (a JSON object). Every other column goes into `meta` as text.
    Cells are taken verbatim; prompts and targets are plain text. A byte order mark is allowed,
    because spreadsheets write one.

    Args:
        path: A UTF-8 file with commas between cells.

    Yields:
        Records; `where` names the line on which a row begins.

    Raises:
        RecordError: Naming file, line and id, if the file or a row is malformed.
    """
    rows = _rows(path)
    where, header = next(rows, (f"{path.name}:1", []))
    if not header:
        raise RecordError(
            "no header in this file", where=str(path), fix=f"begin with {','.join(REQUIRED)}"
        )
    check_columns(header, where)
    for where, cells in rows:
        if len(cells) != len(header):
            raise RecordError(
                "this row does not fit the header", where=where, got=f"{len(cells)} cells",
                expected=f"{len(header)}", fix="put quotes round cells that hold commas or quotes",
            )  # fmt: skip
        fields: dict[str, Any] = dict(zip(header, cells, strict=True))
        for key in _OPTIONAL_TEXTS:
            if not fields.get(key, ""):
                fields.pop(key, None)
        if "meta" in fields:
            fields["meta"] = parse_json(fields["meta"] or "{}", "column 'meta'", where)
        yield parse_record(gather_meta(fields), where)


def check_columns(columns: Sequence[str], where: str) -> None:
    """Refuse columns that are missing, doubled, or almost one of a record's fields.

    A column `targets` beside no `target` would go into `meta` without a word.

    Raises:
        RecordError: If there is such a column.
    """
    known = REQUIRED + OPTIONAL
    for name in columns:
        if columns.count(name) > 1:
            raise RecordError(f"column '{name}' is there twice", where=where, fix="rename one")
    for name in columns:
        folded = name.strip().lower()
        close = difflib.get_close_matches(folded, known, n=1, cutoff=0.75)
        if name not in known and close and close[0] not in columns:
            raise RecordError(
                f"column '{name}' is almost '{close[0]}'", where=where,
                fix=f"rename it to '{close[0]}', or to something less like it",
            )  # fmt: skip
    for name in REQUIRED:
        if name not in columns:
            alone = len(columns) == 1 and any(mark in columns[0] for mark in ";\t")
            raise RecordError(
                f"column '{name}' is missing", where=where,
                got=f"columns {short(', '.join(columns))}",
                expected=f"all of {', '.join(REQUIRED)}",
                fix="save it with commas between the cells" if alone else "add it",
            )  # fmt: skip


def gather_meta(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Put what is no field of a record into `meta`, beside what is there already."""
    known = {key: value for key, value in fields.items() if key in REQUIRED + OPTIONAL}
    others = {key: value for key, value in fields.items() if key not in known}
    if others and isinstance(known.get("meta", {}), Mapping):
        known["meta"] = {**others, **known.get("meta", {})}
    return known


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield where each row begins, and its cells; empty lines are passed over."""
    lines = _Lines(path)
    reader = csv.reader(lines, strict=True)
    while True:
        lines.begin_row()
        try:
            cells = _next_row(reader)
        except csv.Error as error:
            raise RecordError(
                f"this row is not valid CSV ({error})", where=lines.where,
                fix="quote cells that hold commas, quotes or line breaks, and double their quotes",
            ) from error  # fmt: skip
        if cells is None:
            return
        if cells:
            yield lines.where, cells


def _next_row(reader: Iterator[list[str]]) -> list[str] | None:
    """Read one row; csv's own bound on cells is process-wide, so it is lifted only for that."""
    usual = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(usual)


class _Lines:
    """Lines for the CSV reader, which knows where a row began and how large it has grown."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = numbered_lines(path, "write one record a row")
        self._number = 0
        self._first = 1
        self._size = 0

    @property
    def where(self) -> str:
        return f"{self._path.name}:{self._first}"

    def begin_row(self) -> None:
        self._first = self._number + 1
        self._size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self._number, line = next(self._lines)
        self._size += len(line)
        if self._size > MAX_LINE_BYTES:
            raise RecordError(
                "this row is too long for a record", where=self.where,
                got=f"over {MAX_LINE_BYTES} characters", fix="look for a quote that is not closed",
            )  # fmt: skip
        return line.removeprefix(MARK) if self._number == 1 else line
