"""The result of `pass_fail`: what it says, as words, as tables, as a file."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from attnprobe.contrasts.judging import BASELINES, BOTH, HEADS
from attnprobe.contrasts.saving import Writer, csv_writer, or_else, text_writer, write_by_suffix

_COUNTS = ("n_pairs", "n_tasks", "n_tasks_above", "n_folds_chosen")
_SHOWN = 3
"""How many heads a verdict names."""


@dataclass(frozen=True, slots=True, eq=False)
class PassFail:
    """How well heads tell the records that a model gets right from those that it gets wrong."""

    effects: xr.Dataset
    """Over (layer, head), as `discriminate` returns it, and `n_folds_chosen`: in how many folds
    the model of heads was given the head."""
    models: xr.Dataset | None
    """Over `model`, as `predict_passes` returns it; None where it was refused."""
    measure: str
    """Name of the measure."""
    query: str
    """Role of the steps that look."""
    key: str | None
    """Role that is looked at; None for measures without one."""
    style: str
    """Style of the records."""
    outcome: str
    """What passing is: `written` or `shown`."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Records left out, by reason."""
    refused: tuple[str, ...] = ()
    """What could not be done, and why."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Everything that was asked for, for the record."""

    @property
    def title(self) -> str:
        """Name the result: `enrichment, answer → history: passed or failed, coarse`."""
        path = f"{self.query} → {self.key}" if self.key else self.query
        return f"{self.measure}, {path}: passed or failed, {self.style}"

    def verdict(self, alpha: float = 0.05) -> str:
        """Say in a few plain sentences what was found, and what was not.

        Args:
            alpha: Family-wise error rate.

        Returns:
            Lines of text: heads that tell passed from failed, what a model of them adds to the
            baselines, limits of the test.
        """
        notes = self.effects.attrs
        auroc, p = self.effects["auroc"].values, self.effects["p_adjusted"].values
        found = p < alpha
        p_tasks = self.effects["p_tasks"].values
        lines = [
            f"{self.title}.",
            f"{int(found.sum())} of {notes['n_tested']} heads tell passed from failed records of "
            f"the same task at a family-wise error rate of {alpha:g}: "
            f"{int((found & (auroc > 0.5)).sum())} higher where the model passes, "
            f"{int((found & (auroc < 0.5)).sum())} lower.",
            *self._strongest(),
            f"Outcomes permuted within {notes['n_tasks']} tasks ({notes['n_passed']} passed, "
            f"{notes['n_failed']} failed), {notes['n_permutations']} times; smallest attainable p: "
            f"{notes['p_smallest']:.2g}. The claim holds for: {notes['scope']}.",
            "Of new tasks: "
            + (
                "too few tasks to say."
                if np.isnan(p_tasks).all()
                else f"{int((p_tasks < alpha).sum())} heads, flipping whole tasks around 0.5."
            ),
            *self._predicted(alpha),
            *(f"Refused: {reason}" for reason in self.refused),
        ]
        lost = [f"{count} {reason}" for reason, count in self.dropped.items() if count]
        if lost:
            lines.append(f"Records left out: {', '.join(lost)}.")
        return "\n".join(lines)

    def _strongest(self) -> list[str]:
        rows = self.strongest(_SHOWN)
        named = [
            f"layer {row['layer']} head {row['head']} {row['auroc']:.3f} [{row['low']:.3f}, "
            f"{row['high']:.3f}] (p {row['p_adjusted']:.2g}, above 0.5 in {row['n_tasks_above']} "
            f"of {row['n_tasks']} tasks)"
            for row in rows
        ]
        percent = f"{100 * self.effects.attrs['confidence']:g} %"
        return [f"Strongest (AUROC, {percent} interval, adjusted p): {'; '.join(named)}."]

    def _predicted(self, alpha: float) -> list[str]:
        if self.models is None:
            return []
        told = {row["model"]: row for row in self.models_table()}
        notes = self.models.attrs
        heads = told[HEADS]
        better = "predicts" if heads["p"] < alpha else "does not predict"
        lines = [
            f"A model of {notes['n_heads']} heads, chosen and learned without the task it is tried "
            f"on, {better} passing: AUROC {_interval(heads)}, p {heads['p']:.2g} "
            f"({notes['n_folds']} tasks left out in turn)."
        ]
        others = [
            f"{name} {_interval(row)}" for name, row in told.items() if name not in (HEADS, BOTH)
        ]
        if others:
            lines.append(f"Without heads: {'; '.join(others)}.")
            lines.append(self._added(told))
        return lines

    def _added(self, told: Mapping[str, Mapping[str, Any]]) -> str:
        """Say what heads add to baselines: to the best one too, which may beat all together."""
        both, best = told[BOTH], self.models.attrs["best"] if self.models is not None else ""
        gains = [f"{_gained(both, 'gain')} in AUROC"]
        if told[best]["auroc"] > told[BASELINES]["auroc"]:
            gains.append(f"{_gained(both, 'over_best')} to {best} alone")
        adds = "add" if min(both["gain_low"], both["over_best_low"]) > 0 else "do not add"
        return f"Heads {adds} to {BASELINES}: {', '.join(gains)}."

    def strongest(self, most: int) -> list[dict[str, Any]]:
        """Return rows of the tested heads with the smallest p-values, farthest from 0.5 first."""
        rows = [row for row in self.to_table() if not math.isnan(row["p_adjusted"])]
        return sorted(rows, key=lambda row: (row["p_adjusted"], -abs(row["auroc"] - 0.5)))[:most]

    def to_table(self) -> list[dict[str, int | float]]:
        """Return one row per head, layers first."""
        names = [str(name) for name in self.effects.data_vars]
        columns = {name: self.effects[name].values for name in names}
        return [
            {
                "layer": int(layer), "head": int(head),
                **{n: (int if n in _COUNTS else float)(columns[n][row, column]) for n in names},
            }
            for row, layer in enumerate(self.effects["layer"].values)
            for column, head in enumerate(self.effects["head"].values)
        ]  # fmt: skip

    def models_table(self) -> list[dict[str, Any]]:
        """Return one row per model that predicts passing; none where that was refused."""
        if self.models is None:
            return []
        return [
            {
                "model": str(name),
                **{
                    str(column): float(values.sel(model=name))
                    for column, values in self.models.data_vars.items()
                },
            }
            for name in self.models["model"].values
        ]

    def describe(self) -> dict[str, Any]:
        """Return everything but the tables, as plain values."""
        return {
            "measure": self.measure, "query": self.query, "key": self.key, "style": self.style,
            "outcome": self.outcome, "dropped": dict(self.dropped), "refused": list(self.refused),
            "settings": dict(self.settings), "test": dict(self.effects.attrs),
            "model": dict(self.models.attrs) if self.models is not None else None,
        }  # fmt: skip

    def to_json(self) -> str:
        """Return the verdict, the tables and everything about them as JSON; NaN is null."""
        tables = {"models": self.models_table(), "heads": self.to_table()}
        told = {
            name: [{key: or_else(value, None) for key, value in row.items()} for row in rows]
            for name, rows in tables.items()
        }
        facts = {**self.describe(), "verdict": self.verdict(), **told}
        return json.dumps(facts, ensure_ascii=False, indent=1, allow_nan=False)

    def save(self, path: str | Path) -> Path:
        """Write the result to a file of the kind that the suffix names.

        `.csv` has a row per head; `.json` has both tables and everything about them; `.nc`
        (netCDF 3) has the heads and opens with `xarray.open_dataset`.

        Args:
            path: Where to; folders are made. A file that is there is replaced in one go.

        Returns:
            The path.

        Raises:
            ContrastError: If the suffix is none of these.
        """
        named = {name: self.describe()[name] for name in ("measure", "query", "key", "style")}
        writers: dict[str, Writer] = {
            ".csv": csv_writer([{**named, **row} for row in self.to_table()]),
            ".json": lambda path: text_writer(self.to_json())(path),
            ".nc": lambda path: _write_netcdf(self, path),
        }
        return write_by_suffix(path, "a result of pass_fail", writers)


def _write_netcdf(result: PassFail, path: Path) -> None:
    described = result.describe()
    nested = {
        name: json.dumps(described[name], ensure_ascii=False)
        for name in ("dropped", "refused", "settings", "model")
    }
    plain = {
        name: described[name] for name in ("measure", "query", "key", "style", "outcome")
    }  # fmt: skip
    named = {name: value for name, value in plain.items() if value is not None}
    result.effects.assign_attrs(named | nested).to_netcdf(path, engine="scipy")


def _gained(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:+.3f} [{row[f'{name}_low']:+.3f}, {row[f'{name}_high']:+.3f}]"


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['auroc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
