"""The receipt of a sealed shard: what it holds, so that a run is listed without opening one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnprobe.errors import FormatError
from attnprobe.store.jsoncheck import (
    take,
    take_errors,
    take_hash,
    take_numbers,
    take_whole,
)
from attnprobe.store.jsonfile import read_json, write_json
from attnprobe.store.layout import RAGGED, SHARDS, receipt_name
from attnprobe.store.plan import DIGEST_LENGTH, Plan

RECORD_COLUMNS: dict[str, type] = {
    "n_prompt": int, "n_tokens": int, "batch_size": int, "worst_error": float,
}  # fmt: skip
"""What is known of a record once it is captured, beside what the plan says of it."""

MAX_RECORD_BYTES = 32 * 1024
"""Most bytes that a record may take in a JSON file: five names of 1,024 bytes, and numbers."""
MAX_RECORD_ENTRIES = 64
MAX_RECEIPT_BYTES, MAX_RECEIPT_ENTRIES = 64 * 1024, 4096
"""Most bytes and entries of what a receipt holds beside its records."""

_FIX = "delete it and its shard, and give the extract command again"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a sealed shard holds, written after it."""

    chunk: int
    bytes: int
    sha256: str
    counts: Mapping[str, int]
    """Length of each ragged axis, and of `record`."""
    records: Mapping[str, list[Any]]
    """The columns `RECORD_COLUMNS`, in the order of the plan."""

    def to_json(self, mark: str) -> dict[str, Any]:
        """Return the receipt as it stands in its file."""
        return {
            "chunk": self.chunk, "bytes": self.bytes, "sha256": self.sha256, "mark": mark,
            "counts": dict(self.counts),
            "records": {name: list(self.records[name]) for name in RECORD_COLUMNS},
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Any, where: str) -> "Receipt":
        """Check and take what a receipt file says.

        Raises:
            FormatError: If something is missing or of the wrong kind.
        """
        chunk, size = take_whole(value, "chunk", where), take_whole(value, "bytes", where)
        counts, records = take(value, "counts", dict, where), take(value, "records", dict, where)
        kept = {axis: take_whole(counts, axis, where) for axis in ("record", *RAGGED)}
        columns = records_from_json(records, kept["record"], where)
        return cls(chunk, size, take_hash(value, "sha256", where), kept, columns)


def records_from_json(value: Any, n_records: int, where: str) -> dict[str, list[Any]]:
    """Check and take the columns of records.

    Raises:
        FormatError: If one is missing or of the wrong kind.
    """
    takers = {int: take_numbers, float: take_errors}
    return {
        name: takers[kind](value, name, where, n_records) for name, kind in RECORD_COLUMNS.items()
    }


def read_receipt(run: Path, chunk: int, plan: Plan, settings_hash: str) -> Receipt | None:
    """Read the receipt of a chunk, if it has one.

    Args:
        run: Folder of the run.
        chunk: Which chunk.
        plan: Of the run's manifest.
        settings_hash: Of the run's manifest.

    Raises:
        FormatError: If it is damaged, or of another chunk or run.
    """
    path, n_records = run / SHARDS / receipt_name(chunk), plan.sizes[chunk]
    if not path.exists():
        return None
    value = read_json(
        path,
        MAX_RECEIPT_BYTES + n_records * MAX_RECORD_BYTES,
        MAX_RECEIPT_ENTRIES + n_records * MAX_RECORD_ENTRIES,
        fix="delete it and give the extract command again, which makes it anew from its shard",
    )
    receipt, mark = Receipt.from_json(value, str(path)), plan.mark(chunk, settings_hash)
    if receipt.chunk != chunk or receipt.counts["record"] != n_records:
        raise FormatError(
            "the receipt is of another chunk", where=str(path),
            got=f"chunk {receipt.chunk} with {receipt.counts['record']} records",
            expected=f"chunk {chunk} with {n_records}", fix=_FIX,
        )  # fmt: skip
    if take_hash(value, "mark", str(path), DIGEST_LENGTH) != mark:
        raise FormatError(
            "the receipt is of a run with other records or settings", where=str(path),
            got=f"mark {value['mark'][:12]}…", expected=f"{mark[:12]}…", fix=_FIX,
        )  # fmt: skip
    return receipt


def write_receipt(run: Path, receipt: Receipt, plan: Plan, settings_hash: str) -> None:
    """Write the receipt of a sealed shard."""
    mark = plan.mark(receipt.chunk, settings_hash)
    write_json(run / SHARDS / receipt_name(receipt.chunk), receipt.to_json(mark))
