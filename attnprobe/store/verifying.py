"""Reads a run through and lists every fault: what was damaged, and what was never right."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from attnprobe.errors import FormatError
from attnprobe.store import guard
from attnprobe.store.consistency import check_consistency
from attnprobe.store.layout import MANIFEST, SHARDS, receipt_name, shard_name
from attnprobe.store.manifest import Manifest, read_manifest
from attnprobe.store.publish import is_temporary
from attnprobe.store.receipts import Receipt, read_receipt
from attnprobe.store.recordcheck import RecordCheck, worded
from attnprobe.store.shard import Shard

_NUMBER = re.compile(r"chunk-(\d{5,12})\.(?:h5|json)")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a run."""

    where: str
    """File, relative to the run."""
    record: str | None
    """Id of the record, if it is one record's."""
    what: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at, and what was found."""

    path: Path
    full: bool
    """Whether every record was decoded."""
    complete: bool
    """Whether every chunk of the plan is sealed."""
    n_shards: int
    """Sealed shards that were looked at."""
    n_records: int
    """Records in them."""
    faults: tuple[Fault, ...]

    @property
    def good(self) -> bool:
        """Whether no fault was found."""
        return not self.faults


def verify(
    path: Path | str,
    *,
    full: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Look a run over for damage. What is found is listed, not raised, and the rest goes on.

    The quick check compares every file with its checksum, and reads the structure of every shard.
    The full one decodes every record as well: its CRC-32, its tokens and digest, that its spans
    partition the tokens, and that probabilities sum to 1 as exactly as encoding and model allow
    (to at most 1 where the manifest's model has `softmax_sinks`, which take a share unseen).

    Args:
        path: Folder of the run; an unfinished one is looked at as far as it is.
        full: Whether to decode every record.
        on_progress: Called with shards done and sealed shards in all.

    Raises:
        FormatError: If nothing of a run is there.
    """
    path = Path(path)
    if not (path / MANIFEST).exists() and not (path / SHARDS).is_dir():
        raise FormatError("there is no run", where=str(path), expected=f"a folder with {MANIFEST}")
    try:
        manifest = read_manifest(path)
    except FormatError as error:
        fault = Fault(MANIFEST, None, worded(error))
        return Verification(path, full, complete=False, n_shards=0, n_records=0, faults=(fault,))
    faults = list(_strangers(path, manifest))
    receipts, unfit = _receipts(path, manifest)
    faults += unfit
    on_progress(0, len(receipts))
    for done, receipt in enumerate(receipts, 1):
        faults += _shard_faults(path, manifest, receipt, full=full)
        on_progress(done, len(receipts))
    n_records = sum(receipt.counts["record"] for receipt in receipts)
    return Verification(path, full, manifest.complete, len(receipts), n_records, tuple(faults))


def _strangers(path: Path, manifest: Manifest) -> Iterator[Fault]:
    """Name what does not belong among the shards."""
    folder, n_chunks = path / SHARDS, len(manifest.plan)
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        number = _NUMBER.fullmatch(file.name)
        chunk = int(number[1]) if number else n_chunks
        known = chunk < n_chunks and file.name in (shard_name(chunk), receipt_name(chunk))
        if not known and not is_temporary(file.name):
            yield Fault(f"{SHARDS}/{file.name}", None, "the file does not belong to the run")


def _receipts(path: Path, manifest: Manifest) -> tuple[list[Receipt], list[Fault]]:
    """Return the receipts to go by, and what is wrong with those in files."""
    found: list[Receipt] = []
    faults: list[Fault] = []
    plan, settings_hash = manifest.plan, manifest.settings_hash
    for chunk in range(len(plan)):
        listed = manifest.receipts[chunk] if manifest.complete else None
        try:
            receipt = read_receipt(path, chunk, plan, settings_hash)
            what = "the receipt is missing" if receipt is None else "says other than the manifest"
            wrong = listed is not None and receipt != listed
        except FormatError as error:
            receipt, what, wrong = None, worded(error), True
        if wrong:
            faults.append(Fault(f"{SHARDS}/{receipt_name(chunk)}", None, what))
        if listed is not None or receipt is not None:
            found.append(listed or receipt)  # pyright: ignore[reportArgumentType]
    return found, faults


def _shard_faults(
    path: Path, manifest: Manifest, receipt: Receipt, *, full: bool
) -> Iterator[Fault]:
    file, where = path / SHARDS / shard_name(receipt.chunk), _where(receipt)
    try:
        guard.check_sealed(file, receipt)
    except FormatError as error:
        yield Fault(where, None, worded(error))
        if not full or not file.is_file():
            return
    try:
        shard = Shard.open(file, receipt, manifest, sealed=True)
    except FormatError as error:
        yield Fault(where, None, worded(error))
        return
    try:
        yield from _content_faults(shard, manifest, receipt, full=full)
    finally:
        shard.close()


def _content_faults(
    shard: Shard, manifest: Manifest, receipt: Receipt, *, full: bool
) -> Iterator[Fault]:
    where, known = _where(receipt), ""
    try:
        check_consistency(shard)
    except FormatError as error:
        known = worded(error)
        yield Fault(where, None, known)
    if full:
        check = RecordCheck(shard, manifest, receipt)
        for record, record_id in enumerate(manifest.plan.column("id", receipt.chunk)):
            for what in dict.fromkeys(check.faults(record)):
                if what != known:  # a fault of the whole shard is not one of every record
                    yield Fault(where, record_id, what)


def _where(receipt: Receipt) -> str:
    return f"{SHARDS}/{shard_name(receipt.chunk)}"
