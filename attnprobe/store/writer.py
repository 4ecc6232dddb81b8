"""Writes a run: creates or resumes it, seals one shard per chunk, completes the manifest."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnprobe.errors import FormatError, StoreError
from attnprobe.store.codes import code_named
from attnprobe.store.compare import differences
from attnprobe.store.jsonfile import plain
from attnprobe.store.layout import KEEPS, MANIFEST, SHARDS, receipt_name, shard_name
from attnprobe.store.manifest import (
    Manifest,
    check_attribute,
    is_run,
    read_manifest,
    write_manifest,
)
from attnprobe.store.plan import Plan, PlannedRecord
from attnprobe.store.publish import (
    is_temporary,
    make_folder,
    publish,
    remove_leftovers,
    sha256,
    sync,
    temporary_beside,
    told_plainly,
)
from attnprobe.store.receipts import Receipt, read_receipt, write_receipt
from attnprobe.store.shardwriter import ShardWriter


class RunWriter:
    """Writes one run. Made by `RunWriter.open`; several processes may hold one on the same run."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self.settings_hash = manifest.settings_hash

    @classmethod
    def open(
        cls,
        path: Path | str,
        settings: Mapping[str, Any],
        model: Mapping[str, Any],
        layers: Sequence[int],
        heads: Sequence[int],
        chunks: Sequence[Sequence[PlannedRecord]],
        *,
        overwrite: bool = False,
    ) -> "RunWriter":
        """Create a run, or resume one that was begun with the same settings.

        Args:
            path: Folder of the run.
            settings: What shaped the captures, JSON values; `keep` and `encoding` among them.
            model: What was captured, JSON values.
            layers: Model layer of each entry of the layer axis.
            heads: Query head of each entry of the head axis.
            chunks: The plan: which records stand in which shard, in the order of the data.
            overwrite: Remove the files of a run that is already there.

        Raises:
            StoreError: If the folder holds something else, or a run with other settings.
        """
        path = Path(path)
        asked = planned_manifest(settings, model, layers, heads, chunks)
        with told_plainly(path):
            _refuse_foreign(path)
            if overwrite:
                _empty_run(path)
            make_folder(path / SHARDS)
            remove_leftovers(path)
            remove_leftovers(path / SHARDS)
            write_manifest(path, asked, exclusive=not overwrite)
            sync(path)
        return cls(path, _same(read_manifest(path), asked, path))

    def missing(self) -> tuple[int, ...]:
        """Return the chunks that have no sealed and receipted shard, in order.

        A shard that was published just before a crash, without its receipt, is read through; if it
        is whole it gets its receipt, otherwise it is removed and its chunk counts as missing.
        """
        return tuple(c for c in range(len(self.manifest.plan)) if self._receipt(c) is None)

    @contextlib.contextmanager
    def chunk(self, index: int) -> Iterator[ShardWriter]:
        """Open a chunk for its captures; leaving the block normally seals it.

        An exception leaves no trace of the chunk. A chunk that someone else sealed meanwhile stays
        as it is.
        """
        if not 0 <= index < len(self.manifest.plan):
            raise StoreError(
                "there is no such chunk", where=str(self.path), got=index,
                expected=f"0 to {len(self.manifest.plan) - 1}",
            )  # fmt: skip
        final = self.path / SHARDS / shard_name(index)
        temporary = temporary_beside(final)
        try:
            sink = ShardWriter(temporary, self.manifest, index, self.manifest.plan[index])
            try:
                yield sink
                sink.finish()
            finally:
                sink.close()
            with told_plainly(final):
                self._seal(temporary, final, sink, index)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def complete(self) -> None:
        """Write all receipts into the manifest.

        Raises:
            StoreError: If a chunk is missing.
        """
        receipts = [self._receipt(chunk) for chunk in range(len(self.manifest.plan))]
        sealed = tuple(receipt for receipt in receipts if receipt is not None)
        if len(sealed) < len(receipts):
            raise StoreError(
                "the run is not finished", where=str(self.path),
                got=f"{len(sealed)} of {len(receipts)} chunks", fix="give the same command again",
            )  # fmt: skip
        self.manifest = self.manifest.completed(sealed)
        with told_plainly(self.path):
            write_manifest(self.path, self.manifest)

    def _seal(self, temporary: Path, final: Path, sink: ShardWriter, chunk: int) -> None:
        size, digest = temporary.stat().st_size, sha256(temporary)
        if publish(temporary, final):
            receipt = Receipt(chunk, size, digest, sink.counts, sink.listed)
            write_receipt(self.path, receipt, self.manifest.plan, self.settings_hash)

    def _receipt(self, chunk: int) -> Receipt | None:
        shard = self.path / SHARDS / shard_name(chunk)
        receipt = read_receipt(self.path, chunk, self.manifest.plan, self.settings_hash)
        if receipt is None:
            return self._receipt_late(shard, chunk) if shard.exists() else None
        if not shard.exists():
            (self.path / SHARDS / receipt_name(chunk)).unlink(missing_ok=True)
            return None
        if shard.stat().st_size != receipt.bytes:
            raise StoreError(
                "a sealed shard is damaged", where=str(shard),
                got=f"{shard.stat().st_size} bytes", expected=receipt.bytes,
                fix="delete it and give the same command again",
            )  # fmt: skip
        return receipt

    def _receipt_late(self, shard: Path, chunk: int) -> Receipt | None:
        from attnprobe.store.shard import receipt_from_shard

        try:
            receipt = receipt_from_shard(shard, self.manifest, chunk)
        except FormatError:
            shard.unlink(missing_ok=True)
            return None
        with told_plainly(shard):
            write_receipt(self.path, receipt, self.manifest.plan, self.settings_hash)
        return receipt


