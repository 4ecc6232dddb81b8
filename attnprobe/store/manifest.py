"""The manifest of a run: settings, model, plan, and how far it is."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnprobe.errors import FormatError
from attnprobe.store.codes import CODES
from attnprobe.store.jsoncheck import (
    take,
    take_hash,
    take_hashes,
    take_numbers,
    take_shallow,
)
from attnprobe.store.jsonfile import canonical_json, read_json, read_start, write_json
from attnprobe.store.layout import (
    FORMAT,
    FORMAT_VERSION,
    KEEPS,
    MANIFEST,
    MAX_METHODS,
    METHOD_NAME,
    RAGGED,
    Column,
    attribution_columns,
    kept_columns,
)
from attnprobe.store.plan import Plan
from attnprobe.store.receipts import (
    MAX_RECEIPT_ENTRIES,
    MAX_RECORD_BYTES,
    MAX_RECORD_ENTRIES,
    RECORD_COLUMNS,
    Receipt,
    records_from_json,
)

MAX_RECORDS = 10**6
MAX_SETTINGS_BYTES = 2**20
"""Most bytes of what a manifest holds beside its records."""
_START = re.compile(
    rb'\{"format":"(?P<format>[^"]{0,64})",\s*"format_version":"(?P<version>[^"]{0,32})"'
    rb'(?:,\s*"n_records":(?P<n_records>\d{1,18})\b)?'
)
"""How a manifest begins: enough to refuse it before the rest is read."""


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
        """What is stored of each record: `rows`, `full`, `steps`, `pooled`, `value_norms`."""
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
        credited = {column.name: column for column in attribution_columns(units)}
        return {**kept_columns(self.keep), **credited}

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
            "n_records": len(self.plan.ids),
            "complete": self.complete,
            "created": self.created,
            **self._identity(),
            "settings_hash": self.settings_hash,
            "plan": self.plan.to_json(),
            **_receipts_to_json(self.receipts),
        }

    @classmethod
    def from_json(cls, value: Any, where: str) -> "Manifest":
        """Check and take what a manifest file says.

        Raises:
            FormatError: If something is missing, of the wrong kind, or does not fit together.
        """
        settings = take_shallow(value, "settings", where)
        for name, kind in (("keep", list), ("encoding", str)):
            take(settings, name, kind, where)
        check_attribute(settings, where)
        if settings["encoding"] not in CODES or not _are_keeps(settings["keep"]):
            raise FormatError(
                "'settings' ask for what this version does not know", where=where,
                got=f"encoding {settings['encoding']!r:.40}, keep {settings['keep']!r:.80}",
                expected=f"one of {', '.join(CODES)}; some of {', '.join(KEEPS)}",
            )  # fmt: skip
        n_records = take(value, "n_records", int, where)
        plan = Plan.from_json(take(value, "plan", dict, where), n_records, f"{where}, 'plan'")
        begun = cls(
            settings=settings,
            model=take_shallow(value, "model", where),
            layers=tuple(take_numbers(value, "layers", where)),
            heads=tuple(take_numbers(value, "heads", where)),
            plan=plan,
            created=take(value, "created", str, where),
            version=_version(take(value, "format_version", str, where), where),
        )
        if take_hash(value, "settings_hash", where) != begun.settings_hash:
            raise FormatError("'settings_hash' is not that of the settings", where=where)
        if not take(value, "complete", bool, where):
            return begun
        return begun.completed(_receipts_from_json(value, plan, where))


def _receipts_to_json(receipts: tuple[Receipt, ...]) -> dict[str, Any]:
    """Write receipts in columns; chunk and ids follow from the plan."""
    if not receipts:
        return {"shards": {}, "records": {}}
    counts = {axis: [r.counts[axis] for r in receipts] for axis in receipts[0].counts}
    records = {
        name: [entry for receipt in receipts for entry in receipt.records[name]]
        for name in RECORD_COLUMNS
    }
    shards = {"bytes": [r.bytes for r in receipts], "sha256": [r.sha256 for r in receipts]}
    return {"shards": shards | {"counts": counts}, "records": records}


def _receipts_from_json(value: Any, plan: Plan, where: str) -> tuple[Receipt, ...]:
    shards, n_chunks = take(value, "shards", dict, where), len(plan)
    sizes = take_numbers(shards, "bytes", where, n_chunks)
    hashes = take_hashes(shards, "sha256", where, n_chunks)
    counts = take(shards, "counts", dict, where)
    columns = {axis: take_numbers(counts, axis, where, n_chunks) for axis in ("record", *RAGGED)}
    if columns["record"] != list(plan.sizes):
        raise FormatError("the shards do not hold the records of the plan", where=where)
    records = take(value, "records", dict, where)
    listed = records_from_json(records, len(plan.ids), where)
    return tuple(
        Receipt(
            chunk, sizes[chunk], hashes[chunk],
            {axis: column[chunk] for axis, column in columns.items()},
            {name: column[plan.extent(chunk)] for name, column in listed.items()},
        )
        for chunk in range(n_chunks)
    )  # fmt: skip


def _are_keeps(keep: list[Any]) -> bool:
    return bool(keep) and all(isinstance(name, str) and name in KEEPS for name in keep)


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
            "'settings.attribute' is no list of attribution methods", where=where,
            got=repr(methods)[:200],
            expected=f"at most {MAX_METHODS} different names of a-z, 0-9 and _",
        )  # fmt: skip
    known = isinstance(params, dict) and params.keys() <= set(methods)
    if not known or not all(isinstance(entry, dict) for entry in params.values()):
        raise FormatError(
            "'settings.attribute_params' does not fit 'settings.attribute'", where=where,
            expected="an object of parameters for each method",
        )  # fmt: skip


def _version(text: str, where: str) -> tuple[int, int]:
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


def read_manifest(run: Path) -> Manifest:
    """Read the manifest of a run.

    Raises:
        FormatError: If it is missing, damaged, of a newer major version, or no manifest.
    """
    path = run / MANIFEST
    n_records = _announced(path)
    value = read_json(
        path,
        MAX_SETTINGS_BYTES + n_records * MAX_RECORD_BYTES,
        16 * MAX_RECEIPT_ENTRIES + n_records * MAX_RECORD_ENTRIES,
    )
    return Manifest.from_json(value, str(path))


def is_run(path: Path) -> bool:
    """Whether a folder has the manifest of a run, of any version, be it damaged."""
    try:
        start = _START.match(read_start(path / MANIFEST, 256))
    except FormatError:
        return False
    return start is not None and start["format"] == FORMAT.encode()


def write_manifest(run: Path, manifest: Manifest, *, exclusive: bool = False) -> None:
    """Write the manifest of a run; an exclusive one leaves an existing file alone."""
    write_json(run / MANIFEST, manifest.to_json(), exclusive=exclusive)


def _announced(path: Path) -> int:
    """Return how many records a manifest says it has, from its first bytes."""
    start = _START.match(read_start(path, 256))
    if start is None or start["format"] != FORMAT.encode():
        raise FormatError(
            "this is no manifest of a run", where=str(path), expected=f"format '{FORMAT}'"
        )
    _version(start["version"].decode("utf-8", "replace"), str(path))
    n_records = int(start["n_records"] or 0)
    if not 1 <= n_records <= MAX_RECORDS:
        raise FormatError(
            "'n_records' is missing or out of range", where=str(path), got=n_records,
            expected=f"1 to {MAX_RECORDS}",
        )  # fmt: skip
    return n_records
