"""Which records are trained on, and which only measured."""

import hashlib
import json
from collections.abc import Iterable, Sequence

from attnprobe.errors import RecordError
from attnprobe.records import record_to_json
from attnprobe.types import Record


def checked(records: Iterable[Record], what: str) -> list[Record]:
    """Read records that can be learned from.

    Raises:
        RecordError: If there is none, or one has no target.
    """
    found = []
    for record in records:
        if not record.target_text.strip():
            raise RecordError(
                "there is no target to learn",
                where=f"{record.where or 'record'} (id '{record.id}')",
                fix="give it a 'target', or leave the record out",
            )  # fmt: skip
        found.append(record)
    if not found:
        raise RecordError(f"no records {what}", expected="at least one")
    return found


def held_back(
    records: Sequence[Record], share: float, seed: int
) -> tuple[list[Record], list[Record]]:
    """Set a share of the items apart, with all their styles.

    Args:
        records: What there is.
        share: Of the items, from 0 to 1.
        seed: Says which; an item's place among the others does not matter.

    Returns:
        Records to train on and records to measure; of two or more items each gets at least one,
        unless the share is 0.
    """
    items = sorted({record.item for record in records}, key=lambda item: _digest(f"{seed}/{item}"))
    count = min(max(round(share * len(items)), 1), len(items) - 1) if share else 0
    apart = set(items[:count])
    trained = [record for record in records if record.item not in apart]
    return trained, [record for record in records if record.item in apart]


def data_digest(records: Iterable[Record]) -> str:
    """Return the SHA-256 of records as JSON lines, however they were stored."""
    digest = hashlib.sha256()
    for record in records:
        line = json.dumps(record_to_json(record), ensure_ascii=False, sort_keys=True)
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
