"""Runs on disk: written shard by shard, read as labelled arrays. `FORMAT.md` is the contract."""

from typing import TYPE_CHECKING, Any

from attnprobe.store.codes import CODES, Code, decode, encode
from attnprobe.store.layout import FORMAT_VERSION, KEEPS, MANIFEST
from attnprobe.store.manifest import is_run, read_manifest
from attnprobe.store.plan import PlannedRecord
from attnprobe.store.verifying import Fault, Verification, verify
from attnprobe.store.writer import RunWriter

if TYPE_CHECKING:
    from attnprobe.store.reader import Run, open_run

__all__ = [
    "CODES", "FORMAT_VERSION", "KEEPS", "MANIFEST", "Code", "Fault", "PlannedRecord", "Run",
    "RunWriter", "Verification", "decode", "encode", "is_run", "open_run", "read_manifest",
    "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("Run", "open_run"):  # only these need xarray and pandas
        from attnprobe.store import reader

        return getattr(reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
