"""`contrast`: two styles of a run, paired by item."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from jaxtyping import Float

from attnprobe.contrasts.comparing import compare
from attnprobe.contrasts.result import Contrast
from attnprobe.errors import ContrastError, MeasureError, SelectionError, nearest
from attnprobe.measures import find_measure, roles_by_style
from attnprobe.measures import measure as measure_run


def contrast(
    run: Any,
    *,
    a: str,
    b: str,
    measure: str = "enrichment",
    query: str = "answer",
    key: str = "history",
    by: Literal["task", "item"] = "task",
    ids: Sequence[str] | None = None,
    n_flips: int = 10_000,
    n_bootstrap: int = 2000,
    confidence: float = 0.95,
    rng: int = 0,
) -> Contrast:
    """Compare two styles of prompting, head by head, over the items that have both.

    Args:
        run: An open run.
        a: Style; positive differences mean that it has more of the measure.
        b: Style to hold it against.
        measure: One of `attnprobe.measures.MEASURES`.
        query: Role of the steps that look; `step_*` takes several roles as one.
        key: Role that is looked at; unused by measures without one (`sink_mass`).
        by: `task` for claims about new tasks (6 at least), `item` for these tasks only.
        ids: Records to take, of either style; None for all.
        n_flips: Sign flips.
        n_bootstrap: Resamples of the interval.
        confidence: Coverage of the interval.
        rng: Seed.

    Returns:
        The contrast: effects per head, the pairs behind them, and what was left out.

    Raises:
        SelectionError: If a style, a role or the measure is not there.
        ContrastError: If a role is missing in one of the styles, nothing pairs, or there are too
            few tasks for the claim.
    """
    chosen = find_measure(measure)
    asked_key = key if chosen.has_key else None
    values = _measured(run, (a, b), measure, query, asked_key, ids)
    first, second, tasks, dropped = pair_items(values, a, b)
    effects = compare(
        first,
        second,
        tasks,
        by=by,
        n_flips=n_flips,
        rng=rng,
        n_bootstrap=n_bootstrap,
        confidence=confidence,
    ).assign_coords(layer=values["layer"].values, head=values["head"].values)
    settings = {
        "a": a,
        "b": b,
        "measure": measure,
        "query": query,
        "by": by,
        "n_flips": n_flips,
        "n_bootstrap": n_bootstrap,
        "confidence": confidence,
        "rng": rng,
    }
    return Contrast(
        effects=effects,
        a=a,
        b=b,
        measure=measure,
        query=query,
        key=asked_key,
        unit=chosen.unit,
        n_pairs=len(first),
        dropped=dropped,
        settings=settings | ({"key": asked_key} if asked_key else {}),
    )


def _measured(
    run: Any,
    styles: tuple[str, str],
    measure: str,
    query: str,
    key: str | None,
    ids: Sequence[str] | None,
) -> xr.DataArray:
    """Measure the records of two styles, and see that both have something to compare."""
    chosen = select_styles(run, styles, ids)
    where = f"{query} on {key}" if key else query
    try:
        values = measure_run(run, measure, query=query, key=key, ids=chosen)
    except MeasureError as fault:
        raise _role_fault(run, styles, where, " and ".join(styles)) from fault
    for style in styles:
        if values.values[values["style"].values == style].size == 0:
            continue  # pairing says so
        if np.isnan(values.values[values["style"].values == style]).all():
            raise _role_fault(run, styles, where, style)
    return values


def select_styles(run: Any, styles: tuple[str, str], ids: Sequence[str] | None) -> list[str]:
    """List the ids of the records of two styles.

    Args:
        run: An open run.
        styles: The two.
        ids: Records to choose among; None for all.

    Returns:
        Ids, in the order of the run.

    Raises:
        SelectionError: If there is no such style.
        ContrastError: If both are the same.
    """
    by_id = run.records["style"]
    for style in styles:
        if style not in set(by_id):
            raise SelectionError(
                "the run has no such style", got=f"'{style}'", fix=nearest(style, set(by_id))
            )
    if styles[0] == styles[1]:
        raise ContrastError("a style does not differ from itself", got=f"'{styles[0]}' twice")
    wanted = None if ids is None else set(ids)
    return [
        record_id
        for record_id, style in by_id.items()
        if style in styles and (wanted is None or record_id in wanted)
    ]


def _role_fault(run: Any, styles: tuple[str, str], where: str, lacking: str) -> ContrastError:
    roles = roles_by_style(run)
    listed = "; ".join(
        f"'{style}' has queries {', '.join(roles[style][0]) or '(none)'} "
        f"and keys {', '.join(roles[style][1]) or '(none)'}"
        for style in styles
    )
    return ContrastError(
        f"nothing to compare in {lacking}, for lack of a role or of a visible key",
        where=where,
        got=listed,
        expected="roles that both styles have, the key before the query",
    )


def pair_items(
    values: xr.DataArray, a: str, b: str
) -> tuple[
    Float[np.ndarray, "item *rest"], Float[np.ndarray, "item *rest"], np.ndarray, dict[str, int]
]:
    """Pair the records of two styles by item.

    Several records of one item and style (repeated samples, say) are averaged.

    Args:
        values: A measure; `record` first, with coords item, style and task.
        a: One style.
        b: The other.

    Returns:
        Values in `a`, values in `b`, task of each item, and how many items were left out, by
        reason.

    Raises:
        ContrastError: If no item has both styles, or an item has two tasks.
    """
    in_a, in_b = _by_item(values, a), _by_item(values, b)
    both = [item for item in in_a if item in in_b]
    if not both:
        raise ContrastError(
            "no item has both styles",
            got=f"{len(in_a)} items in '{a}', {len(in_b)} in '{b}'",
            expected="records of the same item in both",
            fix="give records that belong together the same 'item'",
        )
    for item in both:
        if in_a[item][0] != in_b[item][0]:
            raise ContrastError(
                "one item belongs to two tasks",
                where=f"item '{item}'",
                got=f"'{in_a[item][0]}' in '{a}', '{in_b[item][0]}' in '{b}'",
                expected="the same task in every style",
            )
    first = np.stack([in_a[item][1] for item in both])
    second = np.stack([in_b[item][1] for item in both])
    defined = ~np.isnan(first - second).reshape(len(both), -1).all(axis=1)
    dropped = {
        f"only in {a}": len(in_a) - len(both),
        f"only in {b}": len(in_b) - len(both),
        "without a value in one style": int((~defined).sum()),
    }
    tasks = np.array([in_a[item][0] for item in both])
    return first[defined], second[defined], tasks[defined], dropped


def _by_item(values: xr.DataArray, style: str) -> dict[str, tuple[str, np.ndarray]]:
    """Map each item of a style to its task and its values."""
    items, tasks = values["item"].values, values["task"].values
    places: dict[str, list[int]] = {}
    for place in np.flatnonzero(values["style"].values == style):
        places.setdefault(str(items[place]), []).append(int(place))
    return {
        item: (str(tasks[found[0]]), _mean(values.values[found])) for item, found in places.items()
    }


def _mean(records: Float[np.ndarray, "record *rest"]) -> Float[np.ndarray, "*rest"]:
    if len(records) == 1:
        return records[0]
    present = ~np.isnan(records)
    sums, sizes = np.where(present, records, 0).sum(axis=0), present.sum(axis=0)
    return np.where(sizes > 0, sums / np.maximum(sizes, 1), np.nan).astype(records.dtype)
