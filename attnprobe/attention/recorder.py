"""`record`: attention out of a running model, exact, beside the model's own fast kernel."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from attnprobe.attention import generation
from attnprobe.attention.announcing import announced_passes
from attnprobe.attention.compat import observed
from attnprobe.attention.editing import edited_first
from attnprobe.attention.interception import intercepted
from attnprobe.attention.kinds import KEEPS, TakeRows
from attnprobe.attention.passes import Positions, Ranges
from attnprobe.attention.recording import Recording
from attnprobe.attention.survey import INTERFACE, Survey
from attnprobe.errors import SelectionError, nearest


@contextmanager
def record(
    model: torch.nn.Module,
    keep: Sequence[str] = ("full",),
    *,
    queries: Positions | None = None,
    spans: Ranges | None = None,
    layers: Sequence[int] | None = None,
    survey: Survey | None = None,
    take_rows: TakeRows | None = None,
) -> Iterator[Recording]:
    """Record the attention of the one forward pass, or the one `generate`, inside the block.

    The model computes with its own kernel; beside it, only what is asked for is computed from the
    same queries, keys and mask, and held against the model's own output (the certificate). Under
    `generate`, rows are put together to one square over prompt and generated tokens but the last,
    which is never read; with beam search, to those of the sequences that are returned.

    Args:
        model: A model of transformers whose attention goes through its attention interface.
        keep: Any of `full` (every row), `rows` (of `queries`), `steps` (the same rows summed over
            `spans`), `pooled` (mass on `spans` for every query, from one more kernel pass).
        queries: Per example, the positions of the queries to keep, counted without padding.
        spans: Per example, half-open key ranges, counted without padding. In an encoder–decoder
            model, queries and spans are of the decoder; encoder and cross attention come whole.
        layers: Only these; all if None.
        survey: `Survey(model)`, to save the walk over the modules where many passes of a model
            that stays as it is are recorded one after the other.
        take_rows: Called with (layer, first row, [head, row, key]) for block after block of the
            chosen rows, which are then not kept: for more than fits into memory. One example, one
            pass without a cache.

    Yields:
        The recording, complete and proven when the block ends.

    Raises:
        SelectionError: If `keep` names something else, or `queries` or `spans` are missing.
        ModelError: If the model cannot be recorded.
        CertificateError: If the capture is not what the model used.
    """
    _check_keep(keep, queries, spans)
    recording = Recording(model, survey or Survey(model), keep, queries, spans, layers)
    recording.take_rows = take_rows
    with ExitStack() as stack:
        stack.enter_context(announced_passes(model, recording))
        sequences = stack.enter_context(generation.watched(recording.survey.inner))
        stack.callback(recording.history.release)
        stack.enter_context(_shown(recording))
        yield recording
    recording.check_inside()
    recording.finish(sequences[-1] if sequences else None)


@contextmanager
def _shown(recording: Recording) -> Iterator[None]:
    if recording.survey.route == INTERFACE:
        with observed(recording.survey, recording):
            yield
        return
    with intercepted(recording), edited_first():
        yield


def _check_keep(keep: Sequence[str], queries: Positions | None, spans: Ranges | None) -> None:
    for what in keep:
        if what not in KEEPS:
            raise SelectionError(f"cannot keep '{what}'", fix=nearest(what, KEEPS))
    if not keep:
        raise SelectionError("nothing to keep", expected=f"any of {', '.join(KEEPS)}")
    if queries is None and set(keep) & {"rows", "steps"}:
        raise SelectionError("'rows' and 'steps' need the queries to keep", fix="pass queries=[…]")
    if spans is None and set(keep) & {"steps", "pooled"}:
        raise SelectionError("'steps' and 'pooled' need spans to sum over", fix="pass spans=[…]")
