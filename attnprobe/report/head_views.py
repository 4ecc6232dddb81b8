"""What bertviz's head view and model view show of a record: stored rows, tokens, and how many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from attnprobe.errors import MeasureError, SelectionError, nearest
from attnprobe.panels.maps import heading
from attnprobe.panels.tokens import shortened
from attnprobe.signs import visible

VIEWS = {"head": "bertviz head view", "model": "bertviz model view"}
"""The views there are, and the script that draws each."""
MAX_LINES = 300_000
"""Lines that a browser draws in a few seconds. A view draws one for each weight."""
MAX_WEIGHTS = 10_000_000
"""Weights in one page, at 2.7 bytes each."""
MAX_HEADS = 40
"""Heads side by side in the model view: of more, bertviz leaves nothing to see of each."""
LONGEST_TOKEN = 11
"""Glyphs that fit in bertviz's boxes, Chinese ones counted twice."""


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """What of a run goes into a page of bertviz's views."""

    views: tuple[str, ...] = ("head", "model")
    """Names in `VIEWS`."""
    layers: tuple[int, ...] | None = None
    """Layers by their number in the model; all by default."""
    heads: tuple[int, ...] | None = None
    """Query heads; all by default."""
    steps_only: bool = False
    """Only the rows at which the target's tokens are predicted, also of a run that keeps all."""

    def __post_init__(self) -> None:
        if "neuron" in self.views:
            raise SelectionError(
                "bertviz's neuron view needs the queries and keys of every head, which runs do "
                "not hold (they hold the weights that come of them)",
                where="--view", got="neuron", expected=" or ".join(VIEWS),
                fix="call bertviz's own neuron_view with the model, in a notebook",
            )  # fmt: skip
        for name in self.views:
            if name not in VIEWS:
                raise SelectionError(f"no view '{name}'", where="--view", fix=nearest(name, VIEWS))


@dataclass(frozen=True, slots=True, eq=False)
class HeadView:
    """The attention rows of one record, ready for bertviz: queries to the left, keys to the right.

    A row's weights follow one another from its first visible key to its last; `pair` runs over
    the rows one after another. Tokens without a row stay blank on the left.
    """

    title: str
    """Names the record."""
    note: str
    """What the tokens on the left are."""
    texts: tuple[str, ...]
    """What to write for each token of the record."""
    places: Int[np.ndarray, " query"]
    """The token that stands for each row: the one that looks, or the one that is predicted."""
    first: Int[np.ndarray, " query"]
    """First visible key of each row."""
    last: Int[np.ndarray, " query"]
    """Last visible key of each row; before `first` where a row sees none."""
    layers: tuple[int, ...]
    """The layers' numbers in the model."""
    heads: tuple[int, ...]
    """The heads' numbers in their layer."""
    weights: Float32[np.ndarray, "layer head pair"]
    """Probabilities."""


