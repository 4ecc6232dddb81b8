"""Chosen heads: which, what another half says of them, and what random ones do in their place."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from jaxtyping import Float

from attnprobe.contrasts.comparing import compare
from attnprobe.contrasts.confirmation import AXES, BEYOND, CHOSEN, RANDOM
from attnprobe.contrasts.interventions import Changes, Outcomes, changes
from attnprobe.contrasts.pairing import pair_items
from attnprobe.contrasts.splitting import Heads
from attnprobe.errors import ContrastError


def strongest_heads(effects: xr.Dataset, most: int) -> Heads:
    """Choose the heads with the smallest adjusted p-values, larger standardised effects first."""
    p = effects["p_adjusted"].values
    size = np.nan_to_num(np.abs(effects["g_z"].values), nan=0.0)
    order = np.lexsort((-size.ravel(), np.nan_to_num(p, nan=2.0).ravel()))
    tested = [flat for flat in order[:most] if not np.isnan(p.ravel()[flat])]
    rows, columns = np.unravel_index(np.array(tested, int), p.shape)
    layers, heads = effects["layer"].values[rows], effects["head"].values[columns]
    return tuple(zip(layers.tolist(), heads.tolist(), strict=True))


def judged_heads(
    values: xr.DataArray, styles: tuple[str, str], chosen: Heads, by: str, seed: int
) -> xr.Dataset:
    """Estimate and test the chosen heads, and no others.

    Args:
        values: A measure of the records that had no part in the choice.
        styles: The two that are compared, first minus second.
        chosen: The heads.
        by: Unit of inference.
        seed: Of flips and resamples.

    Returns:
        As `compare`, NaN for the other heads.

    Raises:
        ContrastError: If there is too little to test.
    """
    mine = np.zeros(values.shape[1:], bool)
    layers, heads = values["layer"].values.tolist(), values["head"].values.tolist()
    for layer, head in chosen:
        mine[layers.index(layer), heads.index(head)] = True
    unit: Literal["task", "item"] = "task" if by == "task" else "item"
    first, second, tasks, _ = pair_items(values, *styles)
    kept = [np.where(mine, side, np.nan) for side in (first, second)]
    found = compare(kept[0], kept[1], tasks, by=unit, rng=seed)
    return found.assign_coords(layer=layers, head=heads)


def summarised(
    found: Mapping[str, tuple[np.ndarray, np.ndarray]],
    tasks: Sequence[str],
    styles: Sequence[str],
    names: tuple[str, ...],
    by: str,
    seed: int,
) -> tuple[Changes | None, tuple[dict[str, Any], ...], tuple[str, ...]]:
    """Turn outcomes into changes with intervals, style by style.

    Args:
        found: By outcome: without intervention [record], and with each [record, intervention,
            set], where the first set are the chosen heads and the others random ones.
        tasks: Task of each record.
        styles: Style of each record.
        names: Of the interventions.
        by: Unit of inference.
        seed: Of flips and resamples.

    Returns:
        Changes of the chosen heads, of random ones (averaged over draws) and their difference; the
        mean change in each draw; what could not be tested, and why.
    """
    unit: Literal["task", "item"] = "task" if by == "task" else "item"
    effects: dict[str, xr.Dataset] = {}
    draws: list[dict[str, Any]] = []
    refused: list[str] = []
    for outcome, (before, after) in found.items() if names else ():
        told: list[xr.Dataset] = []
        for style in sorted(set(styles)):
            own = np.array([one == style for one in styles])
            mine = [task for task, chosen in zip(tasks, own, strict=True) if chosen]
            given = _outcomes_of(before[own], after[own], mine, style, names)
            try:
                done = changes({outcome: given}, "", by=unit, rng=seed)
            except ContrastError as error:
                refused.append(f"{outcome.replace('_', ' ')}, {error}")
                continue
            told.append(done.effects[outcome])
            draws += _draws(outcome, style, before[own], after[own], mine, names, by)
        if told:
            effects[outcome] = xr.concat(told, dim="style")
    if not effects:
        return None, tuple(draws), tuple(refused)
    title = "chosen heads against random ones of the same layers"
    stated = {"by": by, "rng": seed}
    return Changes(effects, title, stated, AXES), tuple(draws), tuple(refused)


def _outcomes_of(
    before: Float[np.ndarray, " record"],
    after: Float[np.ndarray, "record intervention set"],
    tasks: Sequence[str],
    style: str,
    names: tuple[str, ...],
) -> Outcomes:
    chosen, random = after[..., 0], after[..., 1:].mean(axis=-1)
    unchanged = np.broadcast_to(before[:, None], chosen.shape)
    return Outcomes(
        before=np.stack([unchanged, unchanged, random], axis=-1),
        after=np.stack([chosen, random, chosen], axis=-1),
        tasks=tuple(tasks),
        styles=(style,) * len(tasks),
        windows=names,
        spans=(CHOSEN, RANDOM, BEYOND),
    )


def _draws(
    outcome: str,
    style: str,
    before: Float[np.ndarray, " record"],
    after: Float[np.ndarray, "record intervention set"],
    tasks: Sequence[str],
    names: tuple[str, ...],
    by: str,
) -> list[dict[str, Any]]:
    """Average the change in each draw as the estimates do: within tasks first, by task."""
    change = after[..., 1:] - before[:, None, None]
    there = ~np.isnan(change).any(axis=(1, 2))
    own = np.asarray(tasks)[there]
    groups = [own == task for task in sorted(set(own.tolist()))] if by == "task" else [...]
    mean = np.mean([change[there][group].mean(axis=0) for group in groups], axis=0)
    return [
        {"outcome": outcome, "style": style, "intervention": name, "draw": draw,
         "change": float(mean[place, draw])}
        for place, name in enumerate(names)
        for draw in range(mean.shape[1])
    ]  # fmt: skip
