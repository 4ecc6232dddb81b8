"""Checks that the light columns of a shard fit together, so that no index leads astray."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import h5py
import numpy as np

from attnprobe.errors import FormatError
from attnprobe.store.layout import POINTS_INTO, RAGGED, Column


@runtime_checkable
class Columns(Protocol):
    """What is checked: an open shard."""

    columns: Mapping[str, Column]
    """Datasets that must be there."""

    def column(self, name: str) -> np.ndarray:
        """Return a light column."""
        ...

    def dataset(self, name: str) -> h5py.Dataset:
        """Return a dataset, unread."""
        ...

    def fault(self, what: str, got: object = None) -> FormatError:
        """Word a refusal."""
        ...


def check_consistency(shard: Columns) -> None:
    """Check every index column of a shard against what it points into.

    Raises:
        FormatError: Naming the first column that does not fit.
    """
    columns = shard.column("/record/counts").T
    counts = dict(zip(RAGGED, columns, strict=False))
    for axis in RAGGED:
        _check_stretches(shard, axis, counts[axis])
    n_tokens, n_prompt = shard.column("/record/n_tokens"), shard.column("/record/n_prompt")
    for column, axis in POINTS_INTO.items():
        _check_end_to_end(shard, column, axis)

    _need(shard, (n_prompt >= 1) & (n_prompt <= n_tokens), "/record/n_prompt")
    least = (counts["generated_byte"] > 0).astype(np.uint8)
    written = shard.column("/record/is_generated")
    _need(shard, (written >= least) & (written <= 1), "/record/is_generated")
    _need(shard, counts["token"] == n_tokens, "/record/counts, `token`,")
    _need(shard, counts["step"] == n_tokens - n_prompt, "/record/counts, `step`,")
    for part in ("step_mass", "pooled", "visible"):
        cells = counts[f"{part}_query"] * counts["group"]
        _need(shard, counts[f"{part}_cell"] == cells, f"/record/counts, `{part}_cell`,")
        _below(shard, f"/{part}_query", counts[f"{part}_query"], n_tokens)
    attributed = any(column.axis == "attribution_cell" for column in shard.columns.values())
    n_steps = n_tokens.astype(np.int64) - n_prompt
    cells = n_steps * n_prompt + n_steps * (n_steps - 1) // 2 if attributed else 0
    _need(shard, counts["attribution_cell"] == cells, "/record/counts, `attribution_cell`,")
    _below(shard, "/row/query", counts["row"], n_tokens)
    _below(shard, "/sink/position", counts["sink"], n_tokens)
    _below(shard, "/group/span", counts["group"], counts["span"])
    key_start, length = shard.column("/row/key_start"), shard.column("/row/length")
    row_tokens = np.repeat(n_tokens, counts["row"])
    _need(
        shard, (key_start >= 0) & (length >= 1) & (length <= row_tokens - key_start), "/row/length"
    )
    for axis in ("span", "group"):
        _check_partition(shard, axis, counts[axis], n_tokens)


def _need(shard: Columns, good: np.ndarray, what: str) -> None:
    if not good.all():
        raise shard.fault(f"{what} does not fit the record")


def _check_stretches(shard: Columns, axis: str, counts: np.ndarray) -> None:
    """The records fill the axis."""
    names = (column.name for column in shard.columns.values() if column.axis == axis)
    name = next(names, None)  # none holds attributions where no method was asked for
    length = 0 if name is None else shard.dataset(name).shape[-1]
    good = ((counts >= 0) & (counts <= length)).all()
    if not good or counts.sum() != length:
        raise shard.fault(f"the records' stretches of `{axis}` do not fill it")


def _check_end_to_end(shard: Columns, column: str, axis: str) -> None:
    lengths = shard.column(column.replace("start", "length")).astype(np.int64)
    edges = np.concatenate([[0], np.cumsum(lengths)])
    total = int(shard.column("/record/counts")[:, RAGGED.index(axis)].sum())
    if (
        (lengths < 0).any()
        or (shard.column(column) != edges[:-1]).any()
        or (edges[-1] != total and len(lengths))
    ):
        raise shard.fault(f"{column} does not run on from entry to entry")


def _below(shard: Columns, column: str, counts: np.ndarray, limit: np.ndarray) -> None:
    values = shard.column(column)
    _need(shard, (values >= 0) & (values < np.repeat(limit, counts)), column)


def _check_partition(shard: Columns, axis: str, counts: np.ndarray, n_tokens: np.ndarray) -> None:
    """Each record's spans, or groups, run from 0 to its last token without a gap."""
    starts, stops = shard.column(f"/{axis}/start"), shard.column(f"/{axis}/stop")
    ends = np.cumsum(counts)
    _need(shard, (counts >= 1) & (n_tokens >= 1), f"/record/counts, `{axis}`,")
    expected = np.concatenate([[0], stops[:-1]])
    expected[ends - counts] = 0
    _need(shard, (starts == expected) & (stops >= starts), f"/{axis}/start")
    _need(shard, stops[ends - 1] == n_tokens, f"/{axis}/stop")
