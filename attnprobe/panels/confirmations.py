"""Chosen heads against random ones, as lines."""

import numpy as np

from attnprobe.contrasts.confirmation import CHOSEN, RANDOM, Confirmation
from attnprobe.errors import SelectionError, nearest
from attnprobe.panels.lines import Line, LinePanel

_NAMES = {
    "log_prob": ("change in log-probability", "nat"),
    "passed": ("change in pass rate", "share"),
}


def confirmation_panels(found: Confirmation, outcome: str = "log_prob") -> tuple[LinePanel, ...]:
    """Arrange what interventions change: sets of random heads in order, chosen ones across.

    Args:
        found: From `confirm`.
        outcome: `log_prob` or `passed`.

    Returns:
        A panel for each intervention and style, with shared limits.

    Raises:
        SelectionError: If there is no such outcome.
    """
    rows = [row for row in found.to_table() if row["outcome"] == outcome]
    there = sorted({row["outcome"] for row in found.to_table()})
    if not rows:
        raise SelectionError(
            "the confirmation does not hold this outcome", got=outcome, fix=nearest(outcome, there)
        )
    chosen = [row for row in rows if row["heads"] == CHOSEN and row["estimate"] is not None]
    panels = [(row, _lines(found, row)) for row in chosen]
    values = [
        part for _, lines in panels for line in lines for part in (line.y, line.low, line.high)
    ]
    known = np.concatenate([part for part in values if part is not None])
    low, high = min(0.0, float(np.nanmin(known))), max(0.0, float(np.nanmax(known)))
    room = 0.05 * (high - low) or 1.0
    name, unit = _NAMES[outcome]
    n_heads = len(found.heads)
    return tuple(
        LinePanel(
            lines=lines,
            title=f"{row['intervention']}, {row['style']}",
            x_axis="set of random heads, by its change",
            name=name,
            unit=unit,
            limits=(low - room, high + room),
            level=0.0,
            note=f"{n_heads} heads chosen on other items, against sets of as many random heads of "
            f"the same layers. Bands: 95 % intervals over {found.settings['by']}s. The claim "
            f"holds for: {found.settings['scope']}.",
        )
        for row, lines in panels
    )


def _lines(found: Confirmation, row: dict[str, object]) -> tuple[Line, ...]:
    asked = {key: row[key] for key in ("outcome", "style", "intervention")}
    drawn = np.sort([one["change"] for one in found.draws if asked.items() <= one.items()])
    places = np.arange(1.0, len(drawn) + 1)
    ends = np.array([1.0, max(2.0, float(len(drawn)))])
    mean = next(
        one for one in found.to_table() if asked.items() <= one.items() and one["heads"] == RANDOM
    )
    return (
        _across(CHOSEN, ends, row),
        _across("mean of random heads", ends, mean),
        Line("a set of random heads", places, drawn),
    )


def _across(label: str, ends: np.ndarray, row: dict[str, object]) -> Line:
    y, low, high = (np.full(2, float(str(row[name]))) for name in ("estimate", "low", "high"))
    return Line(label, ends, y, low, high)
