"""Length-matched filler: what a segment that one style lacks can be held against."""

from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from attnprobe.contrasts.questions import NO_TEXT, Question, nan_mean
from attnprobe.errors import ContrastError, MeasureError
from attnprobe.measures import Measure, StepMass, find_measure, match_roles, mean_over_steps

MAX_WINDOWS = 64
"""Windows that the mean is taken over; where there are more, so many, evenly spaced."""


def with_filler(
    run: Any,
    values: xr.DataArray,
    question: Question,
    has: str,
    lacks: str,
    filler: str = "*",
) -> xr.DataArray:
    """Put filler in the place of a key role that one of two styles lacks.

    Where style `has` has n visible keys of the role, sinks set apart (the mean over its steps,
    rounded), the filler in style `lacks` is n neighbouring keys of the text of the prompt, sinks,
    chat template and the like left out. The measure is taken of every such window by itself and
    then averaged: a logarithm or a ratio of n keys varies with n, and a mean over windows, unlike
    the whole prompt at once, varies just as much.

    Length is matched, and nothing else: a filler may be nearer to the query than the segment, or
    farther away.

    Args:
        run: An open run that holds rows.
        values: The measure, dims (record, layer, head, query_role, key_role).
        question: What is asked.
        has: The style that has the key role.
        lacks: The style that lacks it.
        filler: Roles whose text may be filler, as a pattern.

    Returns:
        The same, with the mean over windows in the records of style `lacks`; NaN where its prompt
        is shorter than the segment.

    Raises:
        ContrastError: If the measure cannot be taken of filler, the run holds no rows, or no
            prompt is long enough.
    """
    chosen, where = _require_windows(question), f"{question.path} in {lacks}"
    lengths = _lengths(run, values, question, has)
    rows = np.flatnonzero(values["style"].values == lacks)
    places = {str(values["record"].values[row]): int(row) for row in rows}
    filled = values.transpose("record", "layer", "head", "query_role", "key_role").copy(deep=True)
    column = filled["key_role"].values.tolist().index(question.key)
    longest = 0
    try:
        for record_id, weights in run.iter_step_rows(ids=list(places)):
            row = places[str(record_id)]
            keys = _filler_keys(weights, filler)
            longest = max(longest, len(keys))
            n_keys = lengths.get(str(values["item"].values[row]), 0)
            if 0 < n_keys <= len(keys):
                found = _mean_over_windows(weights, chosen, question.query, keys, n_keys)
                filled.values[row, :, :, 0, column] = found
    except (MeasureError, AttributeError) as fault:
        raise ContrastError(
            f"'{lacks}' has no '{question.key}', and without attention rows there is no filler of "
            "its length to hold it against",
            where=question.path,
            fix="extract again with --keep rows",
        ) from fault
    if np.isnan(filled.values[rows, :, :, 0, column]).all():
        raise ContrastError(
            f"'{lacks}' has no '{question.key}', and no filler as long",
            where=where,
            got=f"{longest} keys of text at most"
            + ("" if filler == "*" else f" in roles like '{filler}'"),
            expected=f"{min(lengths.values(), default=0)} and more, as '{has}' has of "
            f"'{question.key}'",
            fix="compare a role that both styles have",
        )
    return filled


def _require_windows(question: Question) -> Measure:
    """Refuse measures that are no sums over keys."""
    chosen = find_measure(question.measure)
    if chosen.needs == "step_mass" and chosen.per_step is not None:
        return chosen
    raise ContrastError(
        "this measure cannot be taken of filler, so a role that one style lacks cannot be compared",
        where=question.path,
        got=f"'{question.measure}'",
        expected="a measure of what a span draws, such as enrichment, mass or density",
    )


def _lengths(run: Any, values: xr.DataArray, question: Question, has: str) -> dict[str, int]:
    """Count the keys of the role that the steps of each item see, in the style that has it."""
    rows = np.flatnonzero(values["style"].values == has)
    items = {str(values["record"].values[row]): str(values["item"].values[row]) for row in rows}
    counted: dict[str, list[float]] = {}
    for record_id, mass in run.iter_step_mass(ids=list(items)):
        steps = match_roles(question.query, mass["step_role"].values.tolist())
        groups = match_roles(question.key or "", mass["role"].values.tolist())
        groups = [group for group in groups if not mass["is_sink"].values[group]]
        if steps and groups:
            visible = mass["visible"].transpose("layer", "step", "group").values
            seen = visible[:, steps][:, :, groups].sum(axis=2).max(axis=0)
            counted.setdefault(items[str(record_id)], []).append(float(seen.mean()))
    return {item: round(float(np.mean(counts))) for item, counts in counted.items()}


def _filler_keys(weights: xr.DataArray, filler: str) -> Int[np.ndarray, " key"]:
    """Find the keys of the prompt that are text and no sinks."""
    roles = weights["key_role"].values.tolist()
    wanted = set(match_roles(filler, roles))
    n_prompt = int(weights["query"].values[0]) + 1 if weights.sizes["step"] else 0
    return np.array(
        [
            key
            for key in range(n_prompt)
            if key in wanted and roles[key] not in NO_TEXT and not weights["is_sink"].values[key]
        ],
        dtype=np.int64,
    )


def _mean_over_windows(
    weights: xr.DataArray,
    chosen: Measure,
    query: str,
    keys: Int[np.ndarray, " key"],
    n_keys: int,
) -> Float[np.ndarray, "layer head"]:
    """Take the measure of windows of so many neighbouring keys, and average."""
    steps = match_roles(query, weights["step_role"].values.tolist())
    if not steps:
        return np.full((weights.sizes["layer"], weights.sizes["head"]), np.nan, np.float32)
    by_key = StepMass(
        mass=weights.values[:, :, steps],
        visible=weights["visible"].values[:, steps].astype(np.int32),
        is_sink=weights["is_sink"].values.astype(bool),
        members=_windows(keys, n_keys, weights.sizes["key"]),
    )
    found = mean_over_steps(next(chosen.values([by_key])))
    return nan_mean(found, (2,)).astype(np.float32)


def _windows(
    keys: Int[np.ndarray, " key"], n_keys: int, n_all: int
) -> Bool[np.ndarray, "all_keys window"]:
    n_windows = len(keys) - n_keys + 1
    firsts = np.unique(np.linspace(0, n_windows - 1, min(n_windows, MAX_WINDOWS)).round())
    members = np.zeros((n_all, len(firsts)), dtype=bool)
    for window, first in enumerate(firsts.astype(int)):
        members[keys[first : first + n_keys], window] = True
    return members
