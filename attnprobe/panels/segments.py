"""Which segment looks at which, in two styles and in their difference."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from attnprobe.contrasts import pair_items, select_styles
from attnprobe.errors import ContrastError, SelectionError
from attnprobe.measures import by_head, find_measure, sort_roles
from attnprobe.measures import measure as measure_run
from attnprobe.panels.notices import with_notice
from attnprobe.panels.panel import Panel, limits_around_zero, limits_from_zero

MAX_NUMBERED = 6
"""Numbered roles (`step_1`, `step_2` …) beyond this many are measured as one, `step_*`."""


def segment_panels(
    source: Any,
    a: str,
    b: str,
    measure: str = "enrichment",
    *,
    layer: int | Sequence[int] | None = None,
    head: int | Sequence[int] | None = None,
    ids: Sequence[str] | None = None,
) -> tuple[Panel, Panel, Panel]:
    """Arrange a measure as query roles by key roles: style a, style b, and a − b.

    Values are averaged over the layers and heads, then over the items that both styles have, each
    item counting once. The first two panels share their limits. Roles without a value in either
    style are left out, and the note says so. Where there are more than 6 numbered roles of a kind
    (`step_1` … `step_9`), their tokens are measured together as `step_*`; a measure given as an
    array is arranged with the roles it has.

    Args:
        source: An open run, or what `measures.measure` returned for all roles.
        a: One style.
        b: The style it is held against.
        measure: One of `attnprobe.measures.MEASURES`; for an array, its own name counts.
        layer: Layer, or layers, to average over; None for all.
        head: Head, or heads, to average over; None for all.
        ids: Records to take; None for all.

    Returns:
        Three panels.

    Raises:
        SelectionError: If a style, layer or head is not there, or the measure has no key roles.
        ContrastError: If no item has both styles.
    """
    values = (
        source
        if isinstance(source, xr.DataArray)
        else _measure(source, (a, b), measure, layer, head, ids)
    )
    name = str(values.attrs.get("measure", values.name or measure))
    _require_roles(values, name)
    values, where = _choose(values, layer, head)
    means = _mean(
        values.transpose("record", "layer", "head", "query_role", "key_role").values, (1, 2)
    )
    small = xr.DataArray(
        means,
        dims=("record", "query_role", "key_role"),
        coords={
            coord: values[coord] for coord in ("item", "style", "task", "query_role", "key_role")
        },
    )
    first, second, _, dropped = pair_items(small, a, b)
    if not len(first):
        raise ContrastError(
            "no item has a value in both styles", where=f"{name} in '{a}' and '{b}'"
        )
    grids = [_mean(part, (0,)) for part in (first, second, first - second)]
    queries, keys = values["query_role"].values.tolist(), values["key_role"].values.tolist()
    grids, queries, keys, absent = _trim(grids, queries, keys)
    note = f"Mean over {len(first)} items in both styles{where and ' and over '}{where}."
    if absent:
        note += f" Left out, being sinks or nowhere visible: {', '.join(absent)}."
    lost = sum(dropped.values())
    if lost:
        note += f" {lost} items left out, for lack of a pair."
    note = with_notice(note, source)
    unit = str(values.attrs.get("units", ""))
    signed = unit == "bits"
    shared = (limits_around_zero if signed else limits_from_zero)(*grids[:2])
    kinds = [
        (a, name, shared, signed),
        (b, name, shared, signed),
        (f"{a} − {b}", f"difference in {name}", limits_around_zero(grids[2]), True),
    ]
    return tuple(
        Panel(
            values=grid,
            rows=tuple(queries),
            columns=tuple(keys),
            title=title,
            row_axis="predicted segment (query)",
            column_axis="segment looked at (key)",
            name=what,
            unit=unit,
            limits=limits,
            diverging=diverging,
            empty="a style lacks the segment, or cannot see it yet",
            note=note,
        )
        for grid, (title, what, limits, diverging) in zip(grids, kinds, strict=True)
    )  # type: ignore[return-value]


def _measure(
    run: Any,
    styles: tuple[str, str],
    measure: str,
    layer: int | Sequence[int] | None,
    head: int | Sequence[int] | None,
    ids: Sequence[str] | None,
) -> xr.DataArray:
    """Measure all roles, taking long rows of numbered roles as one."""
    if not find_measure(measure).has_key:
        raise SelectionError(
            "this measure has no key roles to lay out", got=f"'{measure}'", fix="use a contrast"
        )
    chosen = select_styles(run, styles, ids)

    def measured(queries: Sequence[str] | None, keys: Sequence[str] | None) -> xr.DataArray:
        return measure_run(run, measure, queries, keys, layer, head, chosen)

    values = measured(None, None)
    queries = collapse_roles(values["query_role"].values.tolist())
    keys = collapse_roles(values["key_role"].values.tolist())
    if len(queries) < values.sizes["query_role"] or len(keys) < values.sizes["key_role"]:
        return measured(queries, keys)
    return values


def collapse_roles(roles: Iterable[str]) -> tuple[str, ...]:
    """Replace more than `MAX_NUMBERED` roles that differ by a number with one pattern.

    `step_1` … `step_9` become `step_*`. Parts stay apart where every member has one:
    `demo_1.question`, `demo_1.answer` … become `demo_*.question`, `demo_*.answer`.
    """
    families: dict[str, dict[str, tuple[str, str]]] = {}
    roles = sort_roles(roles)
    for role in roles:
        if found := re.fullmatch(r"([^.]+)_(\d+)(\..+)?", role):
            families.setdefault(found[1], {})[role] = (found[2], found[3] or "")
    renamed: dict[str, str] = {}
    for family, members in families.items():
        if len({number for number, _ in members.values()}) > MAX_NUMBERED:
            whole = any(not part for _, part in members.values())
            for role, (_, part) in members.items():
                renamed[role] = f"{family}_*" if whole else f"{family}_*{part}"
    return tuple(dict.fromkeys(renamed.get(role, role) for role in roles))


def _require_roles(values: xr.DataArray, name: str) -> None:
    if {"query_role", "key_role"} - set(values.dims):
        raise SelectionError(
            "segments need the measure for all query and key roles",
            where=name,
            got=f"dims {', '.join(map(str, values.dims))}",
            expected="dims record, layer, head, query_role, key_role",
            fix="call measure without query and key",
        )


def _choose(
    values: xr.DataArray,
    layer: int | Sequence[int] | None,
    head: int | Sequence[int] | None,
) -> tuple[xr.DataArray, str]:
    """Take the chosen layers and heads, and word what is averaged over."""
    words = []
    for dim, asked in (("layer", layer), ("head", head)):
        if dim not in values.dims:
            continue  # a measure of whole models, or of whole layers
        if asked is None:
            words.append(f"all {values.sizes[dim]} {dim}s")
            continue
        chosen = [asked] if isinstance(asked, int) else list(asked)
        there = values[dim].values.tolist()
        for one in chosen:
            if one not in there:
                raise SelectionError(
                    f"no {dim} {one}", got=one, expected=f"one of {_ranges(there)}"
                )
        values = values.sel({dim: chosen})
        words.append(f"{dim}{'s' * (len(chosen) > 1)} {', '.join(map(str, chosen))}")
    return by_head(values), " and ".join(words)


def _ranges(numbers: Sequence[int]) -> str:
    """Word sorted numbers shortly: `0-7`, or `0, 3, 5`."""
    first, last = numbers[0], numbers[-1]
    whole = list(numbers) == list(range(first, last + 1))
    return f"{first}-{last}" if whole else ", ".join(map(str, numbers))


def _mean(values: Float[np.ndarray, "..."], axes: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """Average what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    sizes = defined.sum(axis=axes)
    sums = np.where(defined, values, 0.0).sum(axis=axes, dtype=np.float64)
    return np.divide(sums, sizes, out=np.full(sums.shape, np.nan), where=sizes > 0)


def _trim(
    grids: Sequence[Float[np.ndarray, "row column"]], rows: list[str], columns: list[str]
) -> tuple[list[np.ndarray], list[str], list[str], list[str]]:
    """Leave out rows and columns without any value, naming the roles that are gone for good."""
    some = np.any([~np.isnan(grid) for grid in grids], axis=0)
    keep_rows, keep_columns = np.flatnonzero(some.any(axis=1)), np.flatnonzero(some.any(axis=0))
    kept = [grid[np.ix_(keep_rows, keep_columns)] for grid in grids]
    new_rows, new_columns = [rows[i] for i in keep_rows], [columns[i] for i in keep_columns]
    gone = (set(rows) | set(columns)) - set(new_rows) - set(new_columns)
    return kept, new_rows, new_columns, list(sort_roles(gone))
