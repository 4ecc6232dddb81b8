"""How a comparison is tested: the settings of every contrast, checked once."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from attnprobe.contrasts.inputs import require_seed
from attnprobe.errors import ContrastError, nearest

ALPHA = 0.05
"""A test that cannot give a p-value below this is refused."""
MIN_UNITS = 6
"""Fewer units cannot give p < 0.05: with five, the smallest two-sided p is 2/2⁵ = 0.0625."""
MIN_UNITS_FOR_SCREENING = 12
"""From so many units on, single p-values are fine enough to screen heads by."""
SCOPES: Mapping[str, str] = {"task": "new tasks like these", "item": "these tasks only"}
"""What a claim speaks of, by the unit of inference."""
SCALES: Mapping[str, str] = {
    "difference": "a − b",
    "log-ratio": "log2 of the ratio of a to b, each averaged over the unit first",
}
"""On which scale two styles are compared."""
SCREENINGS: Mapping[str, str] = {
    "bh": "Benjamini & Hochberg (1995), for heads that do not counteract each other",
    "by": "Benjamini & Yekutieli (2001), for any dependence, and stricter",
}
"""Which false discovery rate screens single heads."""


@dataclass(frozen=True, slots=True)
class Inference:
    """Settings of tests and intervals."""

    by: str = "task"
    """Unit of inference: `task` for claims about new tasks, `item` for these tasks only."""
    n_flips: int = 10_000
    """Sign flips, or permutations of labels; all are enumerated where there are no more."""
    n_bootstrap: int = 2000
    """Resamples of the interval."""
    confidence: float = 0.95
    """Coverage of the interval."""
    screening: str = "bh"
    """One of `SCREENINGS`."""
    scale: str = "difference"
    """One of `SCALES`."""
    rng: int | np.random.Generator = 0
    """Seed or generator of flips and resamples."""

    def __post_init__(self) -> None:
        require_seed(self.rng)
        if self.by not in SCOPES:
            raise ContrastError(
                "no such unit of inference", got=f"by='{self.by}'", expected="task or item"
            )
        for kind, asked, known in (
            ("scale", self.scale, SCALES), ("false discovery rate", self.screening, SCREENINGS),
        ):  # fmt: skip
            if asked not in known:
                raise ContrastError(f"no such {kind}", got=f"'{asked}'", fix=nearest(asked, known))
        if not 0 < self.confidence < 1 or self.n_flips < 1 or self.n_bootstrap < 1:
            raise ContrastError(
                "the settings of the test make no sense",
                got=f"confidence={self.confidence}, n_flips={self.n_flips}, "
                f"n_bootstrap={self.n_bootstrap}",
                expected="confidence between 0 and 1, and at least one flip and one resample",
            )

    @property
    def units(self) -> str:
        """Name of the units in a text: tasks or items."""
        return f"{self.by}s"

    def to_attrs(self) -> dict[str, str | int | float]:
        """Return the settings as attributes of a dataset."""
        return {
            "by": self.by,
            "scope": SCOPES[self.by],
            "n_bootstrap": self.n_bootstrap,
            "confidence": self.confidence,
            "screening": self.screening,
            "scale": self.scale,
            "seed": self.rng if isinstance(self.rng, int) else "generator",
        }
