"""Encodings → captures: one forward pass for each batch, proven, into a sink."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, Int32

from attnprobe.attention import Recording, Survey, ValueNorms, measured_values, record
from attnprobe.capturing.crediting import Crediting, credited
from attnprobe.capturing.decoding import Decoding, generate
from attnprobe.capturing.padding import batches, padded
from attnprobe.capturing.spool import Spool, n_pairs
from attnprobe.capturing.virtual import check_virtual, refuse_attribution
from attnprobe.errors import EncodeError, ModelError
from attnprobe.models import LoadedModel, free_cached_memory, is_out_of_memory
from attnprobe.types import Capture, Encoding, Masses, Rows, Sink

FULL_IN_MEMORY = 2**28
"""Bytes of a record's full attention beyond which it goes through a file."""

KEEPS = ("rows", "steps", "pooled", "full", "value_norms")


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """What to capture, and in which batches."""

    keep: tuple[str, ...] = ("rows",)
    """`rows`: the steps' softmax rows. `steps`: the same, summed over key groups. `pooled`: mass
    on key groups for every query. `full`: every row. `value_norms`: beside one of the others, how
    long the vector is that each head fetches from each key."""
    layers: tuple[int, ...] | None = None
    """Layers to capture; all if None."""
    heads: tuple[int, ...] | None = None
    """Query heads to capture; all if None."""
    batch_size: int = 1
    """Most records in one forward pass."""
    decoding: Decoding | None = None
    """How the model writes what is captured; None for the records' own targets."""
    crediting: Crediting = field(default_factory=Crediting)
    """Attributions of each record besides."""
    attention_module: str | None = None
    """Path of the modules that attend, `{}` for the layer's number; None to find them."""
    uncertified: bool = False
    """Whether attention may be captured that nothing proves."""

    def survey(self, model: torch.nn.Module) -> Survey:
        """Find out where a model attends, and how to reach that.

        Raises:
            ModelError: If its attention cannot be reached.
        """
        return Survey(model, attention_module=self.attention_module, uncertified=self.uncertified)


def capture(
    loaded: LoadedModel,
    encodings: Sequence[Encoding],
    settings: CaptureSettings,
    sink: Sink,
    on_done: Callable[[int], None] = lambda _: None,
) -> None:
    """Run the model over encodings and hand the captures to a sink, in the order given.

    Records of similar length share a batch; a batch of one runs unpadded, without a mask. Where
    the model writes, it does so as it always does, with its own attention and a cache; capturing
    what came out is one forward pass more.

    Args:
        loaded: The model.
        encodings: With targets; prompts alone if `settings.decoding` lets the model write.
        settings: What to keep.
        sink: Takes the captures, in order.
        on_done: Called with the number of records finished since the last call.

    Raises:
        CertificateError: If a capture is not what the model used.
        EncodeError: If an encoding has no target, or should have none.
        ModelError: If memory does not suffice, or the model cannot be attributed.
    """
    _check_targets(encodings, settings)
    if settings.crediting.methods:
        refuse_attribution(max((encoding.n_virtual for encoding in encodings), default=0))
    survey = settings.survey(loaded.model)
    waiting: dict[int, Capture] = {}
    following = 0
    for indices, written in _written(loaded, encodings, settings):
        for batch in batches([encoding.n_tokens for encoding in written], settings.batch_size):
            captures = _halving(loaded, [written[place] for place in batch], settings, survey)
            if settings.crediting.methods:
                captures = [credited(loaded, found, settings.crediting) for found in captures]
            waiting.update(zip([indices[place] for place in batch], captures, strict=True))
            while following in waiting:
                sink.append(waiting.pop(following))
                following += 1
            on_done(len(batch))


