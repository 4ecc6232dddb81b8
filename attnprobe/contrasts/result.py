"""The result of a contrast: what it says, as words, as a table, as a file."""

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

from attnprobe.contrasts.methods import methods
from attnprobe.contrasts.omnibus import Omnibus
from attnprobe.contrasts.saving import or_else, save_as
from attnprobe.contrasts.wording import verdict

_COUNTS = ("n_items", "n_tasks")
ROWS = {"head": "heads", "layer": "layers", "span": "spans", "whole": "values"}
"""What the rows of a table are called in JSON."""
_LISTED = 5
"""How many heads a notebook shows."""


@dataclass(frozen=True, slots=True, eq=False)
class Contrast:
    """The paired difference of a measure between two sides, with its uncertainty."""

    effects: xr.Dataset
    """Over (layer, head), (layer) or (query_role, key_role), as `compare` returns it: estimate,
    low, high, p, p_adjusted …"""
    a: str
    """What positive differences favour: a style, a run, or a group of items."""
    b: str
    """What it is held against."""
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
    over: str = "head"
    """What is compared: `head`, `layer`, `span` or `whole`."""
    within: str | None = None
    """What of each item is compared where it is no plain value: a style (of two runs), or a
    difference (of groups)."""
    filler: str | None = None
    """Style that lacks the key role and was given filler of its length."""
    omnibus: Omnibus | None = None
    """Whether anything at all differs; None where that cannot be tested."""
    refused: tuple[str, ...] = ()
    """What was not compared, and why."""
    notice: str = ""
    """What a reader must know of the runs: that one is unfinished."""

    def __getitem__(self, name: str) -> xr.DataArray:
        """Return a column of `effects`: `contrast["estimate"]`."""
        return self.effects[name]

    @property
    def title(self) -> str:
        """Name the contrast: `enrichment, answer → history: coarse − stepwise`."""
        path = f"{self.query} → {self.key}" if self.key else self.query
        path += f" (in {self.filler}: filler of its length)" if self.filler else ""
        difference = f"{self.a} − {self.b}"
        return f"{self.measure}, {path}: " + (
            f"{self.within}, {difference}" if self.within else difference
        )

    def verdict(self, alpha: float = 0.05) -> str:
        """Say in a few plain sentences what was found, and what was not.

        Args:
            alpha: Family-wise error rate.

        Returns:
            Lines of text: whether anything differs at all, the heads that do, the strongest few,
            what was refused and why, limits of the test.
        """
        return verdict(self, alpha)

    def methods(self, language: str = "en") -> str:
        """Word how this was tested, as a paragraph for the methods section of a paper.

        Args:
            language: `en` or `zh`.

        Raises:
            SelectionError: If there is no such language.
        """
        return methods(self, language)

    def to_table(self) -> list[dict[str, Any]]:
        """Return one row per head (layer, span pair), layers first."""
        dims = [str(dim) for dim in self.effects["estimate"].dims]
        names = [str(name) for name in self.effects.data_vars]
        columns = {name: self.effects[name].values for name in names}
        return [
            {
                **{
                    dim: self.effects[dim].values[at].item()
                    for dim, at in zip(dims, place, strict=True)
                },
                **{
                    name: (int if name in _COUNTS else float)(columns[name][place])
                    for name in names
                },
            }
            for place in np.ndindex(self.effects["estimate"].shape)
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
            "over": self.over,
            "within": self.within,
            "filler": self.filler,
            "omnibus": None if self.omnibus is None else self.omnibus.describe(),
            "refused": list(self.refused),
            **({"notice": self.notice} if self.notice else {}),
            "n_pairs": self.n_pairs,
            "dropped": dict(self.dropped),
            "settings": dict(self.settings),
            "test": dict(self.effects.attrs),
        }

    def to_json(self) -> str:
        """Return the verdict, the table and everything about them as JSON; NaN is null."""
        rows = [{k: or_else(v, None) for k, v in row.items()} for row in self.to_table()]
        facts = {
            **self.describe(), "verdict": self.verdict(), "methods": self.methods(),
            ROWS[self.over]: rows,
        }  # fmt: skip
        return json.dumps(facts, ensure_ascii=False, indent=1, allow_nan=False)

    def _repr_html_(self) -> str:
        """Show the verdict and the heads with the smallest p-values in a notebook."""
        rows = [row for row in self.to_table() if not math.isnan(row["p_adjusted"])]
        rows.sort(key=lambda row: (row["p_adjusted"], -abs(row["estimate"])))
        dims = [str(dim) for dim in self.effects["estimate"].dims]
        columns = (*dims, "estimate", "low", "high", "p_adjusted")
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
        return save_as(self, Path(path))
