"""What a head is for, read off where it looks: scores from 0 to 1 on rows of weights."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int
from scipy.stats import kurtosis

from attnprobe.errors import MeasureError, SelectionError, nearest
from attnprobe.measures.rows import StepRows

Weights = Float[np.ndarray, "layer head query key"]
Queries = Int[np.ndarray, " query"]
Ids = Int[np.ndarray, " key"]
Score = Float[np.ndarray, "layer head"]


@dataclass(frozen=True, slots=True)
class Rows:
    """Attention rows of one text."""

    weights: Weights
    """Softmax weights."""
    queries: Queries
    """Position of each row."""
    ids: Ids
    """The text's token ids."""
    spans: tuple[tuple[int, int], ...]
    """Its segments, half-open."""


def previous_token(rows: Rows) -> Score:
    """Mean weight on the token right before (Olsson et al. 2022).

    It misleads in texts whose sentences are one token long, where other heads look there too.
    """
    return _mean_on(rows, rows.queries[:, None] - 1 == np.arange(len(rows.ids)))


def duplicate_token(rows: Rows) -> Score:
    """Mean mass on earlier occurrences of the query's own token, where there are any (Wang et al.
    2023).

    Common tokens, such as spaces, have many earlier occurrences, so that even attention scores.
    """
    before = np.arange(len(rows.ids)) < rows.queries[:, None]
    return _mean_on(rows, before & (rows.ids == rows.ids[rows.queries][:, None]))


def induction(rows: Rows) -> Score:
    """Mean mass on the tokens that followed earlier occurrences of the query's own token (Olsson
    et al. 2022).

    On their random repeated text this finds the heads that copy; on other texts a head that looks
    at what is likely anyway scores as well.
    """
    followed = np.zeros((len(rows.queries), len(rows.ids)), bool)
    same = rows.ids[:-1] == rows.ids[rows.queries][:, None]
    followed[:, 1:] = same & (np.arange(len(rows.ids) - 1) < rows.queries[:, None])
    return _mean_on(rows, followed & (np.arange(len(rows.ids)) <= rows.queries[:, None]))


def retrieval(rows: Rows) -> Score:
    """Share of predicted tokens, among those that stand earlier in the text, of which the head's
    strongest weight is on an occurrence (Wu et al. 2024).

    A row predicts the token after it. Of the paper's definition, in which the model copies a
    sentence from a long context word for word, this keeps the test and takes every token that can
    be copied; in texts with few different tokens chance is high.
    """
    inside = rows.queries + 1 < len(rows.ids)
    queries = rows.queries[inside]
    earlier = np.arange(len(rows.ids)) <= queries[:, None]
    wanted = earlier & (rows.ids == rows.ids[queries + 1][:, None])
    asked = wanted.any(1)
    if not asked.any():
        return np.full(rows.weights.shape[:2], np.nan)
    strongest = rows.weights[:, :, inside][:, :, asked].argmax(-1)
    hit = wanted[asked][np.arange(asked.sum()), strongest]
    return hit.mean(-1)


def receiver(rows: Rows) -> Score:
    """Kurtosis, over segments, of the mean weight that a segment's tokens get from later segments
    (Bogdan et al. 2025): large where a few segments draw a head's attention.

    Four segments at least. It is of scale, not from 0 to 1, and grows with their number, so only
    texts alike compare. Segments next to the row are left out as in the paper (fewer than four
    segments apart there; the next one here, since prompts have fewer segments).
    """
    found = []
    for at, (start, stop) in enumerate(rows.spans[:-2]):
        later = rows.queries >= rows.spans[at + 2][0]
        if later.any():
            found.append(rows.weights[:, :, later, start:stop].mean((-1, -2)))
    if len(found) < 4:
        return np.full(rows.weights.shape[:2], np.nan)
    values = np.stack(found)
    spread = values.std(axis=0) > 1e-12
    return np.where(spread, kurtosis(values, axis=0), np.nan)


