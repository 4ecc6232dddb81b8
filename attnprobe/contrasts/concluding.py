"""From pairs to what can be said of them: effects, and the omnibus test before them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from attnprobe.contrasts.comparing import compare_cells
from attnprobe.contrasts.inference import Inference
from attnprobe.contrasts.interacting import compare_group_cells
from attnprobe.contrasts.omnibus import Omnibus, omnibus
from attnprobe.contrasts.pairing import Pairs, groups_of
from attnprobe.contrasts.questions import Question, cells, omnibus_cells
from attnprobe.errors import ContrastError
from attnprobe.measures import find_measure

Pairer = Callable[[Callable[[xr.DataArray], xr.DataArray]], tuple[Pairs, Mapping[str, np.ndarray]]]
"""Given how a measure is reduced to cells, pairs the items, and names the axes of the cells."""


@dataclass(frozen=True, slots=True, eq=False)
class Concluded:
    """What was found in pairs."""

    effects: xr.Dataset
    pairs: Pairs
    omnibus: Omnibus | None
    refused: tuple[str, ...]
    """What could not be tested, and why."""


def conclude(pairer: Pairer, run: Any, question: Question, inference: Inference) -> Concluded:
    """Compare pairs, or groups of them, cell by cell, and all spans together.

    Args:
        pairer: Pairs the items.
        run: Whose table of records has the groups.
        question: What is asked.
        inference: How it is tested.

    Raises:
        ContrastError: If nothing can be compared, or nothing differs anywhere.
    """
    pairs, coords = pairer(lambda values: cells(values, question))
    pairs = _of_levels(pairs, run, question)
    _require_difference(pairs, question)
    effects = _compared(pairs, coords, run, question, inference)
    all_pairs, all_coords = pairer(lambda values: omnibus_cells(values, question))
    try:
        first = omnibus(_compared(all_pairs, all_coords, run, question, inference))
    except ContrastError as fault:  # spans beside the one that is asked about must not forbid it
        return Concluded(effects, pairs, None, (f"the omnibus test: {fault.what}",))
    return Concluded(effects, pairs, first, ())


def _of_levels(pairs: Pairs, run: Any, question: Question) -> Pairs:
    """Leave out items of groups that are not compared."""
    if question.interaction is None:
        return pairs
    inside = np.isin(groups_of(run, pairs.items, question.interaction), question.levels)
    if inside.all() or not inside.any():  # a level that is not there is told of later
        return pairs
    return replace(
        pairs, first=pairs.first[inside], second=pairs.second[inside], items=pairs.items[inside],
        tasks=pairs.tasks[inside],
        dropped={**pairs.dropped, "in another group": int((~inside).sum())},
    )  # fmt: skip


def _require_difference(pairs: Pairs, question: Question) -> None:
    """Refuse pairs of which none differs: a measure never repeats to the last digit by itself."""
    paired = ~np.isnan(pairs.first - pairs.second)
    if not paired.any() or not np.array_equal(pairs.first[paired], pairs.second[paired]):
        return
    raise ContrastError(
        "there is nothing to test: all pairs are equal, to the last digit",
        where=f"{question.measure}, {question.path}",
        got=f"{len(pairs.items)} items, every difference 0",
        expected="a difference somewhere",
        fix="see that the two sides are not the same prompts under the same model, and that the "
        "measure can vary",
    )


def _compared(
    pairs: Pairs,
    coords: Mapping[str, np.ndarray],
    run: Any,
    question: Question,
    inference: Inference,
) -> xr.Dataset:
    sides = pairs.first, pairs.second, pairs.tasks
    if question.interaction is None:
        return compare_cells(*sides, inference, coords)
    groups = groups_of(run, pairs.items, question.interaction)
    return compare_group_cells(*sides, groups, question.levels, inference, coords)


def numbers_of(inference: Inference) -> dict[str, str | int | float]:
    """Return the settings of the test, for the record."""
    return {
        "n_flips": inference.n_flips, "n_bootstrap": inference.n_bootstrap,
        "confidence": inference.confidence, "screening": inference.screening,
        "scale": inference.scale,
        "rng": inference.rng if isinstance(inference.rng, int) else "generator",
    }  # fmt: skip


def unit_of(measure: str, scale: str, values: xr.DataArray) -> str:
    """Name the unit of differences: a log-ratio is in bits, whatever it is of.

    That of an attribution is the run's, and stands with the values.
    """
    if scale == "log-ratio":
        return "bits"
    return find_measure(measure).unit or str(values.attrs.get("units", ""))