def head_views(run: Any, ids: Sequence[str], settings: ViewSettings) -> tuple[HeadView, ...]:
    """Arrange the attention of records for bertviz.

    A run that keeps `full` gives the rows of all queries; one that keeps `rows` gives those at
    which the target's tokens are predicted, and these tokens stand for them.

    Args:
        run: An open run.
        ids: The records, to be set side by side (see `panels.item_records`).
        settings: Which views, layers and heads.

    Returns:
        A view for each record.

    Raises:
        MeasureError: If the run holds no attention rows.
        SelectionError: If a record, layer or head is not there, or there would be more lines
            than a browser can draw.
    """
    if not {"rows", "full"} & set(run.keep):
        raise MeasureError(
            "the run does not hold attention rows", where=str(run.path),
            got=f"--keep {' '.join(run.keep)}",
            fix="extract again with --keep rows (where predicted tokens look) or --keep full "
            "(every token; for a few records)",
        )  # fmt: skip
    frames = [_Frame.of(run, name, settings) for name in ids]
    _check_lines(frames, settings, run.keep)
    return tuple(frame.filled(run) for frame in frames)


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """Rows of a record before their weights are read."""

    id: str
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    chosen: Int[np.ndarray, " query"]
    """Positions among the stored rows."""
    places: Int[np.ndarray, " query"]
    first: Int[np.ndarray, " query"]
    last: Int[np.ndarray, " query"]
    is_square: bool

    @classmethod
    def of(cls, run: Any, record_id: str, settings: ViewSettings) -> "_Frame":
        encoding = run.encoding(record_id)
        layers, heads = settings.layers or tuple(run.layers), settings.heads or tuple(run.heads)
        one = run.weights(record_id, layer=list(layers[:1]), head=list(heads[:1]))
        queries, steps = one["query"].values, np.asarray(encoding.step_queries)
        chosen = np.arange(len(queries))
        if settings.steps_only:
            chosen = np.flatnonzero(np.isin(queries, steps))
        if not len(chosen):
            raise MeasureError(
                "the record has no attention rows", where=f"record '{record_id}'",
                fix="name a record with a target, or extract with --keep full",
            )  # fmt: skip
        is_square = not np.array_equal(queries[chosen], steps)
        return cls(
            id=record_id,
            layers=layers,
            heads=heads,
            chosen=chosen,
            places=queries[chosen] + (0 if is_square else 1),
            first=one["first_key"].values[chosen],
            last=one["last_key"].values[chosen],
            is_square=is_square,
        )

    @property
    def n_pairs(self) -> int:
        return int((self.last - self.first + 1).sum())

    def filled(self, run: Any) -> HeadView:
        """Read the weights, one layer in memory at a time."""
        encoding = run.encoding(self.id)
        weights = np.empty((len(self.layers), len(self.heads), self.n_pairs), np.float32)
        keys = np.arange(encoding.n_tokens)
        seen = (keys >= self.first[:, None]) & (keys <= self.last[:, None])
        for number, layer in enumerate(self.layers):
            rows = run.weights(self.id, layer=[layer], head=list(self.heads))
            rows = rows.transpose("layer", "head", "query", "key").values[0][:, self.chosen]
            weights[number] = rows[:, seen]
        return HeadView(
            title=heading(encoding),
            note=_SQUARE if self.is_square else _STEPS + _ROWS_ONLY * ("full" not in run.keep),
            texts=tuple(shortened(visible(text), LONGEST_TOKEN) for text in encoding.texts),
            places=self.places,
            first=self.first,
            last=self.last,
            layers=self.layers,
            heads=self.heads,
            weights=weights,
        )


_SQUARE = "Left: the tokens that look (queries). Right: the tokens looked at (keys)."
_STEPS = (
    "Left: the predicted tokens, each beside itself; its lines show where the model looks while it "
    "predicts it, one token before. Right: the tokens looked at (keys)."
)
_ROWS_ONLY = " The run keeps no other rows; one extracted with --keep full has every token's."


def _check_lines(frames: Sequence[_Frame], settings: ViewSettings, keep: Sequence[str]) -> None:
    """Refuse what would stall a browser."""
    n_heads = max(len(frame.heads) for frame in frames)
    if "model" in settings.views and n_heads > MAX_HEADS:
        raise SelectionError(
            "too many heads side by side in the model view", got=n_heads,
            expected=f"at most {MAX_HEADS}",
            fix="choose fewer (--heads 0-31), or leave this view out (--view head)",
        )  # fmt: skip
    for frame in frames:
        n_layers, n_heads = len(frame.layers), len(frame.heads)
        drawn = {
            "head": (
                n_heads * frame.n_pairs,
                f"{n_heads} heads × {frame.n_pairs} pairs of tokens",
                "fewer heads (--heads 0-3)",
            ),
            "model": (
                n_layers * n_heads * frame.n_pairs,
                f"{n_layers} layers × {n_heads} heads × {frame.n_pairs} pairs of tokens",
                "fewer layers or heads (--layers 0-3 --heads 0-3), or leave this view out "
                "(--view head)",
            ),
        }
        rows = ", or only the rows of predicted tokens (--steps)" * (
            "full" in keep and not settings.steps_only
        )
        for view in settings.views:
            n_lines, product, fewer = drawn[view]
            if n_lines > MAX_LINES:
                raise SelectionError(
                    f"too many lines for a browser in the {view} view",
                    where=f"record '{frame.id}'", got=f"{n_lines:,} ({product})",
                    expected=f"at most {MAX_LINES:,}", fix=f"choose {fewer}{rows}",
                )  # fmt: skip
    n_weights = sum(len(f.layers) * len(f.heads) * f.n_pairs for f in frames)
    if n_weights > MAX_WEIGHTS:
        raise SelectionError(
            "too many weights for one page", got=f"{n_weights:,}, in {len(frames)} records",
            expected=f"at most {MAX_WEIGHTS:,}", fix="choose fewer layers (--layers 0-3)",
        )  # fmt: skip