def _halving(
    loaded: LoadedModel,
    encodings: Sequence[Encoding],
    settings: CaptureSettings,
    survey: Survey,
) -> list[Capture]:
    """Capture a batch; where memory runs out, in two halves, and so on.

    Raises:
        ModelError: If memory does not suffice for a single record.
    """
    try:
        return capture_batch(loaded, encodings, settings, survey)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(encodings) == 1:
            raise ModelError(
                "memory does not suffice for this record",
                where=f"record '{encodings[0].record.id}'", got=f"{encodings[0].n_tokens} tokens",
                fix="keep less (--keep steps, --layers, --heads), or use --dtype bfloat16",
            ) from error  # fmt: skip
    free_cached_memory()
    half = len(encodings) // 2
    return _halving(loaded, encodings[:half], settings, survey) + _halving(
        loaded, encodings[half:], settings, survey
    )


def _check_targets(encodings: Sequence[Encoding], settings: CaptureSettings) -> None:
    for encoding in encodings:
        where = f"record '{encoding.record.id}'"
        if settings.decoding is None and encoding.n_steps == 0:
            raise EncodeError(
                "teacher forcing needs a target", where=where, fix="give the record a target"
            )
        if settings.decoding is not None and encoding.n_steps:
            raise EncodeError(
                "decoding needs a prompt alone", where=where, got=f"{encoding.n_steps} tokens more",
                fix="encode the record by encode_prompt",
            )  # fmt: skip


def _written(
    loaded: LoadedModel, encodings: Sequence[Encoding], settings: CaptureSettings
) -> Iterable[tuple[Sequence[int], Sequence[Encoding]]]:
    """Give the encodings with their targets, whole or as the model writes them."""
    if settings.decoding is None:
        return [(range(len(encodings)), encodings)]
    return generate(loaded, encodings, settings.decoding)


@torch.inference_mode()
def capture_batch(
    loaded: LoadedModel,
    encodings: Sequence[Encoding],
    settings: CaptureSettings,
    survey: Survey | None = None,
) -> list[Capture]:
    """Capture one batch in one forward pass.

    Args:
        loaded: The model.
        encodings: One or more; several are padded on the left.
        settings: What to keep.
        survey: Of the model, if it was made already.

    Returns:
        One capture per encoding.

    Raises:
        CertificateError: If the capture is not what the model used.
    """
    inputs = padded(loaded, encodings)
    queries = [
        encoding.queries if "full" in settings.keep else encoding.step_queries
        for encoding in encodings
    ]
    before = [encoding.n_virtual for encoding in encodings]  # the recording counts from the text
    survey = survey or settings.survey(loaded.model)
    spool = _spool(loaded, encodings, settings, survey.layers)
    with (
        ExitStack() as stack,
        record(
            loaded.model,
            as_recorded(settings.keep),
            queries=[[q - n for q in row] for row, n in zip(queries, before, strict=True)],
            spans=[
                [(group.start - n, group.stop - n) for group in encoding.groups]
                for encoding, n in zip(encodings, before, strict=True)
            ],
            layers=settings.layers,
            survey=survey,
            take_rows=None if spool is None else spool.take,
        ) as recording,
    ):
        norms = None
        if "value_norms" in settings.keep:
            norms = stack.enter_context(measured_values(loaded.model, survey.name))
            recording.take_call = norms.take
        logits = _step_logits(loaded, inputs, encodings)
        check_virtual(recording.n_virtual, encodings)
    if norms is not None:
        norms.check(sorted(recording.visible))
    return [
        _one(recording, index, encoding, queries[index], logits[index], settings, spool, norms)
        for index, encoding in enumerate(encodings)
    ]


def as_recorded(keep: Sequence[str]) -> list[str]:
    """Return what the recorder keeps for what a run keeps."""
    return sorted({{"full": "rows"}.get(name, name) for name in keep} - {"value_norms"})


def _spool(
    loaded: LoadedModel,
    encodings: Sequence[Encoding],
    settings: CaptureSettings,
    every_layer: Sequence[int],
) -> Spool | None:
    """Make room on disk for the rows of a record whose full attention is too much for memory."""
    if len(encodings) > 1 or "full" not in settings.keep:
        return None
    n_heads = loaded.n_heads if settings.heads is None else len(settings.heads)
    layers = settings.layers or every_layer
    queries = encodings[0].queries
    if len(layers) * n_heads * n_pairs(queries) * 4 <= FULL_IN_MEMORY:
        return None
    return Spool(layers, settings.heads, n_heads, queries)


