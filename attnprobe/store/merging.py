"""Puts runs of the same settings together: their shards, byte for byte, under new numbers."""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attnprobe.errors import FormatError, StoreError
from attnprobe.store.compare import differences
from attnprobe.store.layout import FORMAT_VERSION, SHARDS, shard_name
from attnprobe.store.manifest import Manifest, read_manifest
from attnprobe.store.publish import publish, temporary_beside, told_plainly
from attnprobe.store.receipts import Receipt, write_receipt
from attnprobe.store.writer import RunWriter

COPIED_AT_ONCE = 2**20


@dataclass(frozen=True, slots=True)
class _Source:
    """A shard that is to be copied."""

    run: Path
    receipt: Receipt

    @property
    def path(self) -> Path:
        return self.run / SHARDS / shard_name(self.receipt.chunk)


def merge(
    runs: Sequence[Path | str],
    out: Path | str,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Put the records of several runs into one, in the order in which the runs are given.

    A merge that was interrupted is continued by the same call, like an extraction.

    Args:
        runs: Folders of finished runs with the same settings, model, layers and heads, and with
            different records. They stay as they are.
        out: Folder of the new run.
        overwrite: Replace a run that is there.
        on_progress: Called with records done and records in all.

    Returns:
        `out`.

    Raises:
        StoreError: If the runs differ, share a record or are not finished.
        FormatError: If a shard is not what its receipt says.
    """
    paths, out = [Path(run) for run in runs], Path(out)
    if not paths:
        raise StoreError("there is nothing to merge", expected="at least one run")
    _refuse_overlap(paths, out)
    manifests = [_finished(path) for path in paths]
    _refuse_differences(paths, manifests)
    _refuse_shared_records(paths, manifests)
    sources = [
        _Source(path, receipt)
        for path, manifest in zip(paths, manifests, strict=True)
        for receipt in manifest.receipts
    ]
    first = manifests[0]
    writer = RunWriter.open(
        out, first.settings, first.model, first.layers, first.heads,
        [chunk for manifest in manifests for chunk in manifest.plan], overwrite=overwrite,
    )  # fmt: skip
    missing, sizes = writer.missing(), writer.manifest.plan.sizes
    done = sum(sizes) - sum(sizes[chunk] for chunk in missing)
    on_progress(done, sum(sizes))
    for chunk in missing:
        _copy(sources[chunk], out, chunk, writer)
        done += sizes[chunk]
        on_progress(done, sum(sizes))
    writer.complete()
    return out


def _refuse_overlap(paths: Sequence[Path], out: Path) -> None:
    for path in paths:
        if path.resolve() == out.resolve():
            raise StoreError(
                "a run cannot be merged into itself", where=str(path), fix="name another folder"
            )


def _finished(path: Path) -> Manifest:
    if path.is_file():
        raise StoreError(
            "this is a file, not a folder", where=str(path), expected="the folder of a run"
        )
    manifest = read_manifest(path)
    if not manifest.complete:
        raise StoreError(
            "the run is not finished", where=str(path),
            fix="give its extract command again, then merge",
        )  # fmt: skip
    if manifest.version > FORMAT_VERSION:
        newer, known = (".".join(map(str, pair)) for pair in (manifest.version, FORMAT_VERSION))
        raise StoreError(
            "the run holds more than this version can carry over", where=str(path),
            got=f"format version {newer}", expected=f"at most {known}", fix="upgrade attnprobe",
        )  # fmt: skip
    return manifest


def _refuse_differences(paths: Sequence[Path], manifests: Sequence[Manifest]) -> None:
    first = manifests[0]
    for path, manifest in zip(paths[1:], manifests[1:], strict=True):
        sides = (f"{paths[0]} has", f"{path} has")
        lines = differences(first, replace(manifest, plan=first.plan), sides)
        if lines:
            raise StoreError(
                "the runs were not made with the same settings; merge only such that were:\n  "
                + "\n  ".join(lines)
            )


def _refuse_shared_records(paths: Sequence[Path], manifests: Sequence[Manifest]) -> None:
    owner: dict[str, Path] = {}
    for path, manifest in zip(paths, manifests, strict=True):
        for record in (record for chunk in manifest.plan for record in chunk):
            if record.id in owner:
                raise StoreError(
                    f"record '{record.id}' stands in two runs",
                    where=f"{owner[record.id]} and {path}",
                    fix="merge runs of different records",
                )
            owner[record.id] = path


def _copy(source: _Source, out: Path, chunk: int, writer: RunWriter) -> None:
    """Copy a sealed shard under a new number; what differs from its receipt is not published."""
    final = out / SHARDS / shard_name(chunk)
    temporary = temporary_beside(final)
    try:
        size, digest = _copied(source.path, temporary)
        expected = source.receipt
        if (size, digest) != (expected.bytes, expected.sha256):
            raise FormatError(
                "the content is not what was sealed", where=str(source.path),
                got=f"{size} bytes, SHA-256 {digest[:12]}…",
                expected=f"{expected.bytes} bytes, {expected.sha256[:12]}…",
                fix="the shard was damaged; delete it, extract that run again, then merge",
            )  # fmt: skip
        with told_plainly(final):
            if publish(temporary, final):
                receipt = replace(source.receipt, chunk=chunk)
                write_receipt(out, receipt, writer.manifest.plan, writer.settings_hash)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _copied(source: Path, temporary: Path) -> tuple[int, str]:
    """Copy a file, and return its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    try:
        stream = source.open("rb")
    except OSError as error:
        raise FormatError(
            "the shard cannot be read", where=str(source), got=error.strerror,
            fix="delete its receipt and extract that run again, then merge",
        ) from error  # fmt: skip
    with stream, told_plainly(temporary), temporary.open("xb") as copy:
        while block := stream.read(COPIED_AT_ONCE):
            digest.update(block)
            size += copy.write(block)
    return size, digest.hexdigest()
