"""Which records stand in which shard: fixed when a run is begun, in the order of the data."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from attnprobe.errors import FormatError
from attnprobe.store.jsoncheck import (
    repeated,
    take_hashes,
    take_names,
    take_numbers,
    take_repeated,
)
from attnprobe.store.jsonfile import canonical_json
from attnprobe.types import Encoding

DIGEST_LENGTH = 32
"""Characters of `Encoding.digest`."""


@dataclass(frozen=True, slots=True)
class PlannedRecord:
    """A record that the plan gives to a chunk."""

    id: str
    digest: str
    """`Encoding.digest`: everything that shapes the capture."""
    item: str
    style: str
    task: str
    split: str

    @classmethod
    def of(cls, encoding: Encoding) -> "PlannedRecord":
        """Plan the capture of an encoded record."""
        r = encoding.record
        return cls(r.id, encoding.digest, r.item, r.style, r.task, r.split)


REPEATED = ("item", "style", "task", "split")
"""Names that many records share."""


@dataclass(frozen=True)
class Plan:
    """The records of every chunk, held in columns; `plan[chunk]` are those of one chunk."""

    sizes: tuple[int, ...]
    """Records of each chunk."""
    columns: Mapping[str, Sequence[str]]
    """The fields of `PlannedRecord`, each for all records."""

    @classmethod
    def of(cls, chunks: Iterable[Sequence[PlannedRecord]]) -> "Plan":
        """Make a plan of chunks."""
        chunks = list(chunks)
        records = [record for chunk in chunks for record in chunk]
        names = ("id", "digest", *REPEATED)
        columns = {name: tuple(getattr(record, name) for record in records) for name in names}
        return cls(tuple(map(len, chunks)), columns)

    @classmethod
    def from_json(cls, value: Any, n_records: int, where: str) -> "Plan":
        """Check and take what a manifest says.

        Raises:
            FormatError: If something is missing, of the wrong kind, or does not fit together.
        """
        sizes = take_numbers(value, "sizes", where)
        columns = {
            "id": take_names(value, "id", where, n_records),
            "digest": take_hashes(value, "digest", where, n_records, DIGEST_LENGTH),
        } | {name: take_repeated(value, name, where, n_records) for name in REPEATED}
        if sum(sizes) != n_records or not all(sizes):
            raise FormatError(
                "the chunks of the plan do not hold its records", where=where, got=sum(sizes),
                expected=f"{n_records} records, no chunk empty",
            )  # fmt: skip
        if len(set(columns["id"])) != n_records:
            raise FormatError("a record id stands twice in the plan", where=where)
        return cls(tuple(sizes), {name: tuple(column) for name, column in columns.items()})

    def to_json(self) -> dict[str, Any]:
        """Return the plan as it stands in a manifest."""
        shared = {name: repeated(self.columns[name]) for name in REPEATED}
        whole = {name: list(self.columns[name]) for name in ("id", "digest")}
        return {"sizes": list(self.sizes)} | whole | shared

    @property
    def ids(self) -> Sequence[str]:
        """Id of every record."""
        return self.columns["id"]

    @property
    def digests(self) -> Sequence[str]:
        """Digest of every record."""
        return self.columns["digest"]

    @cached_property
    def edges(self) -> tuple[int, ...]:
        """Number of the first record of each chunk, and of all records."""
        return tuple(accumulate(self.sizes, initial=0))

    def extent(self, chunk: int) -> slice:
        """Return which records of all are those of a chunk."""
        return slice(self.edges[chunk], self.edges[chunk + 1])

    def column(self, name: str, chunk: int) -> Sequence[str]:
        """Return a column of a chunk's records."""
        return self.columns[name][self.extent(chunk)]

    def mark(self, chunk: int, settings_hash: str) -> str:
        """Return the hash that binds a receipt to the settings of a run and a chunk's records."""
        known = [settings_hash, *(list(self.column(name, chunk)) for name in ("id", "digest"))]
        return hashlib.sha256(canonical_json(known).encode("ascii")).hexdigest()[:DIGEST_LENGTH]

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, chunk: int) -> tuple[PlannedRecord, ...]:
        extent = self.extent(range(len(self))[chunk])
        names = ("id", "digest", *REPEATED)
        return tuple(map(PlannedRecord, *(self.columns[name][extent] for name in names)))

    def __iter__(self) -> Iterator[tuple[PlannedRecord, ...]]:
        return (self[chunk] for chunk in range(len(self)))
