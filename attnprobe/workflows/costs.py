"""What an extraction costs: disk by the sizes of what is kept, time by a sample that is run."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from attnprobe.models import LoadedModel
from attnprobe.types import Record
from attnprobe.workflows.extract import ExtractSettings, extract

SAMPLE_SECONDS = 30.0
"""No further length is timed once the sample has taken this long."""
SAMPLE_BYTES = 2**29
"""Records that would store more than this in the sample are not timed, if there are others."""

_QUANTILES = (0.5, 1.0, 0.0)
"""Lengths that are timed, the most telling first."""

_WEIGHT_BYTES = {"u16": 1.6, "u8": 0.6, "f32": 3.4}
_STEP_BYTES = {"u16": 1.7, "u8": 1.7, "f32": 3.1}
_POOLED_BYTES = {"u16": 1.3, "u8": 1.3, "f32": 2.4}
_VISIBLE_BYTES = 0.3
_SCORE_BYTES = _NORM_BYTES = 3.5
_TOKEN_BYTES, _RECORD_BYTES, _SHARD_BYTES, _CHUNK_BYTES = 8, 1_000, 12_000, 60
"""Stored bytes, after compression, measured with SmolLM2-135M over number sequences: per weight or
mass, per visible count, per attribution score and value norm, per token and record, and per shard,
where every layer and head begins a chunk of its own."""

RecordLengths = Int64[np.ndarray, " record"]


@dataclass(frozen=True, slots=True)
class Lengths:
    """What decides how much a dataset costs, record by record."""

    n_tokens: RecordLengths
    """Prompt + target."""
    n_prompt: RecordLengths
    """Prompt alone."""
    n_groups: RecordLengths
    """Spans, cut at their sinks."""
    n_virtual: int = 0
    """Virtual tokens among those of each prompt, which have no rows of their own."""

    @property
    def n_steps(self) -> RecordLengths:
        """Target tokens."""
        return self.n_tokens - self.n_prompt

    @property
    def n_step_keys(self) -> RecordLengths:
        """Keys over all rows of the steps: the row of step i sees `n_prompt + i` keys."""
        return self.n_steps * (self.n_prompt + self.n_tokens - 1) // 2

    @property
    def n_all_keys(self) -> RecordLengths:
        """Keys over all rows."""
        return (self.n_tokens * (self.n_tokens + 1) - self.n_virtual * (self.n_virtual + 1)) // 2

    @property
    def n_queries(self) -> RecordLengths:
        """Rows, if all are kept."""
        return self.n_tokens - self.n_virtual


@dataclass(frozen=True, slots=True)
class Timing:
    """How long records of one length took, stored and proven as in an extraction."""

    n_tokens: int
    """Tokens of the record."""
    seconds: float
    """Per record, in a full batch."""


def stored_bytes(
    lengths: Lengths, settings: ExtractSettings, n_layers: int, n_heads: int
) -> Float64[np.ndarray, " record"]:
    """Estimate what each record will take on disk.

    Rows are counted as if every key before a query were visible; a model with sliding windows
    takes less.

    Args:
        lengths: Of the records.
        settings: What is captured, and how it is stored.
        n_layers: Layers that are captured.
        n_heads: Heads that are captured.

    Returns:
        Bytes of each record, without what a shard takes by itself.
    """
    keep, code = settings.keep, settings.encoding
    per_head = np.zeros(len(lengths.n_tokens))
    if "full" in keep:
        per_head += lengths.n_all_keys * _WEIGHT_BYTES[code]
    elif "rows" in keep:
        per_head += lengths.n_step_keys * _WEIGHT_BYTES[code]
    if "steps" in keep:
        per_head += lengths.n_steps * lengths.n_groups * _STEP_BYTES[code]
    if "pooled" in keep:
        per_head += lengths.n_queries * lengths.n_groups * _POOLED_BYTES[code]
    if "value_norms" in keep:
        per_head += lengths.n_tokens * _NORM_BYTES
    attributed = lengths.n_step_keys * _SCORE_BYTES * len(set(settings.attribute))
    every_query = "full" in keep or "pooled" in keep
    n_queries = lengths.n_queries if every_query else lengths.n_steps
    visible = n_queries * lengths.n_groups * _VISIBLE_BYTES
    return (
        n_layers * (n_heads * per_head + visible)
        + attributed
        + (lengths.n_tokens * _TOKEN_BYTES + _RECORD_BYTES)
    )


def shard_bytes(settings: ExtractSettings, n_layers: int, n_heads: int) -> int:
    """Estimate what a shard takes by itself, whatever is in it."""
    n_kinds = len({"rows" if keep == "full" else keep for keep in settings.keep})
    return _SHARD_BYTES + n_kinds * n_layers * n_heads * _CHUNK_BYTES


def total_seconds(n_tokens: RecordLengths, timings: Sequence[Timing]) -> float:
    """Extrapolate measured times to all records.

    Between two measured lengths the time is interpolated, beyond them it is taken to grow with the
    tokens.

    Args:
        n_tokens: Length of each record.
        timings: What was measured, one or more lengths.

    Returns:
        Seconds for all records together.
    """
    known = sorted(timings, key=lambda timing: timing.n_tokens)
    at = np.array([timing.n_tokens for timing in known], np.float64)
    seconds = np.array([timing.seconds for timing in known], np.float64)
    nearest = np.clip(n_tokens, at[0], at[-1])
    return float((np.interp(nearest, at, seconds) * n_tokens / nearest).sum())


def choose_sample(n_tokens: RecordLengths, n_bytes: Float64[np.ndarray, " record"]) -> list[int]:
    """Choose records of different lengths to time.

    Args:
        n_tokens: Length of each record.
        n_bytes: What each will take on disk.

    Returns:
        Indices of a few records, the most telling first.
    """
    order = np.argsort(n_tokens, kind="stable")
    small = [int(i) for i in order if n_bytes[i] <= SAMPLE_BYTES] or [int(order[0])]
    chosen: dict[int, int] = {}
    for quantile in _QUANTILES:
        index = small[round(quantile * (len(small) - 1))]
        chosen.setdefault(int(n_tokens[index]), index)
    return list(chosen.values())


class _EnoughError(Exception):
    """Ends the sample."""


def time_sample(
    records: Sequence[Record],
    n_tokens: Sequence[int],
    loaded: LoadedModel,
    settings: ExtractSettings,
) -> tuple[Timing, ...]:
    """Extract each record twice over; from one time to the next is what one extraction takes.

    What is timed runs from the end of one capture to the end of the next one, so it holds the
    sealing of a shard, as large as its own.

    Args:
        records: One for each length.
        n_tokens: Their lengths.
        loaded: The model.
        settings: What is captured.

    Returns:
        The timings by length; not of all, if that would take longer than `SAMPLE_SECONDS`.
    """
    on_its_own = loaded.device.type == "cpu" and settings.decode == "gold"
    batch_size = settings.batch_size or (1 if on_its_own else 8)
    copies = [
        replace(record, id=f"{record.id}#{number}")
        for record in records
        for number in range(2 * batch_size)
    ]
    settings = replace(settings, batch_size=batch_size, records_per_chunk=batch_size)
    clock = _Clock(2 * batch_size)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_EnoughError):
        extract(copies, loaded, Path(folder) / "run", settings, on_progress=clock.tick).close()
    timings: list[Timing] = []
    for number, length in enumerate(n_tokens):
        first = (2 * number + 1) * batch_size
        if clock.reached(first + batch_size):
            seconds = clock.at(first + batch_size) - clock.at(first)
            timings.append(Timing(length, max(seconds, 1e-6) / batch_size))
    return tuple(sorted(timings, key=lambda timing: timing.n_tokens))


class _Clock:
    """Notes when how many records were done, and calls a halt after a level that came late."""

    def __init__(self, level_size: int, now: Callable[[], float] = time.perf_counter) -> None:
        self._level_size, self._now = level_size, now
        self._done: list[int] = []
        self._times: list[float] = []

    def tick(self, done: int, total: int) -> None:
        self._done.append(done)
        self._times.append(self._now())
        late = self._times[-1] - self._times[0] > SAMPLE_SECONDS
        if late and self._level_size <= done < total:
            raise _EnoughError

    def reached(self, done: int) -> bool:
        return self._done[-1] >= done

    def at(self, done: int) -> float:
        return float(np.interp(done, self._done, self._times))
