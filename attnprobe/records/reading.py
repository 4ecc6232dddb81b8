"""One way into every kind of dataset file; what holds for all of them is checked here."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from attnprobe.errors import RecordError
from attnprobe.records.folders import read_folder
from attnprobe.records.jsonl import read_jsonl
from attnprobe.records.tables import read_csv
from attnprobe.types import Record


def read_records(path: str | Path) -> Iterator[Record]:
    """Stream the records of a dataset.

    A record is yielded as soon as it is checked; the dataset is never held in memory (only a
    16-byte digest per id and per item + style, to find doubles).

    Args:
        path: A folder written by `datasets`' `save_to_disk`, a `.csv` file, or else a JSON lines
            file. Files are UTF-8.

    Yields:
        Records, in the order of the dataset.

    Raises:
        RecordError: Naming file, line and id, if the dataset is missing, empty or not UTF-8, or if
            a line is not a record, or stands there twice.
    """
    path = Path(path)
    ids, pairs = _Doubles(), _Doubles()
    n_records = 0
    for record in _read(path):
        ids.add(record.id, record.where, "this id")
        pairs.add(f"{record.item}\0{record.style}", record.where, "this item in this style")
        n_records += 1
        yield record
    if n_records == 0:
        fix = "write one record a row" if _is_table(path) else "write one JSON a line"
        raise RecordError("no records in this file", where=str(path), fix=fix)


def _read(path: Path) -> Iterator[Record]:
    if path.is_dir():
        return read_folder(path)
    return read_csv(path) if _is_table(path) else read_jsonl(path)


def _is_table(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() == ".csv"


class _Doubles:
    """Remember what was seen by a 16-byte digest each."""

    def __init__(self) -> None:
        self._seen: dict[bytes, str] = {}

    def add(self, value: str, where: str, what: str) -> None:
        digest = hashlib.blake2b(value.encode(), digest_size=16).digest()
        number = where.rpartition(":")[2]
        place = f"line {number}" if number.isdecimal() else where
        if digest in self._seen:
            raise RecordError(
                f"{what} stands in {self._seen[digest]} already",
                where=where, got=repr(value.replace("\0", " / ")), fix="make it unique",
            )  # fmt: skip
        self._seen[digest] = place
