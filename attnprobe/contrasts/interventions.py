"""What an intervention changes: the same records with and without it, with intervals."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from jaxtyping import Float

from attnprobe.contrasts.comparing import compare
from attnprobe.contrasts.curves import read_curves
from attnprobe.contrasts.saving import csv_writer, or_else, text_writer, write_by_suffix
from attnprobe.errors import ContrastError

BEYOND = "beyond_random"
"""Outcome of a cut held against cuts of as many other keys."""
OUTCOMES = {"log_prob": "nat", "passed": "share", BEYOND: "nat"}
"""What an intervention can change, and its unit."""
KNOCKOUT_AXES = ("layers", "keys", "outcome")
COLUMNS = ("estimate", "low", "high", "p_adjusted", "n_items", "n_tasks", "before")
"""What is told of each change."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """Outcomes of records without and with each of several interventions."""

    before: Float[np.ndarray, "record *_"]
    """Without: one for all interventions, or one for each; NaN where a record has none."""
    after: Float[np.ndarray, "record window span"]
    """With each; NaN where a record does not have it."""
    tasks: tuple[str, ...]
    """Task of each record."""
    styles: tuple[str, ...]
    """Style of each record."""
    windows: tuple[str, ...]
    """A label per window of layers."""
    spans: tuple[str, ...]
    """A label per span."""


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """The change of outcomes under interventions, paired by record, for each style."""

    effects: Mapping[str, xr.Dataset]
    """By outcome: over (style, window, span), `estimate`, `low`, `high`, `p_adjusted`, `before`,
    `n_items`, `n_tasks`."""
    title: str
    """What was done."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Everything that was asked for."""
    axes: tuple[str, str, str] = KNOCKOUT_AXES
    """What windows, spans and outcomes are called in tables."""
    curves: tuple[Mapping[str, Any], ...] = ()
    """Of rankings: a row per style, perturbation, method, order and share of tokens that are taken
    away, with the mean `loss` (nats), `low` and `high`; see `loss_curves`."""

    @property
    def styles(self) -> tuple[str, ...]:
        """Styles that were changed."""
        return tuple(str(style) for style in next(iter(self.effects.values()))["style"].values)

    def to_table(self) -> list[dict[str, Any]]:
        """List a row per style, window, span and outcome; None where there is no value."""
        rows: list[dict[str, Any]] = [
            {
                "style": str(style),
                self.axes[0]: str(window),
                self.axes[1]: str(span),
                self.axes[2]: outcome,
                **{
                    name: or_else(
                        values.sel(style=style, window=window, span=span)[name].item(), None
                    )
                    for name in COLUMNS
                },
            }
            for outcome, values in self.effects.items()
            for style in values["style"].values
            for window in values["window"].values
            for span in values["span"].values
        ]
        return rows

    def to_json(self) -> str:
        """Return everything as one JSON object."""
        facts = {
            "title": self.title, "settings": dict(self.settings), "axes": list(self.axes),
            "changes": self.to_table(),
        } | ({"curves": [dict(row) for row in self.curves]} if self.curves else {})  # fmt: skip
        return json.dumps(facts, ensure_ascii=False, allow_nan=False, indent=1)

    def save(self, path: str | Path) -> Path:
        """Write the table to .csv, or everything to .json.

        Raises:
            ContrastError: If the name ends otherwise.
        """
        writers = {".csv": csv_writer(self.to_table()), ".json": text_writer(self.to_json())}
        return write_by_suffix(path, "a table", writers)


def changes(
    outcomes: Mapping[str, Outcomes],
    title: str,
    *,
    by: Literal["task", "item"] = "task",
    rng: int = 0,
    n_bootstrap: int = 2000,
    settings: Mapping[str, Any] | None = None,
    axes: tuple[str, str, str] = KNOCKOUT_AXES,
    lenient: bool = False,
) -> Changes:
    """Estimate what interventions change, style by style.

    Each record is its own pair. As in a contrast, differences are averaged within tasks first, the
    interval resamples tasks, and `p_adjusted` holds for all windows and spans of a style together.

    Args:
        outcomes: By name of the outcome.
        title: What was done.
        by: `task` for claims about new tasks (6 at least), `item` for these tasks only.
        rng: Seed of flips and resamples.
        n_bootstrap: Resamples of the intervals.
        settings: What was asked for, to be kept with the result.
        axes: What windows, spans and outcomes are called in tables.
        lenient: Leave styles out that have too few tasks or items; `settings["left_out"]` tells
            why.

    Returns:
        The changes.

    Raises:
        ContrastError: If a style has too few tasks or items for the claim; if lenient, every one.
    """
    left_out: list[str] = []

    def of_styles(one: Outcomes) -> list[xr.Dataset]:
        found: list[xr.Dataset] = []
        for style in (styles := _styles_with_values(one, everyone)):
            try:
                found.append(_of_style(one, style, by, rng, n_bootstrap))
            except ContrastError as error:
                if not lenient or (style == styles[-1] and not found):
                    raise
                left_out.append(str(error))
        return found

    everyone = sorted({style for one in outcomes.values() for style in one.styles})
    effects = {name: xr.concat(of_styles(one), dim="style") for name, one in outcomes.items()}
    told = {str(style) for found in effects.values() for style in found["style"].values}
    without = [style for style in everyone if style not in told]
    stated = {"by": by, "rng": rng, "n_bootstrap": n_bootstrap, "without": without}
    stated |= {"left_out": left_out} if left_out else {}
    return Changes(effects, title, {**(settings or {}), **stated}, axes)