def _step_logits(
    loaded: LoadedModel, inputs: dict[str, torch.Tensor], encodings: Sequence[Encoding]
) -> list[torch.Tensor]:
    """Run the model; return each record's logits at its steps, [step, vocabulary], float32."""
    most = max(encoding.n_steps for encoding in encodings)
    options = {"logits_to_keep": most + 1, "use_cache": False}
    options = {name: value for name, value in options.items() if loaded.accepts(name)}
    logits = loaded.model(**inputs, **options).logits[:, -(most + 1) :]
    return [logits[row, -(e.n_steps + 1) : -1].float() for row, e in enumerate(encodings)]


def _one(
    recording: Recording,
    index: int,
    encoding: Encoding,
    queries: Sequence[int],
    logits: torch.Tensor,
    settings: CaptureSettings,
    spool: Spool | None,
    norms: ValueNorms | None = None,
) -> Capture:
    """Cut one record out of a batch, without padding, and bring it to numpy."""
    cut = _Cut(recording, index, encoding, settings.heads)
    at = np.asarray(queries, np.int32)
    is_step = at >= encoding.step_queries.start
    is_step &= at < encoding.step_queries.stop
    seen = cut.visible(len(at))
    rows = step_mass = pooled = None
    visible, visible_queries = _count_groups(seen, encoding), at
    if {"rows", "full"} & set(settings.keep):
        wanted = np.ones_like(is_step) if "full" in settings.keep else is_step
        rows = spool.rows() if spool is not None else _ragged(cut, seen, at, wanted)
    if "steps" in settings.keep:
        masses = cut.stack(recording.steps, slice(len(at)), cut.groups)
        step_mass = Masses(at[is_step], masses[:, :, is_step])
    if "pooled" in settings.keep:
        visible_queries = np.asarray(encoding.queries, np.int32)
        visible = cut.visible_counts()
        pooled = Masses(visible_queries, cut.stack(recording.pooled, cut.tokens, cut.groups))
    targets = torch.from_numpy(encoding.ids[encoding.n_prompt :].astype(np.int64))
    log_probs = logits.log_softmax(-1).gather(-1, targets.to(logits.device)[:, None])[:, 0]
    return Capture(
        encoding=encoding,
        visible=visible,
        visible_queries=visible_queries,
        log_probs=log_probs.cpu().numpy(),
        predicted=logits.argmax(-1).cpu().numpy().astype(np.int32),
        errors=cut.errors(),
        batch_size=len(recording.batch_layout.first),
        rows=rows,
        step_mass=step_mass,
        pooled=pooled,
        value_norms=None if norms is None else cut.value_norms(norms),
    )


