"""What a figure must say of the run that it shows."""

from typing import Any

from attnprobe.measures.runs import unfinished


def with_notice(note: str, run: Any) -> str:
    """Add to a note what the reader must know of the run."""
    return " ".join(filter(None, (note, unfinished(run))))
