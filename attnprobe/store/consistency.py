"""Checks that the light columns of a shard fit together, so that no index leads astray.

What holds of the records themselves is checked when a shard is opened, what holds along another
axis when a column of that axis is first read.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from attnprobe.errors import FormatError
from attnprobe.store.guard import Stored
from attnprobe.store.layout import NUMBERS, RAGGED, Column


@runtime_checkable
class Columns(Protocol):
    """What is checked: an open shard."""

    columns: Mapping[str, Column]
    """Datasets that must be there."""

    def column(self, name: str) -> np.ndarray:
        """Return a light column."""
        ...

    def stored(self, name: str) -> Stored:
        """Return how a dataset lies in the file."""
        ...

    def fault(self, what: str, got: object = None) -> FormatError:
        """Word a refusal."""
        ...


def check_consistency(shard: Columns) -> None:
    """Check every index column of a shard against what it points into.

    Raises:
        FormatError: Naming the first column that does not fit.
    """
    check_records(shard)
    for axis in {column.axis for column in shard.columns.values()}:
        check_axis(shard, axis)


def check_records(shard: Columns) -> None:
    """Check that the stretches of the records fill every axis and fit one another.

    Raises:
        FormatError: Naming the first column or axis that does not fit.
    """
    axes = {column.axis: column.name for column in shard.columns.values()}
    table = shard.column("/record/counts")
    if table.shape[1] < len(RAGGED):
        raise shard.fault("/record/counts lacks axes", table.shape[1])
    if shard.column("/record/numbers").shape[1] < len(NUMBERS):
        raise shard.fault("/record/numbers lacks columns")
    for axis, entries in zip(RAGGED, table.T, strict=False):
        # None holds attributions where no method was asked for.
        length = shard.stored(axes[axis]).shape[-1] if axis in axes else 0
        good = entries.min(initial=0) >= 0 and entries.max(initial=0) <= length
        if not good or entries.sum() != length:
            raise shard.fault(f"the records' stretches of `{axis}` do not fill it")
    counts: dict[str, np.ndarray] = dict(zip(RAGGED, table.T, strict=False))
    n_tokens, n_prompt = shard.column("/record/n_tokens"), shard.column("/record/n_prompt")
    _need(shard, (n_prompt >= 1) & (n_prompt <= n_tokens), "/record/n_prompt")
    least = (counts["generated_byte"] > 0).astype(np.uint8)
    written = shard.column("/record/is_generated")
    _need(shard, (written >= least) & (written <= 1), "/record/is_generated")
    expected = {"token": n_tokens, "step": n_tokens - n_prompt}
    for part in ("step_mass", "pooled", "visible"):
        expected[f"{part}_cell"] = counts[f"{part}_query"] * counts["group"]
    n_steps = expected["step"].astype(np.int64)
    cells = n_steps * n_prompt + n_steps * (n_steps - 1) // 2
    expected["attribution_cell"] = cells if "attribution_cell" in axes else np.zeros_like(cells)
    for axis, wanted in expected.items():
        _need(shard, counts[axis] == wanted, f"/record/counts, `{axis}`,")
    for axis in ("span", "group"):
        _need(shard, counts[axis] >= 1, f"/record/counts, `{axis}`,")


def check_axis(shard: Columns, axis: str) -> None:
    """Check the index columns along one axis.

    Raises:
        FormatError: Naming the first column that does not fit.
    """
    if axis in CHECKS:
        CHECKS[axis](shard)


def _count(shard: Columns, axis: str) -> np.ndarray:
    return shard.column("/record/counts")[:, RAGGED.index(axis)]


def _need(shard: Columns, good: np.ndarray, what: str) -> None:
    if not good.all():
        raise shard.fault(f"{what} does not fit the record")


def _check_tokens(shard: Columns) -> None:
    _check_end_to_end(shard, "/token/text_length", "token", "text_byte")


def _check_spans(shard: Columns) -> None:
    _check_partition(shard, "span")


def _check_groups(shard: Columns) -> None:
    _check_partition(shard, "group")
    _check_below(shard, "/group/span", "group", _count(shard, "span"))
    _need(shard, shard.column("/group/is_sink") <= 1, "/group/is_sink")


def _check_sinks(shard: Columns) -> None:
    _check_below(shard, "/sink/position", "sink", shard.column("/record/n_tokens"))


def _check_rows(shard: Columns) -> None:
    _check_queries(shard, "/row/query", "row")
    _check_end_to_end(shard, "/row/length", "row", "pair")
    key_start, length = shard.column("/row/key_start"), shard.column("/row/length")
    n_tokens = np.repeat(shard.column("/record/n_tokens"), _count(shard, "row"))
    good = (key_start >= 0) & (length >= 1) & (length <= n_tokens - key_start)
    _need(shard, good, "/row/length")


def _check_queries(shard: Columns, name: str, axis: str) -> None:
    """Queries are positions of the record, and ascend within it."""
    _check_below(shard, name, axis, shard.column("/record/n_tokens"))
    values, counts = shard.column(name), _count(shard, axis)
    rises = np.diff(values) > 0
    firsts = np.cumsum(counts)[:-1]
    rises[firsts[(firsts > 0) & (firsts < len(values))] - 1] = True
    if not rises.all():
        raise shard.fault(f"{name} does not ascend within the record")


def _check_end_to_end(shard: Columns, column: str, axis: str, into: str) -> None:
    """The lengths of each record's entries make up what it has of the axis they lie on."""
    lengths = shard.column(column).astype(np.int64)
    edges = np.concatenate([[0], np.cumsum(lengths)])
    ends = np.cumsum(_count(shard, axis))
    if (lengths < 0).any() or (edges[ends] != np.cumsum(_count(shard, into))).any():
        raise shard.fault(f"{column} does not fill the record's stretch of `{into}`")


def _check_below(shard: Columns, name: str, axis: str, limit: np.ndarray) -> None:
    values = shard.column(name)
    _need(shard, (values >= 0) & (values < np.repeat(limit, _count(shard, axis))), name)


def _check_partition(shard: Columns, axis: str) -> None:
    """Each record's spans, or groups, run from 0 to its last token without a gap."""
    starts, stops = shard.column(f"/{axis}/start"), shard.column(f"/{axis}/stop")
    counts = _count(shard, axis)
    ends = np.cumsum(counts)
    expected = np.concatenate([[0], stops[:-1]])
    expected[ends - counts] = 0
    _need(shard, (starts == expected) & (stops >= starts), f"/{axis}/start")
    _need(shard, stops[ends - 1] == shard.column("/record/n_tokens"), f"/{axis}/stop")


CHECKS: dict[str, Callable[[Columns], None]] = {
    "token": _check_tokens,
    "span": _check_spans,
    "group": _check_groups,
    "sink": _check_sinks,
    "row": _check_rows,
    "step_mass_query": lambda shard: _check_queries(shard, "/step_mass_query", "step_mass_query"),
    "pooled_query": lambda shard: _check_queries(shard, "/pooled_query", "pooled_query"),
    "visible_query": lambda shard: _check_queries(shard, "/visible_query", "visible_query"),
}
"""What is checked along each axis."""
