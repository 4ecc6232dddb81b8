"""Passed or failed as a map of heads."""

import numpy as np

from attnprobe.contrasts import PassFail
from attnprobe.panels.panel import Panel, limits_around_zero


def pass_fail_panel(result: PassFail, alpha: float = 0.05) -> Panel:
    """Arrange AUROCs as layers by heads, marking the heads that tell passed from failed.

    Args:
        result: From `pass_fail`.
        alpha: Family-wise error rate at which a head is marked.

    Returns:
        A panel that diverges from an AUROC of 0.5: rows are layers (the first on top), columns
        are heads.
    """
    effects = result.effects.transpose("layer", "head")
    values = np.asarray(effects["auroc"].values, dtype=np.float64) - 0.5
    marks = np.asarray(effects["p_adjusted"].values < alpha)
    notes = effects.attrs
    test = f"at a family-wise error rate of {alpha:g} (outcomes permuted within tasks)"
    return Panel(
        values=values,
        rows=tuple(str(layer) for layer in effects["layer"].values),
        columns=tuple(str(head) for head in effects["head"].values),
        title=result.title,
        row_axis="layer",
        column_axis="head",
        name="AUROC − 0.5: higher where the model passes (+) or fails (−)",
        unit="",
        limits=limits_around_zero(values),
        diverging=True,
        marks=marks,
        mark_note=f"tells passed from failed {test}"
        if marks.any()
        else f"No head tells passed from failed {test}.",
        note=f"{notes['n_passed']} records passed, {notes['n_failed']} failed, held against each "
        f"other within {notes['n_tasks']} tasks. The claim holds for: {notes['scope']}.",
    )
