"""What is lost while tokens are taken away by rank, as lines."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attnprobe.contrasts import Changes
from attnprobe.contrasts.curves import ORDERS
from attnprobe.errors import SelectionError, nearest
from attnprobe.panels.lines import Line, LinePanel

_ORDER_NAMES = {"morf": "highest rank first", "lerf": "lowest rank first"}
_NOTE = (
    "A good ranking loses much at once where the highest rank goes first (MoRF), and little for "
    "long where the lowest does (LeRF)."
)


def curve_panels(changes: Changes, perturbation: str = "knockout") -> tuple[LinePanel, ...]:
    """Arrange the loss along the way, a panel for each style and order, a line for each method.

    Args:
        changes: What `faithfulness_changes` found.
        perturbation: Which one's.

    Returns:
        Panels that share their limits.

    Raises:
        SelectionError: If the changes hold no curves, or none of this perturbation.
    """
    if not changes.curves:
        raise SelectionError(
            "the changes hold no curves", got=changes.title,
            expected="what `attnprobe faithfulness RUN -o changes.json` writes",
        )  # fmt: skip
    rows = [row for row in changes.curves if row["perturbation"] == perturbation]
    if not rows:
        raise SelectionError(
            "the changes do not hold this perturbation", got=perturbation,
            fix=nearest(perturbation, {str(row["perturbation"]) for row in changes.curves}),
        )  # fmt: skip
    ends = [row[end] for row in rows for end in ("low", "high")]
    room = 0.04 * (max(ends) - min(ends) or 1.0)
    limits = (min(ends) - room, max(ends) + room)
    unit = "tasks" if changes.settings.get("by") == "task" else "items"
    note = f"{_NOTE} Bands are bootstrap intervals over {unit}, each of one point by itself."
    return tuple(
        LinePanel(
            lines=tuple(
                _line(method, [row for row in own if row["method"] == method])
                for method in dict.fromkeys(row["method"] for row in own)
            ),
            title=f"{style}: {_ORDER_NAMES[order]}",
            x_axis=f"share of tokens taken away (by {perturbation})",
            name="loss of log-probability",
            unit="nat",
            limits=limits,
            note=note,
        )
        for style in dict.fromkeys(row["style"] for row in rows)
        for order in ORDERS
        for own in [[r for r in rows if r["style"] == style and r["order"] == order]]
        if own
    )


def _line(method: str, rows: Sequence[Mapping[str, Any]]) -> Line:
    values = {
        name: np.array([row[name] for row in rows], np.float64)
        for name in ("share", "loss", "low", "high")
    }
    return Line(method, values["share"], values["loss"], values["low"], values["high"])
