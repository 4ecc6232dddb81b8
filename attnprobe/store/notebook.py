"""What a notebook shows of a run."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

MOST_NAMES = 8
"""Styles, tasks and splits beyond which only their number is told."""


def run_table(info: Mapping[str, Any]) -> str:
    """Return what a run holds as an HTML table; text of datasets is escaped.

    Args:
        info: What `Run.info` returns.
    """
    done, planned = info["records"]["sealed"], info["records"]["planned"]
    rows = {
        "run": info["path"],
        "records": f"{done}" if info["complete"] else f"{done} of {planned} so far",
        "items": info["items"],
        "styles": _counted(info["styles"]),
        "tasks": _counted(info["tasks"]),
        "splits": _counted(info["splits"]),
        "tokens": f"{info['tokens']:,}, {info['steps']:,} of them predicted",
        "attention": f"{len(info['layers'])} layers × {len(info['heads'])} heads, "
        f"keep {' + '.join(info['keep'])}, stored as {info['encoding']}",
        "model": f"{info['model'].get('name', '')} ({info['model'].get('dtype', '')})",
        "worst certificate": _short(info["worst_error"]),
        "size": f"{info['bytes'] / 2**20:.1f} MiB",
    }
    table = pd.DataFrame({name: [value] for name, value in rows.items() if value != ""}).T
    return table.to_html(header=False, escape=True, border=0)


def _counted(counts: Mapping[str, int]) -> str:
    named = {name: count for name, count in counts.items() if name}
    if len(named) > MOST_NAMES:
        return str(len(named))
    return ", ".join(f"{name} ({count})" for name, count in named.items())


def _short(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"
