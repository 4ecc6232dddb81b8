"""What a contrast asks of a run, and the values that answer it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from attnprobe.contrasts.pairing import select_styles
from attnprobe.errors import ContrastError, MeasureError, nearest
from attnprobe.measures import find_measure, roles_by_style, sort_roles
from attnprobe.measures import measure as measure_run
from attnprobe.types import PREFIX

OVER: Mapping[str, str] = {
    "head": "heads", "layer": "layers", "span": "span pairs", "whole": "values",
}  # fmt: skip
"""What is compared, cell by cell, and what the cells are called."""
EACH_ROLE = "each role"
"""Query and key of a contrast over span pairs."""
NO_TEXT = frozenset({"special", "template", "unparsed", PREFIX})
"""Roles that are no text of the record's."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is compared, whatever the two sides are."""

    measure: str
    query: str
    key: str | None
    """None for measures without one."""
    over: str = "head"
    """One of `OVER`."""
    interaction: str | None = None
    """Column whose groups are held against each other."""
    levels: tuple[str, str] = ("seen", "unseen")
    """The two groups."""

    def __post_init__(self) -> None:
        if self.over not in OVER:
            raise ContrastError(
                "nothing is compared over this", got=f"'{self.over}'", fix=nearest(self.over, OVER)
            )
        if self.over == "span" and self.key is None:
            raise ContrastError(
                "this measure has no keys, and so no span pairs",
                got=f"'{self.measure}'",
                fix="compare over 'head' or 'layer'",
            )

    @property
    def path(self) -> str:
        """Name what looks at what."""
        return f"{self.query} → {self.key}" if self.key else self.query


def ask(
    measure: str,
    query: str,
    key: str,
    over: str,
    interaction: str | None,
    levels: tuple[str, str],
) -> Question:
    """Put a question together, leaving out the key, heads or layers that the measure lacks."""
    chosen = find_measure(measure)
    if over == "span":
        query = key = EACH_ROLE
    if over == "head" and "head" not in chosen.axes:
        over = "layer"
    if over == "layer" and "layer" not in chosen.axes:
        over = "whole"
    return Question(measure, query, key if chosen.has_key else None, over, interaction, levels)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """A measure of the records of some styles, for the roles that can be compared."""

    values: xr.DataArray
    """Dims (record, layer, head), and query_role and key_role where the measure has them."""
    unshared: Mapping[str, tuple[str, ...]]
    """Style → key roles that it alone has."""


def read_answers(
    run: Any, styles: Sequence[str], question: Question, ids: Sequence[str] | None
) -> Answers:
    """Measure the records of some styles for the roles that all of them have.

    The roles read besides the one that is asked about are for the omnibus test.

    Raises:
        SelectionError: If a style, a role or the measure is not there.
        ContrastError: If a role is in none of the styles.
    """
    chosen = select_styles(run, styles, ids)
    roles = roles_by_style(run)
    queries, keys = ([set(roles[style][i]) for style in styles] for i in (0, 1))
    shared_keys = [key for key in sort_roles(set.intersection(*keys)) if key not in NO_TEXT]
    asked_queries, asked_keys = [question.query], [question.key] if question.key else None
    if question.over == "span":
        asked_queries = [q for q in sort_roles(set.intersection(*queries)) if q not in NO_TEXT]
        asked_keys = shared_keys
    elif question.key:
        asked_keys = list(dict.fromkeys([question.key, *shared_keys]))
    try:
        values = measure_run(run, question.measure, query=asked_queries, key=asked_keys, ids=chosen)
    except MeasureError as fault:
        if "is undefined in all" not in fault.what:
            raise
        raise role_fault(run, styles, question, " and ".join(styles)) from fault
    everywhere = set.union(*keys) - NO_TEXT
    unshared = {
        style: sort_roles(own & everywhere - set.intersection(*keys))
        for style, own in zip(styles, keys, strict=True)
    }
    return Answers(values, unshared if question.key else {})


def lacking(values: xr.DataArray, styles: Sequence[str], question: Question) -> list[str]:
    """Name the styles in which what is asked about has no value in any record."""
    asked = _asked(values, question).values
    found = []
    for style in styles:
        of_style = asked[values["style"].values == style]
        if of_style.size and np.isnan(of_style).all():
            found.append(style)
    return found