def planned_manifest(
    settings: Mapping[str, Any],
    model: Mapping[str, Any],
    layers: Sequence[int],
    heads: Sequence[int],
    chunks: Sequence[Sequence[PlannedRecord]],
) -> Manifest:
    """Check what a run is asked to be, and put it into a manifest.

    Raises:
        StoreError: If it is not understood, or a record stands in the plan twice.
    """
    manifest = Manifest(
        settings=plain(dict(settings), "settings"),
        model=plain(dict(model), "model"),
        layers=tuple(int(layer) for layer in layers),
        heads=tuple(int(head) for head in heads),
        plan=Plan.of(chunks),
    )
    _check_settings(manifest)
    repeated = [name for name, count in Counter(manifest.plan.ids).items() if count > 1]
    if repeated:
        raise StoreError(
            "a record id stands twice in the plan", got=repr(repeated[0]),
            fix="give every record its own id",
        )  # fmt: skip
    if not all(manifest.plan.sizes) or not manifest.plan.sizes:
        raise StoreError("a chunk of the plan is empty", expected="at least one record in each")
    return manifest


def _check_settings(manifest: Manifest) -> None:
    for name in ("keep", "encoding"):
        if name not in manifest.settings:
            raise StoreError(f"settings lack '{name}'", got=sorted(manifest.settings))
    keep = manifest.settings["keep"]
    if not isinstance(keep, list) or not keep or not set(keep) <= set(KEEPS):
        raise StoreError(
            "settings 'keep' is not understood", got=keep, expected=f"some of {', '.join(KEEPS)}"
        )
    code_named(manifest.encoding)
    check_attribute(manifest.settings, "settings")
    if not manifest.layers or not manifest.heads:
        raise StoreError("a run needs at least one layer and one head")


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise StoreError("this is a file, not a folder", where=str(path), fix="name another folder")
    if not path.exists() or (path / MANIFEST).exists():
        return
    foreign = [
        entry.name
        for entry in path.iterdir()
        if not is_temporary(entry.name) and not _is_bare(entry)
    ]
    if foreign:
        raise StoreError(
            "the folder is not empty and holds no run", where=str(path),
            got=", ".join(sorted(foreign)[:3]), fix="name another folder",
        )  # fmt: skip


def _is_bare(entry: Path) -> bool:
    """Whether this is the shard folder of a run whose manifest was not yet written."""
    return entry.name == SHARDS and all(is_temporary(file.name) for file in entry.iterdir())


def _empty_run(path: Path) -> None:
    """Remove the shards of a run; its manifest is replaced afterwards, so that it stays a run."""
    if not (path / MANIFEST).exists():
        return
    if not is_run(path):
        raise StoreError("the folder holds no run", where=str(path), fix="name another folder")
    shards = path / SHARDS
    for file in (*shards.glob("chunk-*.h5"), *shards.glob("chunk-*.json")):
        file.unlink(missing_ok=True)


def _same(run: Manifest, asked: Manifest, path: Path) -> Manifest:
    lines = differences(run, asked)
    if lines:
        raise StoreError(
            "a run with other settings is here; name another folder, or remove or overwrite this "
            "one:\n  "
            + "\n  ".join(lines),
            where=str(path),
        )  # fmt: skip
    return run
