"""A contrast as a map of heads."""

import numpy as np

from attnprobe.contrasts import Contrast
from attnprobe.errors import FigureError
from attnprobe.panels.panel import Panel, limits_around_zero


def head_panel(contrast: Contrast, alpha: float = 0.05, notice: str = "") -> Panel:
    """Arrange a contrast as layers by heads, marking the heads that differ.

    Args:
        contrast: Effects per head.
        alpha: Family-wise error rate at which a head is marked.
        notice: What the reader must know of the run besides (see `unfinished`).

    Returns:
        A diverging panel: rows are layers (the first on top), columns are heads.

    Raises:
        FigureError: If the contrast is not one of heads.
    """
    dims = [str(dim) for dim in contrast.effects["estimate"].dims]
    if set(dims) != {"layer", "head"}:
        raise FigureError(
            "a map of heads needs a contrast of heads", where=contrast.title,
            got=f"dims {', '.join(dims) or '(none)'}", expected="layer, head",
            fix="contrast over='head'",
        )  # fmt: skip
    effects = contrast.effects.transpose("layer", "head")
    values = np.asarray(effects["estimate"].values, dtype=np.float64)
    marks = np.asarray(effects["p_adjusted"].values < alpha)
    units = f"{effects.attrs['n_units']} {effects.attrs['by']}s"
    test = (
        f"at a family-wise error rate of {alpha:g} ({effects.attrs['test']} by "
        f"{effects.attrs['by']}, {units})"
    )
    scope = effects.attrs["scope"]
    return Panel(
        values=values,
        rows=tuple(str(layer) for layer in effects["layer"].values),
        columns=tuple(str(head) for head in effects["head"].values),
        title=contrast.title,
        row_axis="layer",
        column_axis="head",
        name=f"difference in {contrast.measure}",
        unit=contrast.unit,
        limits=limits_around_zero(values),
        diverging=True,
        marks=marks,
        mark_note=f"differs {test}" if marks.any() else f"No head differs {test}.",
        note=f"{contrast.n_pairs} pairs. The claim holds for: {scope}."
        + (f" {notice}" if notice else ""),
    )
