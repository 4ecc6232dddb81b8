"""What a report is told beside the run: the contrast, the scores, and what must be said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attnprobe.contrasts import Contrast


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the reader must know; the page words each kind in its languages."""

    kind: str
    """Name of the wording, such as `unfinished`."""
    values: Mapping[str, str | int | float] = field(default_factory=dict)
    """What the wording names."""

    def to_json(self) -> dict[str, Any]:
        """Return the notice as it travels."""
        return {"kind": self.kind, "values": dict(self.values)}


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found out about a run before it is shown."""

    a: str
    """Style that is shown first."""
    b: str | None = None
    """Style it is held against; None where the run has one style only."""
    measure: str = "enrichment"
    """One of `attnprobe.measures.MEASURES`."""
    query: str = "answer"
    """Role of the predicted tokens that look."""
    key: str = "history"
    """Role that is looked at."""
    contrast: Contrast | None = None
    """Style a against style b; None where they could not be compared."""
    scores: Sequence[Mapping[str, Any]] = ()
    """Pass rates, a row per style and split, as `score_table` gives them; none without texts."""
    passed: Mapping[str, bool | None] = field(default_factory=dict)
    """Whether the answer of a record passed; None for those that have no pass rate."""
    notices: tuple[Notice, ...] = ()
    """What went wrong on the way here, such as a contrast that was refused."""
    alpha: float = 0.05
    """Family-wise error rate at which a head counts as different."""
