"""What a figure must say of the run that it shows."""

from typing import Any


def unfinished(run: Any) -> str:
    """Say how far an unfinished run is; nothing of a finished one."""
    if getattr(run, "complete", True):
        return ""
    records = run.info()["records"]
    return f"The run is unfinished: {records['sealed']} of {records['planned']} records so far."


def with_notice(note: str, run: Any) -> str:
    """Add to a note what the reader must know of the run."""
    return " ".join(filter(None, (note, unfinished(run))))
