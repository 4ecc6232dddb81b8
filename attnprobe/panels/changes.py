"""What an intervention changes, as a map of layer windows and spans."""

import numpy as np

from attnprobe.contrasts import Changes
from attnprobe.contrasts.interventions import BEYOND, KNOCKOUT_AXES, OUTCOMES
from attnprobe.errors import SelectionError, nearest
from attnprobe.panels.panel import Panel, limits_around_zero

_NAMES = {
    "log_prob": "change in log-probability", "passed": "change in pass rate",
    BEYOND: "change in log-probability beyond that of random cuts",
}  # fmt: skip
_METRICS_NOTE = (
    "Higher is better for comprehensiveness and the area of MoRF, lower for sufficiency and the "
    "area of LeRF."
)


def change_panels(
    changes: Changes, outcome: str = "log_prob", alpha: float = 0.05
) -> tuple[Panel, ...]:
    """Arrange changes as windows of layers by spans, one panel for each style.

    Args:
        changes: What `knockout_changes` or `faithfulness_changes` found.
        outcome: `log_prob` or `passed`; of the latter, the perturbation.
        alpha: Family-wise error rate at which a cell is marked.

    Returns:
        Diverging panels that share their limits.

    Raises:
        SelectionError: If there is no such outcome.
    """
    if outcome not in changes.effects:
        raise SelectionError(
            "the changes do not hold this outcome", got=outcome,
            fix=nearest(outcome, changes.effects),
        )  # fmt: skip
    effects = changes.effects[outcome]
    limits = limits_around_zero(np.asarray(effects["estimate"].values, np.float64))
    unit = "tasks" if changes.settings.get("by") == "task" else "items"
    return tuple(
        _panel(changes, outcome, str(style), limits, alpha, unit)
        for style in effects["style"].values
    )


def _panel(
    changes: Changes, outcome: str, style: str, limits: tuple[float, float], alpha: float, unit: str
) -> Panel:
    cells = changes.effects[outcome].sel(style=style).transpose("window", "span")
    marks = np.asarray(cells["p_adjusted"].values < alpha)
    is_knockout = changes.axes == KNOCKOUT_AXES
    test = f"at a family-wise error rate of {alpha:g} (sign flips by {unit})"
    return Panel(
        values=np.asarray(cells["estimate"].values, np.float64),
        rows=tuple(map(str, cells["window"].values)),
        columns=tuple(map(str, cells["span"].values)),
        title=f"{style}: {changes.title}" + ("" if is_knockout else f", by {outcome}"),
        row_axis=changes.axes[0],
        column_axis="cut from" if is_knockout else changes.axes[1],
        name=_NAMES[outcome] if is_knockout else "difference from random rankings",
        unit=OUTCOMES[outcome] if is_knockout else "nat",
        limits=limits,
        diverging=True,
        marks=marks,
        mark_note=f"differs {test}" if marks.any() else f"No cell differs {test}.",
        note=f"Up to {int(np.nanmax(cells['n_items'].values))} records, each paired with itself."
        + ("" if is_knockout else f" {_METRICS_NOTE}"),
    )