def _styles_with_values(given: Outcomes, everyone: Sequence[str]) -> list[str]:
    has_value = [not bool(np.isnan(own).all()) for own in given.after]
    styles = sorted({style for style, some in zip(given.styles, has_value, strict=True) if some})
    if not styles:
        raise ContrastError(
            "no record has what should be changed",
            got=f"{len(has_value)} records of {', '.join(everyone)}",
            fix="name a role that comes before the one that looks",
        )  # fmt: skip
    return styles


def _of_style(
    given: Outcomes, style: str, by: Literal["task", "item"], rng: int, n_bootstrap: int
) -> xr.Dataset:
    own = np.array([one == style for one in given.styles])
    after = given.after[own]
    before = given.before[own]
    before = np.broadcast_to(before[:, None, None] if before.ndim == 1 else before, after.shape)
    tasks = [task for task, chosen in zip(given.tasks, own, strict=True) if chosen]
    try:
        found = compare(after, before, tasks, by=by, rng=rng, n_bootstrap=n_bootstrap)
    except ContrastError as error:
        raise ContrastError(
            error.what, where=f"style '{style}'", got=error.got, expected=error.expected,
            fix=error.fix,
        ) from error  # fmt: skip
    named = found.rename(layer="window", head="span").assign_coords(
        window=list(given.windows), span=list(given.spans)
    )
    chosen = named[list(COLUMNS[:-1])]
    unchanged = _task_mean(np.where(np.isnan(after), np.nan, before), tasks, by)
    return chosen.assign(before=(("window", "span"), unchanged)).expand_dims(style=[style])


def _task_mean(
    values: Float[np.ndarray, "record window span"], tasks: Sequence[str], by: str
) -> Float[np.ndarray, "window span"]:
    """Average as the estimate does: within tasks first, where tasks are the unit."""
    names = np.asarray(tasks)
    groups = [values[names == name] for name in sorted(set(tasks))] if by == "task" else [values]
    return _mean(np.stack([_mean(group) for group in groups]))


def _mean(values: Float[np.ndarray, "unit window span"]) -> Float[np.ndarray, "window span"]:
    present = ~np.isnan(values)
    sums, sizes = np.where(present, values, 0).sum(axis=0), present.sum(axis=0)
    return np.where(sizes > 0, sums / np.maximum(sizes, 1), np.nan)


def read_changes(path: str | Path) -> Changes:
    """Read what `Changes.save` wrote to .json.

    Raises:
        ContrastError: If the file is not there or is no such file.
    """
    path = Path(path)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        table, title, settings = facts["changes"], str(facts["title"]), dict(facts["settings"])
        first, second, third = map(str, facts["axes"])
        axes = first, second, third
        names = dict.fromkeys(str(row[third]) for row in table)
        effects = {name: _as_dataset(table, name, axes) for name in names}
        curves = read_curves(facts.get("curves", []))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ContrastError(
            "this file holds no changes", where=str(path), got=f"{type(error).__name__}: {error}",
            expected="what `attnprobe knockout RUN … -o changes.json` writes",
        ) from error  # fmt: skip
    return Changes(effects, title, settings, axes, curves)


def _as_dataset(
    table: Sequence[Mapping[str, Any]], outcome: str, names: tuple[str, str, str]
) -> xr.Dataset:
    rows = [row for row in table if row[names[2]] == outcome]
    axes = {"style": "style", "window": names[0], "span": names[1]}
    coords = {
        dim: list(dict.fromkeys(str(row[name]) for row in rows)) for dim, name in axes.items()
    }
    shape = tuple(map(len, coords.values()))
    arrays = {name: np.full(shape, np.nan) for name in COLUMNS}
    for row in rows:
        at = tuple(coords[dim].index(str(row[name])) for dim, name in axes.items())
        for name, array in arrays.items():
            array[at] = np.nan if row[name] is None else float(row[name])
    return xr.Dataset({name: (tuple(axes), array) for name, array in arrays.items()}, coords)
