"""JSON lines: one record a line, streamed and checked."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from attnprobe.records.fields import parse_json, parse_record, record_to_json
from attnprobe.records.lines import check_mark, numbered_lines
from attnprobe.types import Record


def read_jsonl(path: Path) -> Iterator[Record]:
    """Stream the records of a JSON lines file; blank lines are passed over.

    Raises:
        RecordError: Naming file, line and id, if the file cannot be read or a line is no record.
    """
    for number, raw in numbered_lines(path, "write one JSON object a line"):
        where = f"{path.name}:{number}"
        if number == 1:
            check_mark(raw, where)
        if line := raw.strip():
            yield parse_record(parse_json(line, "this line", where), where)


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
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for record in records:
                file.write(json.dumps(record_to_json(record), ensure_ascii=False) + "\n")
                n_records += 1
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return n_records
