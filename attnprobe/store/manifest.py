"""The two kinds of JSON file in a run: the manifest, and the receipt of each sealed shard."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnprobe.errors import FormatError, StoreError
from attnprobe.store.layout import (
    BY_NAME,
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    MAX_METHODS,
    METHOD_NAME,
    SHARDS,
    Column,
    attribution_columns,
    receipt_name,
)
from attnprobe.store.publish import canonical_json, write_json

RECORD_COLUMNS: dict[str, type] = {
    "id": str, "digest": str, "item": str, "style": str, "task": str, "split": str,
    "n_prompt": int, "n_tokens": int, "batch_size": int, "worst_error": float,
}  # fmt: skip
"""What a receipt lists of each record, so that a run is listed without opening a shard."""


@dataclass(frozen=True, slots=True)
class PlannedRecord:
    """A record that the plan gives to a chunk."""

    id: str
    digest: str
    """`Encoding.digest`: SHA-256 of everything that shapes the capture."""


Plan = tuple[tuple[PlannedRecord, ...], ...]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a sealed shard holds, written after it."""

    chunk: int
    bytes: int
    sha256: str
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
            "counts": dict(self.counts), "records": dict(self.records),
            "worst_error": max(self.records["worst_error"], default=0.0),
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Any, where: str) -> "Receipt":
        """Check and take what a receipt file says.

        Raises:
            FormatError: If something is missing or of the wrong kind.
        """
        chunk, size = _whole(value, "chunk", where), _whole(value, "bytes", where)
        digest = _take(value, "sha256", str, where)
        counts, records = _take(value, "counts", dict, where), _take(value, "records", dict, where)
        kept = {name: _whole(counts, name, where) for name in counts}
        n_records = _whole(counts, "record", where)
        columns = {name: _column(records, name, n_records, where) for name in RECORD_COLUMNS}
        return cls(chunk, size, digest, kept, columns)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run is: settings, model, plan, and how far it is."""

    settings: Mapping[str, Any]
    model: Mapping[str, Any]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    plan: Plan
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    complete: bool = False
    receipts: tuple[Receipt, ...] = ()
    """All of them once the run is complete, none before."""
    version: tuple[int, int] = FORMAT_VERSION

    @property
    def keep(self) -> tuple[str, ...]:
        """What is stored of each record: `rows`, `full`, `steps`, `pooled`."""
        return tuple(self.settings["keep"])

    @property
    def encoding(self) -> str:
        """Name of the code in which weights are stored."""
        return self.settings["encoding"]

    @property
    def attribute(self) -> dict[str, dict[str, Any]]:
        """Attribution methods that are stored, with their parameters, in the order of storage."""
        params = self.settings.get("attribute_params", {})
        return {method: params.get(method, {}) for method in self.settings.get("attribute", [])}

    @property
    def columns(self) -> dict[str, Column]:
        """Every dataset of a shard of this run, by name, in the order in which it is written."""
        units = {name: str(params.get("unit", "")) for name, params in self.attribute.items()}
        return BY_NAME | {column.name: column for column in attribution_columns(units)}

    @property
    def settings_hash(self) -> str:
        """SHA-256 of settings, model, layers and heads."""
        return hashlib.sha256(canonical_json(self._identity()).encode()).hexdigest()

    def _identity(self) -> dict[str, Any]:
        return {
            "settings": dict(self.settings), "model": dict(self.model),
            "layers": list(self.layers), "heads": list(self.heads),
        }  # fmt: skip

    def completed(self, receipts: tuple[Receipt, ...]) -> "Manifest":
        """Return the manifest of the finished run."""
        return replace(self, complete=True, receipts=receipts)

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as it stands in its file."""
        return {
            "format": FORMAT,
            "format_version": ".".join(map(str, self.version)),
            **self._identity(),
            "keep": list(self.keep),
            "encoding": self.encoding,
            "settings_hash": self.settings_hash,
            "plan": [[{"id": r.id, "digest": r.digest} for r in chunk] for chunk in self.plan],
            "created": self.created,
            "complete": self.complete,
            "receipts": [receipt.to_json() for receipt in self.receipts],
        }

    @classmethod
    def from_json(cls, value: Any, where: str) -> "Manifest":
        """Check and take what a manifest file says.

        Raises:
            FormatError: If it is no manifest, of a newer major version, or incomplete.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise FormatError(
                "this is no manifest of a run", where=where, expected=f"format '{FORMAT}'"
            )
        version = _version(value, where)
        settings = _take(value, "settings", dict, where)
        for name, kind in (("keep", list), ("encoding", str)):
            _take(settings, name, kind, where)
        check_attribute(settings, where)
        plan = tuple(
            tuple(
                PlannedRecord(_take(r, "id", str, where), _take(r, "digest", str, where))
                for r in _listed(chunk, "plan", where)
            )
            for chunk in _take(value, "plan", list, where)
        )
        return cls(
            settings=settings,
            model=_take(value, "model", dict, where),
            layers=_numbers(value, "layers", where),
            heads=_numbers(value, "heads", where),
            plan=plan,
            created=_take(value, "created", str, where),
            complete=_take(value, "complete", bool, where),
            receipts=tuple(
                Receipt.from_json(receipt, where)
                for receipt in _take(value, "receipts", list, where)
            ),
            version=version,
        )


def check_attribute(settings: Mapping[str, Any], where: str) -> None:
    """Check the names of attribution methods, which become names of datasets.

    Raises:
        FormatError: If one cannot be a name, stands twice, or there are too many.
    """
    methods, params = settings.get("attribute", []), settings.get("attribute_params", {})
    good = (
        isinstance(methods, list)
        and len(methods) <= MAX_METHODS
        and all(isinstance(name, str) and METHOD_NAME.fullmatch(name) for name in methods)
        and len(set(methods)) == len(methods)
    )
    if not good:
        raise FormatError(
            "'settings.attribute' is no list of attribution methods", where=where, got=repr(methods)[:200],
            expected=f"at most {MAX_METHODS} different names of a-z, 0-9 and _",
        )  # fmt: skip
    known = isinstance(params, dict) and params.keys() <= set(methods)
    if not known or not all(isinstance(entry, dict) for entry in params.values()):
        raise FormatError(
            "'settings.attribute_params' does not fit 'settings.attribute'", where=where,
            expected="an object of parameters for each method",
        )  # fmt: skip


def _version(value: dict[str, Any], where: str) -> tuple[int, int]:
    text = _take(value, "format_version", str, where)
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise FormatError("the format version cannot be read", where=where, got=repr(text))
    if int(major) > FORMAT_VERSION[0]:
        raise FormatError(
            "this run was written by a newer attnprobe",
            where=where,
            got=f"format version {text}",
            expected=f"at most {FORMAT_VERSION[0]}.x",
            fix="upgrade attnprobe",
        )
    return int(major), int(minor)


def _take(value: Any, name: str, kind: type, where: str) -> Any:
    found = value.get(name) if isinstance(value, dict) else None
    good = isinstance(found, (int, float) if kind is float else kind)
    if not good or (isinstance(found, bool) and kind is not bool):
        raise FormatError(
            f"'{name}' is missing or of the wrong kind", where=where, expected=kind.__name__
        )
    return found


def _whole(value: Any, name: str, where: str) -> int:
    number = _take(value, name, int, where)
    if not 0 <= number < 2**62:
        raise FormatError(f"'{name}' is out of range", where=where, got=number)
    return number


def _listed(value: Any, name: str, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise FormatError(f"'{name}' is of the wrong kind", where=where, expected="lists")
    return value


def _numbers(value: Any, name: str, where: str) -> tuple[int, ...]:
    numbers = _take(value, name, list, where)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise FormatError(f"'{name}' is no list of whole numbers", where=where)
    return tuple(numbers)


def _column(records: Any, name: str, n_records: int, where: str) -> list[Any]:
    column, kind = _take(records, name, list, where), RECORD_COLUMNS[name]
    kinds = (int, float) if kind is float else (kind,)
    if len(column) != n_records or not all(type(entry) in kinds for entry in column):
        raise FormatError(
            f"'records.{name}' is damaged", where=where, expected=f"{n_records} of {kind.__name__}"
        )
    return column


def plain(value: Any, where: str) -> Any:
    """Return a value as JSON gives it back (tuples as lists), so that two can be compared.

    Raises:
        StoreError: If JSON cannot hold it.
    """
    try:
        return json.loads(canonical_json(value))
    except (TypeError, ValueError) as error:
        raise StoreError(
            "a value cannot be written as JSON", where=where, got=str(error),
            expected="text, finite numbers, booleans, lists and dicts",
        ) from error  # fmt: skip


def read_json(path: Path) -> Any:
    """Read a JSON file of a run.

    Raises:
        FormatError: If it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FormatError(
            "a file of the run is missing", where=str(path), fix="is this the folder of a run?"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError("a file of the run cannot be read", where=str(path), got=error) from error


def read_manifest(run: Path) -> Manifest:
    """Read the manifest of a run."""
    path = run / MANIFEST
    return Manifest.from_json(read_json(path), str(path))


def read_receipt(run: Path, chunk: int) -> Receipt | None:
    """Read the receipt of a chunk, if it has one."""
    path = run / SHARDS / receipt_name(chunk)
    if not path.exists():
        return None
    receipt = Receipt.from_json(read_json(path), str(path))
    if receipt.chunk != chunk:
        raise FormatError("the receipt is of another chunk", where=str(path), got=receipt.chunk)
    return receipt


def write_receipt(run: Path, receipt: Receipt) -> None:
    """Write the receipt of a sealed shard."""
    write_json(run / SHARDS / receipt_name(receipt.chunk), receipt.to_json())
