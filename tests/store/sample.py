"""Writes the sample run of a format version: `python -m tests.store.sample tests/data/run-1.0`."""

import sys
from pathlib import Path

from tests.store.builders import edit_json, make_captures, open_writer, write_missing

KEEP = ("rows", "steps", "pooled")


def write_sample(path: Path) -> None:
    """Write two records in two shards, the same bytes whenever it is done."""
    captures = make_captures(tasks=1, items_per_task=1, n_heads=2)
    writer = open_writer(path, captures, keep=KEEP, chunk_size=1)
    write_missing(writer, captures, chunk_size=1)
    edit_json(path / "manifest.json", lambda m: m.update(created="2026-01-01T00:00:00+00:00"))


if __name__ == "__main__":
    write_sample(Path(sys.argv[1]))