HEAD_ROLES: dict[str, Callable[[Rows], Score]] = {
    "previous_token": previous_token,
    "duplicate_token": duplicate_token,
    "induction": induction,
    "retrieval": retrieval,
    "receiver": receiver,
}
"""Every head role by name; a role's docstring says where it comes from and when it misleads."""


def step_scores(role: str) -> Callable[[StepRows], Float[np.ndarray, "layer head asked"]]:
    """Make a measure of a head role: its score of each step by itself.

    These scores are means over rows, so their mean over the steps of a role is the score of those
    rows; NaN where a step says nothing about the role. `receiver` is none of them: it is a score of
    a whole text.
    """
    score = HEAD_ROLES[role]

    def per_step(steps: StepRows) -> Float[np.ndarray, "layer head asked"]:
        found = np.full((*steps.weights.shape[:2], len(steps.asked)), np.nan, np.float32)
        for place, step in enumerate(steps.asked):
            row = slice(step, step + 1)
            found[:, :, place] = score(
                Rows(steps.weights[:, :, row], steps.queries[row], steps.ids, ())
            )
        return found

    return per_step


@runtime_checkable
class RowsRun(Protocol):
    """What head roles need of a run."""

    @property
    def records(self) -> Any:
        """Table indexed by record id."""
        ...

    def weights(self, record_id: str, layer: Any = None, head: Any = None) -> xr.DataArray:
        """Return rows with dims (layer, head, query, key)."""
        ...

    def encoding(self, record_id: str) -> Any:
        """Return a record's tokens and spans."""
        ...


def head_roles(
    run: RowsRun,
    roles: Sequence[str] = tuple(HEAD_ROLES),
    layer: Any = None,
    head: Any = None,
    ids: Iterable[str] | None = None,
) -> xr.DataArray:
    """Score every head for roles that heads are known to play.

    Kept with `full`, every token is a row; with `rows`, the predicted tokens only.

    Args:
        run: An open run that holds rows.
        roles: Some of `HEAD_ROLES`.
        layer: Layers to read; None for all.
        head: Heads to read; None for all.
        ids: Records to read; None for all.

    Returns:
        Dims (record, role, layer, head); NaN where a record has nothing that tells.

    Raises:
        SelectionError: If there is no such role.
        MeasureError: If the run holds no rows, or no records were named.
    """
    for role in roles:
        if role not in HEAD_ROLES:
            raise SelectionError(
                "no head role of that name", got=f"'{role}'", fix=nearest(role, HEAD_ROLES)
            )
    chosen = list(run.records.index if ids is None else ids)
    if not chosen or not roles:
        raise MeasureError(
            "there is nothing to score", got=f"{len(chosen)} records, {len(roles)} roles"
        )
    found = []
    for record_id in chosen:
        weights, encoding = run.weights(record_id, layer, head), run.encoding(record_id)
        rows = Rows(
            weights.values,
            weights["query"].values,
            np.asarray(encoding.ids, np.int64),
            tuple((span.start, span.stop) for span in encoding.spans),
        )
        scores = np.stack([HEAD_ROLES[role](rows) for role in roles])
        found.append(xr.DataArray(
            scores, {"role": list(roles), **_axes(weights)}, ("role", "layer", "head")
        ))  # fmt: skip
    together = xr.concat(found, dim="record").assign_coords(record=chosen)
    return together.rename("head_roles")


def _axes(weights: xr.DataArray) -> dict[str, np.ndarray]:
    return {name: weights[name].values for name in ("layer", "head")}


def _mean_on(rows: Rows, keys: Bool[np.ndarray, "query key"]) -> Score:
    """Average, over the rows that have any, the mass on some keys of each row."""
    some = keys.any(1)
    if not some.any():
        return np.full(rows.weights.shape[:2], np.nan)
    return np.einsum("lhqk,qk->lhq", rows.weights[:, :, some], keys[some]).mean(-1)
