"""The verdict of a contrast, in a few plain sentences."""

import math
from typing import Any

import numpy as np

from attnprobe.contrasts.inference import MIN_UNITS_FOR_SCREENING
from attnprobe.contrasts.omnibus import cell_name
from attnprobe.contrasts.questions import OVER

_SHOWN = 3
"""How many heads a verdict names."""
_RATES = {"bh": "Benjamini–Hochberg", "by": "Benjamini–Yekutieli"}


def verdict(contrast: Any, alpha: float) -> str:
    """Say what was found, and what was not; see `Contrast.verdict`."""
    notes = contrast.effects.attrs
    p_adjusted = contrast.effects["p_adjusted"].values
    estimate = contrast.effects["estimate"].values
    differ = p_adjusted < alpha
    n_up, n_down = int((differ & (estimate > 0)).sum()), int((differ & (estimate < 0)).sum())
    things = OVER[contrast.over]
    lines = [
        f"{contrast.title} ({contrast.unit}).",
        *([contrast.notice] if contrast.notice else []),
        *_anything(contrast, alpha),
        f"{int(differ.sum())} of {notes['n_tested']} {things} differ at a family-wise error rate "
        f"of {alpha:g}: {n_up} higher with {contrast.a}, {n_down} higher with {contrast.b}.",
        *_strongest(contrast),
        _test(contrast),
        _screening(contrast, alpha, things),
    ]
    if notes["p_smallest"] >= alpha:
        lines.append(
            f"No {things.removesuffix('s')} could have reached {alpha:g} with so few "
            f"{notes['by']}s."
        )
    untested = contrast.effects["p"].size - notes["n_tested"]
    if untested:
        lines.append(f"Not tested: {untested} {things} with too few {notes['by']}s.")
    lines += [f"Refused: {reason}." for reason in contrast.refused]
    lost = [f"{count} {reason}" for reason, count in contrast.dropped.items() if count]
    if lost:
        lines.append(f"Items left out: {', '.join(lost)}.")
    return "\n".join(lines)


def _anything(contrast: Any, alpha: float) -> list[str]:
    """Word the omnibus test."""
    found = contrast.omnibus
    if found is None:
        return []
    spans = f" ({', '.join(found.spans)})" if found.spans else ""
    return [
        f"Anything at all ({found.family}, means over heads{spans}): "
        f"{'yes' if found.p < alpha else 'not shown'}, p {found.p:.2g} over {found.n_tested} "
        f"cells; strongest {found.strongest} {found.estimate:+.3g}."
    ]


def _test(contrast: Any) -> str:
    notes = contrast.effects.attrs
    exact = "all " if notes["exact"] else ""
    units = f"{notes['by']}s"
    if notes["test"] == "permuted labels":
        counted = (
            f"{notes['n_units_a']} {notes['level_a']}, {notes['n_units_b']} {notes['level_b']}"
        )
        what = f"Labels permuted by {notes['by']} over {notes['n_units']} {units} ({counted}; "
        how = f"{contrast.n_pairs} pairs), {exact}{notes['n_flips']} permutations"
    else:
        what = f"Signs flipped by {notes['by']} over {notes['n_units']} {units} ("
        how = f"{contrast.n_pairs} pairs), {exact}{notes['n_flips']} flips"
    scale = "" if notes["scale"] == "difference" else f" Scale: {notes['scale']}."
    if notes["test"] == "permuted labels" and notes["by"] == "item":
        scale += " Each task is in one group only, so the groups cannot be told from their tasks."
    return (
        f"{what}{how}; smallest attainable p: {notes['p_smallest']:.2g}.{scale} "
        f"The claim holds for: {notes['scope']}."
    )


def _screening(contrast: Any, alpha: float, things: str) -> str:
    notes = contrast.effects.attrs
    if notes["n_units"] < MIN_UNITS_FOR_SCREENING:
        return (
            f"No screening by false discovery rate: {notes['n_units']} {notes['by']}s, and below "
            f"{MIN_UNITS_FOR_SCREENING} single p-values are too coarse."
        )
    n_screened = int((contrast.effects["q"].values < alpha).sum())
    return (
        f"Screening at a false discovery rate of {alpha:g} ({_RATES[notes['screening']]}): "
        f"{n_screened} {things.removesuffix('s') if n_screened == 1 else things}."
    )


def _strongest(contrast: Any) -> list[str]:
    """Name the cells with the smallest p-values, larger standardised effects first."""
    effects = contrast.effects
    p_adjusted = effects["p_adjusted"].values
    if np.isnan(p_adjusted).all():
        return []
    standard = next(effects[name].values for name in effects.data_vars if str(name)[:2] == "g_")
    size = np.nan_to_num(np.abs(standard), nan=0.0)
    order = np.lexsort((-size.ravel(), np.nan_to_num(p_adjusted, nan=2.0).ravel()))
    percent = f"{100 * effects.attrs['confidence']:g} %"
    dims = [str(dim) for dim in effects["estimate"].dims]
    named = []
    for flat in order[:_SHOWN]:
        place = np.unravel_index(flat, p_adjusted.shape)
        cell = effects.isel(dict(zip(dims, place, strict=True)))
        if math.isnan(cell["p_adjusted"].item()):
            break
        named.append(
            f"{cell_name({dim: cell[dim].item() for dim in dims})} "
            f"{cell['estimate'].item():+.3g} [{cell['low'].item():+.3g}, "
            f"{cell['high'].item():+.3g}] (p {cell['p_adjusted'].item():.2g})"
        )
    return [f"Strongest ({percent} interval, adjusted p): {'; '.join(named)}."]