def role_fault(run: Any, styles: Sequence[str], question: Question, absent: str) -> ContrastError:
    """Word that a role is missing, and which roles there are."""
    roles = roles_by_style(run)
    listed = "; ".join(
        f"'{style}' has queries {', '.join(roles[style][0]) or '(none)'} "
        f"and keys {', '.join(roles[style][1]) or '(none)'}"
        for style in styles
    )
    return ContrastError(
        f"nothing to compare in {absent}, for lack of a role or of a visible key",
        where=question.path,
        got=listed,
        expected="roles that both styles have, the key before the query",
        fix=find_measure(question.measure).where_undefined or None,
    )


def cells(values: xr.DataArray, question: Question) -> xr.DataArray:
    """Reduce a measure to the cells that are compared: dims (record, …)."""
    if question.over == "span":
        return average(values, ("layer", "head"))
    gone = {"head": (), "layer": ("head",), "whole": ("layer", "head")}[question.over]
    return average(_asked(values, question), gone)


def omnibus_cells(values: xr.DataArray, question: Question) -> xr.DataArray:
    """Reduce a measure to means over the heads of each layer, for each span."""
    means = average(values, ("head",))
    if question.key is not None and question.over != "span":
        roles = means["key_role"].values.tolist()
        shared = [role for role in sort_roles(roles) if role not in NO_TEXT]
        means = means.isel(key_role=[roles.index(role) for role in shared])
    return means if question.over == "span" else means.isel(query_role=0, drop=True)


def _asked(values: xr.DataArray, question: Question) -> xr.DataArray:
    if question.over == "span":
        return values
    queries = values["query_role"].values.tolist()
    one = values.isel(query_role=queries.index(question.query), drop=True)
    if question.key is None:
        return one
    return one.isel(key_role=one["key_role"].values.tolist().index(question.key), drop=True)


def average(values: xr.DataArray, dims: tuple[str, ...]) -> xr.DataArray:
    """Average over some dims, those that are there, what is defined; NaN where nothing is."""
    there = [dim for dim in dims if dim in values.dims]
    axes = tuple(values.get_axis_num(dim) for dim in there)
    means = nan_mean(values.values, axes)
    return values.isel(dict.fromkeys(there, 0), drop=True).copy(data=means)


def nan_mean(values: Float[np.ndarray, "..."], axes: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """Average over axes what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    sizes = defined.sum(axis=axes)
    sums = np.where(defined, values, 0.0).sum(axis=axes, dtype=np.float64)
    return np.divide(sums, sizes, out=np.full(sums.shape, np.nan), where=sizes > 0)


def coords_of(values: xr.DataArray) -> dict[str, np.ndarray]:
    """Return the labels of each axis after the first."""
    return {str(dim): values[dim].values for dim in values.dims[1:]}


def require_same_shape(one: Any, other: Any) -> None:
    """Refuse runs whose layers and heads do not correspond.

    Raises:
        ContrastError: If they differ.
    """
    shapes = [(tuple(run.layers), tuple(run.heads)) for run in (one, other)]
    if shapes[0] == shapes[1]:
        return
    worded = [f"{len(layers)} layers × {len(heads)} heads" for layers, heads in shapes]
    if worded[0] == worded[1]:
        worded = [f"layers {layers[:3]} …, heads {heads[:3]} …" for layers, heads in shapes]
    raise ContrastError(
        "the two runs do not have the same heads, so that none corresponds to another",
        got=" and ".join(worded),
        expected="runs of one architecture, with the same --layers and --heads",
    )


def require_one_model(one: Any, other: Any) -> None:
    """Refuse runs of different models where a difference must come from the prompts alone.

    Raises:
        ContrastError: If they differ.
    """
    if one.model == other.model:
        return
    keys = [
        key for key in {**one.model, **other.model} if one.model.get(key) != other.model.get(key)
    ]
    raise ContrastError(
        "the two runs are of different models, so that a difference between the styles cannot be "
        "told from one between the models",
        got=f"they differ in {', '.join(sorted(keys))}",
        expected="both styles of one model",
        fix="compare one style over two models (contrast_runs, --against), or extract again",
    )
