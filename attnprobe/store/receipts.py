"""The receipt of a sealed shard: what it holds, so that a run is listed without opening one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnprobe.errors import FormatError
from attnprobe.store.jsoncheck import (
    repeated,
    take,
    take_errors,
    take_hash,
    take_names,
    take_numbers,
    take_repeated,
    take_whole,
)
from attnprobe.store.jsonfile import read_json, write_json
from attnprobe.store.layout import RAGGED, SHARDS, receipt_name

RECORD_COLUMNS: dict[str, type] = {
    "id": str, "item": str, "style": str, "task": str, "split": str,
    "n_prompt": int, "n_tokens": int, "batch_size": int, "worst_error": float,
}  # fmt: skip
"""What is listed of each record."""

MAX_RECORD_BYTES = 32 * 1024
"""Most bytes that a record may take in a JSON file: five names of 1,024 bytes, and numbers."""
MAX_RECORD_ENTRIES = 64
MAX_RECEIPT_BYTES, MAX_RECEIPT_ENTRIES = 64 * 1024, 4096
"""Most bytes and entries of what a receipt holds beside its records."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a sealed shard holds, written after it."""

    chunk: int
    bytes: int
    sha256: str
    settings_hash: str
    """`Manifest.settings_hash` of the run that it was written for."""
    counts: Mapping[str, int]
    """Length of each ragged axis, and of `record`."""
    records: Mapping[str, list[Any]]
    """The columns `RECORD_COLUMNS`, in the order of the shard."""

    @property
    def ids(self) -> list[str]:
        """Record ids, in the order of the shard."""
        return self.records["id"]

    def to_json(self) -> dict[str, Any]:
        """Return the receipt as it stands in its file."""
        return {
            "chunk": self.chunk, "bytes": self.bytes, "sha256": self.sha256,
            "settings_hash": self.settings_hash, "counts": dict(self.counts),
            "records": {"id": list(self.ids)} | records_to_json(self.records),
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Any, where: str) -> "Receipt":
        """Check and take what a receipt file says.

        Raises:
            FormatError: If something is missing or of the wrong kind.
        """
        chunk, size = take_whole(value, "chunk", where), take_whole(value, "bytes", where)
        digest, settings_hash = (take_hash(value, n, where) for n in ("sha256", "settings_hash"))
        counts, records = take(value, "counts", dict, where), take(value, "records", dict, where)
        kept = {axis: take_whole(counts, axis, where) for axis in ("record", *RAGGED)}
        n_records = kept["record"]
        ids = take_names(records, "id", where, n_records)
        columns = {"id": ids} | records_from_json(records, n_records, where)
        return cls(chunk, size, digest, settings_hash, kept, columns)


def records_to_json(records: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Write the columns of records, but for their ids."""
    return {
        name: repeated(records[name]) if kind is str else list(records[name])
        for name, kind in RECORD_COLUMNS.items()
        if name != "id"
    }


def records_from_json(value: Any, n_records: int, where: str) -> dict[str, list[Any]]:
    """Check and take the columns of records, but for their ids.

    Raises:
        FormatError: If one is missing or of the wrong kind.
    """
    takers = {str: take_repeated, int: take_numbers, float: take_errors}
    return {
        name: takers[kind](value, name, where, n_records)
        for name, kind in RECORD_COLUMNS.items()
        if name != "id"
    }


def read_receipt(run: Path, chunk: int, n_records: int, settings_hash: str) -> Receipt | None:
    """Read the receipt of a chunk, if it has one.

    Args:
        run: Folder of the run.
        chunk: Which chunk.
        n_records: How many records the plan gives to it.
        settings_hash: Of the run's manifest.

    Raises:
        FormatError: If it is damaged, or of another chunk or run.
    """
    path = run / SHARDS / receipt_name(chunk)
    if not path.exists():
        return None
    value = read_json(
        path,
        MAX_RECEIPT_BYTES + n_records * MAX_RECORD_BYTES,
        MAX_RECEIPT_ENTRIES + n_records * MAX_RECORD_ENTRIES,
    )
    receipt = Receipt.from_json(value, str(path))
    if receipt.chunk != chunk:
        raise FormatError("the receipt is of another chunk", where=str(path), got=receipt.chunk)
    if receipt.settings_hash != settings_hash:
        raise FormatError(
            "the receipt is of a run with other settings", where=str(path),
            got=f"settings {receipt.settings_hash[:12]}…", expected=f"{settings_hash[:12]}…",
            fix="delete it and its shard, and extract again",
        )  # fmt: skip
    return receipt


def write_receipt(run: Path, receipt: Receipt) -> None:
    """Write the receipt of a sealed shard."""
    write_json(run / SHARDS / receipt_name(receipt.chunk), receipt.to_json())
