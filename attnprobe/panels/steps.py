"""How the attention of each predicted token divides over the segments before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from attnprobe.contrasts import select_styles
from attnprobe.errors import SelectionError
from attnprobe.measures.roles import match_roles, require_role, sort_roles
from attnprobe.panels.lines import Line, LinePanel
from attnprobe.panels.maps import heading
from attnprobe.panels.notices import with_notice
from attnprobe.panels.segments import collapse_roles
from attnprobe.panels.tokens import token_axis

SINK = "sinks"
"""Name of the first four tokens and BOS, whatever segment they belong to."""
OTHER = "other"
"""Name of all segments that hardly anything looks at."""
_HARDLY = 0.02
"""Share that such a segment stays below at every step."""
_REACHED = 0.5
"""Share of the records that must have a step for it to be shown."""
_OUTCOMES = {True: "passed", False: "failed"}


@dataclass(frozen=True, slots=True, eq=False)
class _Shares:
    """Where the steps of one record look, averaged over heads."""

    record: str
    style: str
    roles: tuple[str, ...]
    values: Float[np.ndarray, "step role"]
    steps: tuple[int, ...]
    """Which steps of the record, counted from 0."""


def step_panels(
    run: Any,
    styles: Sequence[str] | None = None,
    *,
    passed: Mapping[str, bool | None] | None = None,
    query: str | None = None,
    layer: int | Sequence[int] | None = None,
    head: int | Sequence[int] | None = None,
    stacked: bool = True,
) -> tuple[LinePanel, ...]:
    """Arrange how attention divides over segments, predicted token by predicted token.

    A step's shares are averaged over the chosen heads, then over the records of a style that have
    the step. Steps that fewer than half of the records have are left out.

    Args:
        run: An open run.
        styles: Which, in this order; all by default.
        passed: Whether each record's answer was right (None: unknown), by id; then each style
            gets a panel for the records that passed and one for those that failed.
        query: Role, or pattern of roles, of the predicted tokens to take, counted from the first
            of them; all by default.
        layer: Layer, or layers; None for all.
        head: Query head, or heads; None for all.
        stacked: Shares one on top of another; otherwise a line for each segment.

    Returns:
        Panels style by style; with `passed` two of each style, one after the other.

    Raises:
        SelectionError: If a style, layer, head or role is not there, or there is no record.
        MeasureError: If the run does not hold the attention of every step.
    """
    there = list(dict.fromkeys(run.records["style"].tolist()))
    wanted = list(styles or there)
    ids = select_styles(run, wanted, None)
    if not ids:
        raise SelectionError("the run holds no record", where=str(run.path))
    found = [
        _shares(record_id, str(run.records["style"][record_id]), array, query)
        for record_id, array in run.iter_step_mass(ids, layer, head)
    ]
    _require_steps(found, query, run)
    roles = _common(found)
    outcomes: list[bool | None] = [None] if passed is None else [*_OUTCOMES]
    groups = [(style, outcome) for style in wanted for outcome in outcomes]
    panels = [
        _mean_panel(
            _heading(style, outcome),
            [one for one in found if one.style == style and _is(passed, one.record, outcome)],
            roles, stacked=stacked,
        )
        for style, outcome in groups
    ]  # fmt: skip
    note = _note(run, layer, head, query)
    if passed is not None:
        unknown = sum(passed.get(one.record) is None for one in found)
        note += f" {unknown} records without a score are left out." if unknown else ""
    return _folded(panels, with_notice(note, run))


def record_step_panels(
    run: Any,
    ids: str | Sequence[str],
    *,
    query: str | None = None,
    layer: int | Sequence[int] | None = None,
    head: int | Sequence[int] | None = None,
    stacked: bool = True,
) -> tuple[LinePanel, ...]:
    """Arrange the same for single records, each step under the token that is predicted there.

    Args:
        run: An open run.
        ids: One record, or several (see `item_records`).
        query: Role, or pattern of roles, of the predicted tokens to take; all by default.
        layer: Layer, or layers; None for all.
        head: Query head, or heads; None for all.
        stacked: Shares one on top of another; otherwise a line for each segment.

    Returns:
        A panel for each record.

    Raises:
        SelectionError: If a record, layer, head or role is not there.
        MeasureError: If a record has no attention of every step.
    """
    ids = [ids] if isinstance(ids, str) else list(ids)
    found = [
        _shares(record_id, run.encoding(record_id).record.style,
                run.step_mass(record_id, layer, head), query)
        for record_id in ids
    ]  # fmt: skip
    _require_steps(found, query, run)
    roles = _common(found)
    panels = []
    for one in found:
        encoding = run.encoding(one.record)
        positions = [encoding.n_prompt + step for step in one.steps]
        panel = _panel(heading(encoding), np.arange(len(positions)) + 0.5, _laid(one, roles),
                       roles, stacked=stacked)  # fmt: skip
        tokens = token_axis(encoding, positions, "predicted token")
        panels.append(replace(panel, tokens=tokens, x_axis="predicted token"))
    return _folded(panels, with_notice(_note(run, layer, head, query, mean=False), run))


def _shares(record: str, style: str, mass: xr.DataArray, query: str | None) -> _Shares:
    """Sum the groups of each role, sinks set apart, and average over heads."""
    mean = mass.mean(("layer", "head"), dtype=np.float64).transpose("step", "group").values
    roles = np.where(mass["is_sink"].values, SINK, mass["role"].values.astype(object)).tolist()
    names = tuple(dict.fromkeys(roles))
    values = np.stack([mean[:, match_roles(name, roles)].sum(1) for name in names], 1)
    step_roles = mass["step_role"].values.tolist()
    steps = range(len(step_roles)) if query is None else match_roles(query, step_roles)
    seen = values.max(0, initial=0.0) > 0
    kept = [name for name, some in zip(names, seen, strict=True) if some]
    return _Shares(record, style, tuple(kept), values[list(steps)][:, seen], tuple(steps))


def _require_steps(found: Sequence[_Shares], query: str | None, run: Any) -> None:
    if any(one.steps for one in found):
        return
    if query is not None:
        known = [
            role for one in found[:20]
            for role in run.step_mass(one.record)["step_role"].values.tolist()
        ]  # fmt: skip
        require_role(query, known, "predicted role")
    raise SelectionError("the records have no predicted token", where=str(run.path))


def _common(found: Sequence[_Shares]) -> tuple[str, ...]:
    """Return all roles in reading order, the sinks first; many numbered ones as one."""
    roles = [
        role for role in sort_roles(role for one in found for role in one.roles) if role != SINK
    ]
    collapsed = collapse_roles(roles)
    return (SINK, *collapsed) if any(SINK in one.roles for one in found) else collapsed


def _laid(one: _Shares, roles: Sequence[str]) -> Float[np.ndarray, "step role"]:
    """Put a record's shares into the columns of the common roles."""
    laid = np.zeros((len(one.values), len(roles)))
    for column, role in enumerate(roles):
        laid[:, column] = one.values[:, match_roles(role, one.roles)].sum(1)
    return laid


