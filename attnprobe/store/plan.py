"""Which records stand in which shard: fixed when a run is begun, in the order of the data."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from attnprobe.errors import FormatError
from attnprobe.store.jsoncheck import take_hashes, take_names, take_numbers


@dataclass(frozen=True, slots=True)
class PlannedRecord:
    """A record that the plan gives to a chunk."""

    id: str
    digest: str
    """`Encoding.digest`: SHA-256 of everything that shapes the capture."""


@dataclass(frozen=True)
class Plan:
    """The records of every chunk, held in columns; `plan[chunk]` are those of one chunk."""

    sizes: tuple[int, ...]
    """Records of each chunk."""
    ids: tuple[str, ...]
    digests: tuple[str, ...]

    @classmethod
    def of(cls, chunks: Iterable[Sequence[PlannedRecord]]) -> "Plan":
        """Make a plan of chunks."""
        chunks = list(chunks)
        records = [record for chunk in chunks for record in chunk]
        return cls(
            tuple(map(len, chunks)), tuple(r.id for r in records), tuple(r.digest for r in records)
        )

    @classmethod
    def from_json(cls, value: Any, n_records: int, where: str) -> "Plan":
        """Check and take what a manifest says.

        Raises:
            FormatError: If something is missing, of the wrong kind, or does not fit together.
        """
        sizes = take_numbers(value, "sizes", where)
        ids = take_names(value, "id", where, n_records)
        digests = take_hashes(value, "digest", where, n_records)
        if sum(sizes) != n_records or not all(sizes):
            raise FormatError(
                "the chunks of the plan do not hold its records", where=where, got=sum(sizes),
                expected=f"{n_records} records, no chunk empty",
            )  # fmt: skip
        if len(set(ids)) != n_records:
            raise FormatError("a record id stands twice in the plan", where=where)
        return cls(tuple(sizes), tuple(ids), tuple(digests))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as it stands in a manifest."""
        return {"sizes": list(self.sizes), "id": list(self.ids), "digest": list(self.digests)}

    @cached_property
    def edges(self) -> tuple[int, ...]:
        """Number of the first record of each chunk, and of all records."""
        return tuple(accumulate(self.sizes, initial=0))

    def extent(self, chunk: int) -> slice:
        """Return which records of all are those of a chunk."""
        return slice(self.edges[chunk], self.edges[chunk + 1])

    def ids_of(self, chunk: int) -> tuple[str, ...]:
        """Return the ids of a chunk's records."""
        return self.ids[self.extent(chunk)]

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, chunk: int) -> tuple[PlannedRecord, ...]:
        extent = self.extent(range(len(self))[chunk])
        return tuple(map(PlannedRecord, self.ids[extent], self.digests[extent]))

    def __iter__(self) -> Iterator[tuple[PlannedRecord, ...]]:
        return (self[chunk] for chunk in range(len(self)))
