"""The result of `confirm`: what became of chosen heads on the other half of the items."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from attnprobe.contrasts.interventions import Changes, read_changes
from attnprobe.contrasts.saving import csv_writer, or_else, text_writer, write_by_suffix
from attnprobe.errors import ContrastError

CHOSEN, RANDOM, BEYOND = "chosen heads", "random heads", "chosen − random"
"""What is changed: the chosen heads, as many random ones of the same layers, and the difference."""
AXES = ("intervention", "heads", "outcome")
_HEAD_COLUMNS = ("layer", "head", "first", "p_first", "estimate", "low", "high", "p", "p_adjusted")
"""Of each chosen head: its difference on the first half, and what the second half says of it."""
_OUTCOME_WORDS = {
    "log_prob": "the log-probability of the {query} changes", "passed": "the pass rate changes",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Confirmation:
    """Heads chosen on one half of the items, judged and intervened on on the other."""

    title: str
    """The contrast that heads were chosen by."""
    heads: tuple[Mapping[str, Any], ...]
    """A row per chosen head, the strongest first: `layer`, `head`; `first`, its difference where
    it was chosen, with `p_first`; `estimate`, `low`, `high`, `p`, `p_adjusted` on the other half,
    adjusted for the chosen heads together."""
    changes: Changes | None
    """By outcome: over (style, intervention, heads), what interventions change on the other half,
    where `heads` is chosen, random, and their difference; None where all was refused."""
    draws: tuple[Mapping[str, Any], ...]
    """A row per outcome, style, intervention and set of random heads: its mean `change`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Everything that was asked for, and what it came to: `by`, `scope`, `unit`, `n_first`,
    `n_second` (items), `n_tasks_first`, `n_tasks_second`, `model`, `random_heads`."""
    refused: tuple[str, ...] = ()
    """What could not be done, and why."""

    def verdict(self, alpha: float = 0.05) -> str:
        """Say in a few plain sentences whether the chosen heads held, and whether they matter.

        Args:
            alpha: Family-wise error rate.

        Returns:
            Lines of text.
        """
        stated = self.settings
        held = [row for row in self.heads if row["estimate"] * row["first"] > 0]
        sure = [row for row in held if row["p_adjusted"] < alpha]
        named = "; ".join(
            f"layer {row['layer']} head {row['head']} {row['estimate']:+.3g} [{row['low']:+.3g}, "
            f"{row['high']:+.3g}] (where it was chosen {row['first']:+.3g}; p "
            f"{row['p_adjusted']:.2g})"
            for row in self.heads
        )
        lines = [
            f"{self.title} ({stated['unit']}).",
            f"{len(self.heads)} heads chosen on {stated['n_first']} items of "
            f"{stated['n_tasks_first']} tasks, and judged on {stated['n_second']} others of "
            f"{stated['n_tasks_second']} tasks. The claim holds for: {stated['scope']}.",
            f"{len(held)} of {len(self.heads)} point the same way again, {len(sure)} at a "
            f"family-wise error rate of {alpha:g}: {named}.",
            *(self._changed(alpha) if self.changes else ()),
            *(f"Refused: {reason}" for reason in self.refused),
        ]
        return "\n".join(lines)

    def _changed(self, alpha: float) -> list[str]:
        rows = {
            (row["outcome"], row["style"], row["intervention"], row["heads"]): row
            for row in self.to_table()
        }
        lines = []
        for (outcome, style, intervention, heads), row in rows.items():
            if heads != BEYOND or row["estimate"] is None:
                continue
            chosen = rows[outcome, style, intervention, CHOSEN]
            control = rows[outcome, style, intervention, RANDOM]
            beyond = self._beaten(outcome, style, intervention, chosen["estimate"])
            words = _OUTCOME_WORDS[outcome].format(query=self.settings["query"])
            lines.append(
                f"{intervention.capitalize()}, {style}: {words} by {_told(chosen)} without the "
                f"chosen heads, by {_told(control)} without as many random ones of the same "
                f"layers. {_difference(row, alpha)}; {beyond}."
            )
        return lines

    def _beaten(self, outcome: str, style: str, intervention: str, change: float) -> str:
        asked = {"outcome": outcome, "style": style, "intervention": intervention}
        own = [row for row in self.draws if asked.items() <= row.items()]
        as_strong = sum(abs(row["change"]) >= abs(change) for row in own)
        return f"{as_strong} of {len(own)} random sets change as much"

    def to_table(self) -> list[dict[str, Any]]:
        """List a row per style, intervention, heads and outcome; None where there is no value."""
        return self.changes.to_table() if self.changes else []

    def heads_table(self) -> list[dict[str, Any]]:
        """List a row per chosen head."""
        return [dict(row) for row in self.heads]

    def to_json(self) -> str:
        """Return everything as one JSON object."""
        facts = {
            "title": self.title, "verdict": self.verdict(), "settings": dict(self.settings),
            "refused": list(self.refused), "axes": list(AXES), "changes": self.to_table(),
            "heads": [{key: or_else(one, None) for key, one in row.items()} for row in self.heads],
            "draws": [dict(row) for row in self.draws],
        }  # fmt: skip
        return json.dumps(facts, ensure_ascii=False, allow_nan=False, indent=1)

    def save(self, path: str | Path) -> Path:
        """Write the chosen heads to .csv, or everything to .json.

        Raises:
            ContrastError: If the name ends otherwise.
        """
        rows = [{key: row[key] for key in _HEAD_COLUMNS} for row in self.heads]
        writers = {".csv": csv_writer(rows), ".json": text_writer(self.to_json())}
        return write_by_suffix(path, "a confirmation", writers)


def head_rows(
    chosen: Sequence[tuple[int, int]], first: xr.Dataset, second: xr.Dataset
) -> tuple[dict[str, Any], ...]:
    """Put what both halves say of each chosen head side by side."""
    rows = []
    for layer, head in chosen:
        before, after = (one.sel(layer=layer, head=head) for one in (first, second))
        row: dict[str, Any] = {"layer": layer, "head": head}
        row |= {"first": float(before["estimate"]), "p_first": float(before["p_adjusted"])}
        rows.append(row | {name: float(after[name]) for name in _HEAD_COLUMNS[4:]})
    return tuple(rows)


def read_confirmation(path: str | Path) -> Confirmation:
    """Read what `Confirmation.save` wrote to .json.

    Raises:
        ContrastError: If the file is not there or is no such file.
    """
    path = Path(path)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        heads = tuple(
            {key: math.nan if one is None else one for key, one in row.items()}
            for row in facts["heads"]
        )
        return Confirmation(
            str(facts["title"]), heads, read_changes(path) if facts["changes"] else None,
            tuple(facts["draws"]), dict(facts["settings"]), tuple(facts["refused"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ContrastError(
            "this file holds no confirmation", where=str(path),
            got=f"{type(error).__name__}: {error}",
            expected="what `attnprobe confirm RUN … -o confirmation.json` writes",
        ) from error  # fmt: skip


def _difference(row: Mapping[str, Any], alpha: float) -> str:
    """Say which of them it needs more, if that can be said."""
    p = math.inf if row["p_adjusted"] is None else row["p_adjusted"]
    needed = "No certain difference"
    if p < alpha:
        needed = f"It needs the chosen heads {'more' if row['estimate'] < 0 else 'less'}"
    return f"{needed}: {_told(row)}" + (f" (p {p:.2g})" if math.isfinite(p) else "")


def _told(row: Mapping[str, Any]) -> str:
    return f"{row['estimate']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}]"