def _is(passed: Mapping[str, bool | None] | None, record: str, outcome: bool | None) -> bool:
    return passed is None or passed.get(record) is outcome


def _heading(style: str, outcome: bool | None) -> str:
    return style if outcome is None else f"{style}, {_OUTCOMES[outcome]}"


def _mean_panel(
    title: str, chosen: Sequence[_Shares], roles: tuple[str, ...], *, stacked: bool
) -> LinePanel:
    """Average records step by step, over those that have the step."""
    chosen = [one for one in chosen if one.steps]
    if not chosen:
        return _panel(f"{title} (no record)", np.ones(1), np.full((1, len(roles)), np.nan), roles,
                      stacked=stacked)  # fmt: skip
    lengths = np.asarray([len(one.steps) for one in chosen])
    n_shown = int(np.quantile(lengths, 1 - _REACHED, method="higher"))
    total, count = np.zeros((n_shown, len(roles))), np.zeros((n_shown, 1))
    for one in chosen:
        laid = _laid(one, roles)[:n_shown]
        total[: len(laid)] += laid
        count[: len(laid)] += 1
    words = f"{title} ({len(chosen)} record{'s' * (len(chosen) > 1)})"
    return _panel(words, np.arange(1.0, n_shown + 1), total / count, roles, stacked=stacked)


def _panel(
    title: str,
    places: Float[np.ndarray, " step"],
    shares: Float[np.ndarray, "step role"],
    roles: Sequence[str],
    *,
    stacked: bool,
) -> LinePanel:
    if not stacked:  # a segment that nothing looks at has no line
        shares = np.where(shares.max(0) > 0, shares, np.nan)
    return LinePanel(
        lines=tuple(Line(role, places, shares[:, i]) for i, role in enumerate(roles)),
        title=title,
        x_axis="predicted token, counted from 1",
        name="attention",
        unit="share",
        limits=(0.0, 1.0) if stacked else None,
        stacked=stacked,
    )


def _folded(panels: Sequence[LinePanel], note: str) -> tuple[LinePanel, ...]:
    """Put segments that hardly anything looks at together, and complete the notes."""
    largest: dict[str, float] = {}
    for line in (line for panel in panels for line in panel.lines):
        share = float(np.nanmax(line.y, initial=0.0))
        largest[line.label] = max(largest.get(line.label, 0.0), share)
    small = [label for label, share in largest.items() if share < _HARDLY]
    if len(small) < 2:
        return tuple(replace(panel, note=note) for panel in panels)
    note += f" {OTHER.capitalize()}: {', '.join(small)}, each below {_HARDLY:.0%} at every step."
    folded = []
    for panel in panels:
        kept = [line for line in panel.lines if line.label not in small]
        shares = np.asarray([line.y for line in panel.lines if line.label in small])
        rest = np.where(np.isnan(shares).all(0), np.nan, np.nansum(shares, axis=0))
        lines = (*kept, Line(OTHER, panel.lines[0].x, rest))
        folded.append(replace(panel, lines=lines, note=note))
    return tuple(folded)


def _note(
    run: Any,
    layer: int | Sequence[int] | None,
    head: int | Sequence[int] | None,
    query: str | None,
    *,
    mean: bool = True,
) -> str:
    """Say what was averaged."""
    words = []
    for what, asked, there in (("layer", layer, run.layers), ("head", head, run.heads)):
        chosen = there if asked is None else [asked] if isinstance(asked, int) else list(asked)
        every = asked is None and len(there) > 1
        numbers = f"all {len(there)} {what}s" if every else f"{what} {', '.join(map(str, chosen))}"
        words.append(numbers)
    lines = [f"Mean over {' and '.join(words)}."]
    if mean:
        lines.append(
            "Each step is the mean over the records that have it; steps that fewer than half of "
            "them have are left out."
        )
    if query is not None:
        lines.append(f"Only predicted tokens of {query}.")
    lines.append(f"{SINK.capitalize()}: the first four tokens and BOS, whatever their segment.")
    return " ".join(lines)