class _Cut:
    """One record's part of a recording of a batch."""

    def __init__(
        self,
        recording: Recording,
        index: int,
        encoding: Encoding,
        heads: Sequence[int] | None,
    ) -> None:
        self.recording, self.index = recording, index
        self.layers = sorted(recording.visible)
        self.heads = slice(None) if heads is None else list(heads)
        width = recording.batch_layout.width
        first, n_virtual = int(recording.batch_layout.first[index]), recording.n_virtual
        self.tokens = slice(first, min(width, first + len(encoding.given)))
        self.columns = np.arange(encoding.n_tokens) + first
        self.columns[:n_virtual] -= first
        self.keys = self.tokens if not n_virtual else torch.from_numpy(self.columns)
        self.groups = slice(len(encoding.groups))

    def stack(
        self, tensors: dict[int, torch.Tensor], queries: slice, last: slice
    ) -> Float32[np.ndarray, "layer head query last"]:
        """Stack the layers of one kind of tensor, for the chosen heads."""
        cut = (self.index, slice(None), queries, last)
        return np.stack([tensors[la][cut][self.heads].cpu().numpy() for la in self.layers])

    def value_norms(self, norms: ValueNorms) -> Float32[np.ndarray, "layer head key"]:
        """Return the lengths of moved values, for the chosen heads."""
        columns = torch.from_numpy(self.columns)
        return np.stack([
            norms.found[la][self.index][self.heads][:, columns].cpu().numpy() for la in self.layers
        ]).astype(np.float32)  # fmt: skip

    def pick_rows(
        self, rows: Int[np.ndarray, " pair"], keys: Int[np.ndarray, " pair"]
    ) -> Float32[np.ndarray, "layer head pair"]:
        """Pick (row, key) pairs out of the recorded rows, in one copy."""
        first = self.recording.rows[self.layers[0]][self.index][self.heads]
        picked = np.empty((len(self.layers), len(first), len(rows)), np.float32)
        flat = torch.from_numpy(rows * first.shape[2] + self.columns[keys])
        for place, layer in enumerate(self.layers):
            weights = self.recording.rows[layer][self.index][self.heads].flatten(1)
            if weights.device.type == "cpu":  # straight into its place
                torch.index_select(weights, 1, flat, out=torch.from_numpy(picked[place]))
            else:
                picked[place] = weights.index_select(1, flat.to(weights.device)).cpu().numpy()
        return picked

    def visible(self, n_rows: int) -> Bool[np.ndarray, "layer row key"]:
        """Return which keys each row sees; layers that share a mask share the memory."""
        return self._shared(self.recording.visible, slice(n_rows), self.keys)

    def visible_counts(self) -> Int32[np.ndarray, "layer query group"]:
        """Return how many keys of each group every query sees."""
        counts = self.recording.visible_counts
        return self._shared(counts, self.tokens, self.groups).astype(np.int32)

    def errors(self) -> Float32[np.ndarray, " layer"]:
        """Return the worst relative error of each layer for this record."""
        errors = self.recording.certificate.errors
        return np.asarray([float(errors[layer][self.index]) for layer in self.layers], np.float32)

    def _shared(
        self, tensors: dict[int, torch.Tensor], queries: slice, last: slice | torch.Tensor
    ) -> np.ndarray:
        """Fetch each distinct tensor once."""
        fetched: dict[int, np.ndarray] = {}
        for layer in self.layers:
            tensor = tensors[layer]
            if id(tensor) not in fetched:
                fetched[id(tensor)] = tensor[self.index, queries][:, last].cpu().numpy()
        if len(fetched) == 1:
            (only,) = fetched.values()
            return np.broadcast_to(only, (len(self.layers), *only.shape))
        return np.stack([fetched[id(tensors[layer])] for layer in self.layers])


def _count_groups(
    seen: Bool[np.ndarray, "layer row key"], encoding: Encoding
) -> Int32[np.ndarray, "layer row group"]:
    """Count the visible keys of each group, once where all layers see the same."""
    starts = [group.start for group in encoding.groups]
    distinct = seen[:1] if seen.strides[0] == 0 else seen
    counts = np.add.reduceat(distinct, starts, axis=2, dtype=np.int32)
    return np.ascontiguousarray(np.broadcast_to(counts, (*seen.shape[:2], len(starts))))


def _ragged(
    cut: _Cut,
    seen: Bool[np.ndarray, "layer row key"],
    queries: Int32[np.ndarray, " row"],
    wanted: Bool[np.ndarray, " row"],
) -> Rows:
    """Leave out the keys that no layer sees, and write the rows one after another."""
    any_layer: np.ndarray = (seen[0] if seen.strides[0] == 0 else np.any(seen, axis=0))[wanted]
    start = any_layer.argmax(1).astype(np.int32)
    length = (any_layer.shape[1] - any_layer[:, ::-1].argmax(1) - start).astype(np.int32)
    keys = np.arange(any_layer.shape[1])
    rows, columns = np.nonzero((keys >= start[:, None]) & (keys < (start + length)[:, None]))
    weights = cut.pick_rows(np.flatnonzero(wanted)[rows], columns)
    return Rows(queries[wanted], start, length, weights)
