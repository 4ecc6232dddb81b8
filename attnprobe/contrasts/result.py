"""The result of a contrast: what it says, as words, as a table, as a file."""

import csv
import html
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from attnprobe.errors import ContrastError

_COUNTS = ("n_items", "n_tasks")
_SHOWN = 3
"""How many heads a verdict names."""
_LISTED = 5
"""How many heads a notebook shows."""


@dataclass(frozen=True, slots=True, eq=False)
class Contrast:
    """The paired difference of a measure between two styles, with its uncertainty."""

    effects: xr.Dataset
    """Over (layer, head), as `compare` returns it: estimate, low, high, p, p_adjusted …"""
    a: str
    """Style that positive differences favour."""
    b: str
    """Style it is held against."""
    measure: str
    """Name of the measure."""
    query: str
    """Role of the steps that look."""
    key: str | None
    """Role that is looked at; None for measures without one."""
    unit: str
    """Unit of `estimate`, `low` and `high`."""
    n_pairs: int
    """Items compared."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Items left out, by reason."""
    settings: Mapping[str, str | int | float] = field(default_factory=dict)
    """Everything that was asked for, for the record."""

    @property
    def title(self) -> str:
        """Name the contrast: `enrichment, answer → history: coarse − stepwise`."""
        path = f"{self.query} → {self.key}" if self.key else self.query
        return f"{self.measure}, {path}: {self.a} − {self.b}"

    def verdict(self, alpha: float = 0.05) -> str:
        """Say in a few plain sentences what was found, and what was not.

        Args:
            alpha: Family-wise error rate.

        Returns:
            Lines of text: heads that differ, the strongest few, limits of the test.
        """
        notes = self.effects.attrs
        p_adjusted = self.effects["p_adjusted"].values
        estimate = self.effects["estimate"].values
        differ = p_adjusted < alpha
        n_up, n_down = int((differ & (estimate > 0)).sum()), int((differ & (estimate < 0)).sum())
        units = f"{notes['n_units']} {'tasks' if notes['by'] == 'task' else 'items'}"
        lines = [
            f"{self.title} ({self.unit}).",
            f"{int(differ.sum())} of {notes['n_tested']} heads differ at a family-wise error rate "
            f"of {alpha:g}: {n_up} higher with {self.a}, {n_down} higher with {self.b}.",
            *(self._strongest(p_adjusted)),
            f"Signs flipped by {notes['by']} over {units} ({self.n_pairs} pairs), "
            f"{'all ' if notes['exact'] else ''}{notes['n_flips']} flips; smallest attainable p: "
            f"{notes['p_smallest']:.2g}. The claim holds for: {notes['scope']}.",
        ]
        if notes["p_smallest"] >= alpha:
            lines.append(f"No head could have reached {alpha:g} with so few {notes['by']}s.")
        untested = self.effects["p"].size - notes["n_tested"]
        if untested:
            lines.append(f"Not tested: {untested} heads with too few {notes['by']}s.")
        lost = [f"{count} {reason}" for reason, count in self.dropped.items() if count]
        if lost:
            lines.append(f"Items left out: {', '.join(lost)}.")
        return "\n".join(lines)

    def _strongest(self, p_adjusted: np.ndarray) -> list[str]:
        """Name the heads with the smallest p-values, larger standardised effects first."""
        effects = self.effects
        if np.isnan(p_adjusted).all():
            return []
        size = np.nan_to_num(np.abs(effects["g_z"].values), nan=0.0)
        order = np.lexsort((-size.ravel(), np.nan_to_num(p_adjusted, nan=2.0).ravel()))
        percent = f"{100 * effects.attrs['confidence']:g} %"
        named = []
        for flat in order[:_SHOWN]:
            row, column = np.unravel_index(flat, p_adjusted.shape)
            cell = effects.isel(layer=row, head=column)
            if math.isnan(cell["p_adjusted"].item()):
                break
            named.append(
                f"layer {cell['layer'].item()} head {cell['head'].item()} "
                f"{cell['estimate'].item():+.3g} [{cell['low'].item():+.3g}, "
                f"{cell['high'].item():+.3g}] (p {cell['p_adjusted'].item():.2g})"
            )
        return [f"Strongest ({percent} interval, adjusted p): {'; '.join(named)}."]

    def to_table(self) -> list[dict[str, int | float]]:
        """Return one row per head, layers first."""
        names = [str(name) for name in self.effects.data_vars]
        columns = {name: self.effects[name].values for name in names}
        return [
            {
                "layer": int(layer),
                "head": int(head),
                **{
                    name: (int if name in _COUNTS else float)(columns[name][row, column])
                    for name in names
                },
            }
            for row, layer in enumerate(self.effects["layer"].values)
            for column, head in enumerate(self.effects["head"].values)
        ]

    def describe(self) -> dict[str, Any]:
        """Return everything but the table, as plain values."""
        return {
            "a": self.a,
            "b": self.b,
            "measure": self.measure,
            "query": self.query,
            "key": self.key,
            "unit": self.unit,
            "n_pairs": self.n_pairs,
            "dropped": dict(self.dropped),
            "settings": dict(self.settings),
            "test": dict(self.effects.attrs),
        }

    def to_json(self) -> str:
        """Return the verdict, the table and everything about them as JSON; NaN is null."""
        heads = [{k: _or(v, None) for k, v in row.items()} for row in self.to_table()]
        facts = {**self.describe(), "verdict": self.verdict(), "heads": heads}
        return json.dumps(facts, ensure_ascii=False, indent=1, allow_nan=False)

    def _repr_html_(self) -> str:
        """Show the verdict and the heads with the smallest p-values in a notebook."""
        rows = [row for row in self.to_table() if not math.isnan(row["p_adjusted"])]
        rows.sort(key=lambda row: (row["p_adjusted"], -abs(row["estimate"])))
        columns = ("layer", "head", "estimate", "low", "high", "p_adjusted")
        table = pd.DataFrame([{name: row[name] for name in columns} for row in rows[:_LISTED]])
        verdict = "<br>".join(html.escape(line) for line in self.verdict().splitlines())
        shown = table.to_html(index=False, border=0, float_format="{:.3g}".format)
        return f"<p>{verdict}</p>" + (shown if rows else "")

    def save(self, path: str | Path) -> Path:
        """Write the contrast to a file of the kind that the suffix names.

        `.csv` has a row per head, with the names of the contrast in columns of their own; `.json`
        has the table and everything about it; `.nc` (netCDF 3) opens with `xarray.open_dataset`.

        Args:
            path: Where to; folders are made. A file that is there is replaced in one go.

        Returns:
            The path.

        Raises:
            ContrastError: If the suffix is none of these.
        """
        path = Path(path)
        write = _WRITERS.get(path.suffix.lower())
        if write is None:
            raise ContrastError(
                "a contrast is not written to this kind of file",
                where=str(path),
                got=f"suffix '{path.suffix}'",
                expected=" or ".join(_WRITERS),
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.part")
        try:
            write(self, draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return path


def _write_csv(contrast: Contrast, path: Path) -> None:
    names = {
        name: value
        for name, value in contrast.describe().items()
        if name in ("a", "b", "measure", "query", "key", "unit")
    }
    rows = [{**names, "by": contrast.effects.attrs["by"], **row} for row in contrast.to_table()]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows([{k: _or(v, "") for k, v in row.items()} for row in rows])


def _write_json(contrast: Contrast, path: Path) -> None:
    path.write_text(contrast.to_json() + "\n", encoding="utf-8")


def _write_netcdf(contrast: Contrast, path: Path) -> None:
    effects = contrast.effects.copy()
    described = contrast.describe()
    # netCDF attributes hold text and numbers only.
    for name in ("dropped", "settings"):
        described[name] = json.dumps(described[name], ensure_ascii=False)
    del described["test"]
    effects.attrs |= {k: v for k, v in described.items() if v is not None}
    for name in ("estimate", "low", "high"):
        effects[name].attrs["units"] = contrast.unit
    effects.to_netcdf(path, engine="scipy")


_WRITERS = {".csv": _write_csv, ".json": _write_json, ".nc": _write_netcdf}


def _or(value: object, instead: object) -> object:
    """Replace NaN, which neither CSV nor JSON has a word for."""
    return instead if isinstance(value, float) and math.isnan(value) else value
