"""A record as text: how much each of its tokens counts for what is predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from attnprobe.errors import FigureError, SelectionError
from attnprobe.measures.roles import match_roles, require_role
from attnprobe.panels.attributions import SCALES, credit_name
from attnprobe.panels.maps import heading
from attnprobe.panels.notices import with_notice
from attnprobe.panels.panel import limits_around_zero
from attnprobe.panels.showing import shown_in_notebook
from attnprobe.panels.tokens import TokenLabel, token_labels
from attnprobe.types import Encoding, Span


@dataclass(frozen=True, slots=True, eq=False)
class TextPanel:
    """A text in tokens, each with a value of its own, ready to be drawn on coloured ground."""

    words: tuple[TokenLabel, ...]
    """The text, token by token; tokens that share a character are one."""
    values: Float[np.ndarray, " word"]
    """A value of each; NaN where there is none."""
    predicted: tuple[bool, ...]
    """Which of them are the predictions that the values are about."""
    spans: tuple[Span, ...]
    """Segments, in tokens."""
    title: str
    """Short heading."""
    name: str
    """What the values are, for the colour bar."""
    unit: str
    """Unit of the values."""
    limits: tuple[float, float]
    """Values at the two ends of the colours, symmetric about 0."""
    scale: str = "sqrt"
    """How values turn into colours: sqrt (of either sign) or linear."""
    note: str = ""
    """Anything else the reader must know."""

    def __post_init__(self) -> None:
        where, n_words = f"text '{self.title}'", len(self.words)
        if not n_words or len(self.values) != n_words or len(self.predicted) != n_words:
            raise FigureError(
                "a text needs one value per word", where=where,
                got=f"{len(self.values)} values", expected=f"{n_words}, and 1 at least",
            )  # fmt: skip
        low, high = self.limits
        if not (np.isfinite(high) and low == -high < 0):
            raise FigureError(
                "diverging colours need limits symmetric about 0", where=where, got=self.limits
            )

    def role_of(self, word: int) -> str:
        """Return the segment that a word belongs to."""
        start = self.words[word].start
        return next(span.role for span in self.spans if span.start <= start < span.stop)

    def to_table(self) -> list[dict[str, Any]]:
        """Return one row per word."""
        return [
            {"panel": self.title, "token": word.start, "text": word.text,
             "role": self.role_of(i), "value": float(self.values[i]),
             "predicted": self.predicted[i], "name": self.name, "unit": self.unit}
            for i, word in enumerate(self.words)
        ]  # fmt: skip

    def _repr_html_(self) -> str:
        return shown_in_notebook(self)


def attribution_texts(
    run: Any,
    ids: str | Sequence[str],
    method: str | None = None,
    query: str | None = None,
    *,
    scale: str = "sqrt",
) -> tuple[TextPanel, ...]:
    """Arrange the attributions of records as text: each token with its credit for what follows.

    The credit of a token is summed over the chosen predicted tokens that come after it.

    Args:
        run: An open run.
        ids: One record, or several to be set one below the other (see `item_records`).
        method: Attribution method; the run's only one by default.
        query: Role, or pattern of roles, of the predicted tokens; all by default.
        scale: `sqrt` (of either sign) or `linear`.

    Returns:
        Texts that share their limits.

    Raises:
        SelectionError: If a record, method, role or scale is not there.
    """
    ids = [ids] if isinstance(ids, str) else list(ids)
    if not ids:
        raise SelectionError("no record was asked for", expected="one or more")
    if scale not in SCALES:
        raise SelectionError(
            "no scale of that name for attributions", got=f"'{scale}'",
            expected=" or ".join(SCALES),
        )  # fmt: skip
    credited = [_Credited.of(run, record_id, method, query) for record_id in ids]
    limits = limits_around_zero(*(one.values[~one.is_sink] for one in credited))
    return tuple(_panel(one, limits, scale, run) for one in credited)


@dataclass(frozen=True, slots=True, eq=False)
class _Credited:
    """The credit of each token of a record."""

    encoding: Encoding
    scores: xr.DataArray
    values: Float[np.ndarray, " token"]
    predicted: frozenset[int]

    @property
    def is_sink(self) -> np.ndarray:
        """Which tokens are sinks."""
        return np.isin(np.arange(len(self.values)), self.encoding.sinks)

    @classmethod
    def of(cls, run: Any, record_id: str, method: str | None, query: str | None) -> "_Credited":
        """Sum the scores of the chosen steps; NaN for tokens that come before none of them."""
        array, encoding = run.attribution(record_id, method), run.encoding(record_id)
        roles = array["step_role"].values.tolist()
        if query is not None:
            require_role(query, roles, "predicted role")
        steps = list(range(len(roles))) if query is None else match_roles(query, roles)
        if not steps:
            raise SelectionError("the record has no predicted token", where=f"record '{record_id}'")
        scores = array.values[steps].astype(np.float64)
        values = np.where(np.isnan(scores).all(0), np.nan, np.nansum(scores, axis=0))
        positions = array["position"].values[steps].tolist()
        return cls(encoding, array, values, frozenset(positions))


def _panel(one: _Credited, limits: tuple[float, float], scale: str, run: Any) -> TextPanel:
    words = token_labels(one.encoding.texts, longest=None)
    values = np.asarray([_sum(one.values[word.start : word.stop]) for word in words])
    predicted = tuple(not one.predicted.isdisjoint(range(w.start, w.stop)) for w in words)
    beyond = float(np.nanmax(np.abs(one.values), initial=0.0)) > limits[1]
    notes = [
        "Ground: credit of a token, summed over the predicted tokens after it; red speaks for "
        "them, blue against them. Underlined: the predicted tokens."
    ]
    if beyond:
        notes.append(
            f"The colours end at {limits[1]:.2g}, the largest credit of a token that is no sink; "
            "sinks (the first four tokens and BOS) reach beyond."
        )
    return TextPanel(
        words=words,
        values=values,
        predicted=predicted,
        spans=tuple(one.encoding.spans),
        title=f"{heading(one.encoding)}: {one.scores.attrs['method']}",
        name=credit_name(one.scores.attrs),
        unit=str(one.scores.attrs["units"]),
        limits=limits,
        scale=scale,
        note=with_notice(" ".join(notes), run),
    )


def _sum(values: Float[np.ndarray, " token"]) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nansum(values))
