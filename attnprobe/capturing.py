"""Encodings → captures: batches, one forward pass each, proven, into a sink."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32

from attnprobe.attention import Recording, record
from attnprobe.errors import EncodeError
from attnprobe.models import LoadedModel
from attnprobe.types import Capture, Encoding, Masses, Rows, Sink

KEEPS = ("rows", "steps", "pooled", "full")


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """What to capture, and in which batches."""

    keep: tuple[str, ...] = ("rows",)
    """`rows`: the steps' softmax rows. `steps`: the same, summed over key groups. `pooled`: mass
    on key groups for every query. `full`: every row."""
    layers: tuple[int, ...] | None = None
    """Layers to capture; all if None."""
    heads: tuple[int, ...] | None = None
    """Query heads to capture; all if None."""
    batch_size: int = 1
    """Most records in one forward pass."""


def capture(
    loaded: LoadedModel,
    encodings: Sequence[Encoding],
    settings: CaptureSettings,
    sink: Sink,
    on_done: Callable[[int], None] = lambda _: None,
) -> None:
    """Run the model over encodings and hand the captures to a sink, in the order given.

    Records of similar length share a batch; a batch of one runs unpadded, without a mask.

    Args:
        loaded: The model.
        encodings: With targets (teacher forcing).
        settings: What to keep.
        sink: Takes the captures, in order.
        on_done: Called with the number of records finished since the last call.

    Raises:
        CertificateError: If a capture is not what the model used.
        EncodeError: If an encoding has no target.
    """
    for encoding in encodings:
        if encoding.n_steps == 0:
            raise EncodeError(
                "teacher forcing needs a target", where=f"record '{encoding.record.id}'",
                fix="give the record a target",
            )  # fmt: skip
    waiting: dict[int, Capture] = {}
    following = 0
    for batch in batches([encoding.n_tokens for encoding in encodings], settings.batch_size):
        captures = capture_batch(loaded, [encodings[index] for index in batch], settings)
        waiting.update(zip(batch, captures, strict=True))
        while following in waiting:
            sink.append(waiting.pop(following))
            following += 1
        on_done(len(batch))


def batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Group records of similar length.

    Args:
        lengths: Tokens per record.
        batch_size: Most records in a batch.

    Yields:
        Indices into `lengths`; each once.
    """
    if batch_size == 1:
        yield from ([index] for index in range(len(lengths)))
        return
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


@torch.inference_mode()
def capture_batch(
    loaded: LoadedModel, encodings: Sequence[Encoding], settings: CaptureSettings
) -> list[Capture]:
    """Capture one batch in one forward pass.

    Args:
        loaded: The model.
        encodings: One or more; several are padded on the left.
        settings: What to keep.

    Returns:
        One capture per encoding.

    Raises:
        CertificateError: If the capture is not what the model used.
    """
    inputs = _inputs(loaded, encodings)
    queries = [
        range(encoding.n_tokens) if _every_query(settings) else encoding.step_queries
        for encoding in encodings
    ]
    with record(
        loaded.model,
        sorted({"full": "rows"}.get(keep, keep) for keep in set(settings.keep)),
        queries=queries,
        spans=[[(group.start, group.stop) for group in e.groups] for e in encodings],
        layers=settings.layers,
    ) as recording:
        logits = _step_logits(loaded, inputs, encodings)
    return [
        _one(recording, index, encoding, queries[index], logits[index], settings)
        for index, encoding in enumerate(encodings)
    ]


def _every_query(settings: CaptureSettings) -> bool:
    return bool({"full", "pooled"} & set(settings.keep))


def _inputs(loaded: LoadedModel, encodings: Sequence[Encoding]) -> dict[str, torch.Tensor]:
    """Pad on the left; a single record needs neither mask nor positions."""
    width = max(encoding.n_tokens for encoding in encodings)
    pad = loaded.tokenizer.pad_token_id or 0
    ids = np.full((len(encodings), width), pad, np.int64)
    mask = np.zeros_like(ids)
    for row, encoding in enumerate(encodings):
        ids[row, width - encoding.n_tokens :] = encoding.ids
        mask[row, width - encoding.n_tokens :] = 1
    tensors = {"input_ids": torch.from_numpy(ids)}
    if not mask.all():
        tensors["attention_mask"] = torch.from_numpy(mask)
        tensors["position_ids"] = torch.from_numpy((mask.cumsum(1) - 1).clip(0))
    return {name: tensor.to(loaded.device) for name, tensor in tensors.items()}


def _step_logits(
    loaded: LoadedModel, inputs: dict[str, torch.Tensor], encodings: Sequence[Encoding]
) -> list[torch.Tensor]:
    """Run the model; return each record's logits at its steps, [step, vocabulary], float32."""
    most = max(encoding.n_steps for encoding in encodings)
    width = inputs["input_ids"].shape[1]
    logits = loaded.model(**inputs, logits_to_keep=most + 1, use_cache=False).logits
    if logits.shape[1] == width:  # an architecture that ignores logits_to_keep
        logits = logits[:, -(most + 1) :]
    return [logits[row, -(e.n_steps + 1) : -1].float() for row, e in enumerate(encodings)]


def _one(
    recording: Recording,
    index: int,
    encoding: Encoding,
    queries: Sequence[int],
    logits: torch.Tensor,
    settings: CaptureSettings,
) -> Capture:
    """Cut one record out of a batch, without padding, and bring it to numpy."""
    layout = recording.layout
    if layout is None:
        raise EncodeError("the model ran without input ids", where=encoding.record.id)
    first = int(layout.first[index])
    tokens = slice(first, first + encoding.n_tokens)
    layers = sorted(recording.visible)
    heads = slice(None) if settings.heads is None else list(settings.heads)
    at = np.asarray(queries, np.int32)
    targets = torch.from_numpy(encoding.ids[encoding.n_prompt :].astype(np.int64))
    log_probs = logits.log_softmax(-1).gather(-1, targets.to(logits.device)[:, None])[:, 0]

    def stacked(tensors: dict[int, torch.Tensor], *cut: slice) -> Float32[np.ndarray, "..."]:
        """Stack layers of one kind of tensor, for this record and the chosen heads."""
        return np.stack([tensors[la][index][(heads, *cut)].cpu().numpy() for la in layers])

    chosen = slice(len(at))
    steps = [int(query) in set(encoding.step_queries) for query in at]
    groups = slice(len(encoding.groups))
    seen = _Seen(recording, layers, index, len(at), tokens)
    return Capture(
        encoding=encoding,
        visible=seen.per_group(encoding),
        visible_queries=at,
        log_probs=log_probs.cpu().numpy(),
        predicted=logits.argmax(-1).cpu().numpy().astype(np.int32),
        errors=np.asarray(
            [float(recording.certificate.errors[layer][index]) for layer in layers], np.float32
        ),
        rows=_ragged(
            stacked(recording.rows, chosen, tokens),
            seen,
            at,
            np.ones(len(at), bool) if "full" in settings.keep else np.asarray(steps),
        )
        if {"rows", "full"} & set(settings.keep)
        else None,
        step_mass=Masses(
            at[np.asarray(steps)],
            stacked(recording.steps, chosen, groups)[:, :, np.asarray(steps)],
        )
        if "steps" in settings.keep
        else None,
        pooled=Masses(
            np.arange(encoding.n_tokens, dtype=np.int32), stacked(recording.pooled, tokens, groups)
        )
        if "pooled" in settings.keep
        else None,
    )


class _Seen:
    """What the mask let one record see; layers that share a mask share the answer."""

    def __init__(
        self, recording: Recording, layers: Sequence[int], index: int, n_rows: int, tokens: slice
    ) -> None:
        self._known: dict[int, Bool[np.ndarray, "row key"]] = {}
        self._tensor_of = [recording.visible[layer] for layer in layers]
        for tensor in self._tensor_of:
            if id(tensor) not in self._known:
                self._known[id(tensor)] = tensor[index, :n_rows, tokens].cpu().numpy()

    def per_group(self, encoding: Encoding) -> Int32[np.ndarray, "layer query group"]:
        """Count the visible keys of each group."""
        starts = [group.start for group in encoding.groups]
        counts = {
            key: np.add.reduceat(seen.astype(np.int32), starts, axis=1)
            for key, seen in self._known.items()
        }
        return np.stack([counts[id(tensor)] for tensor in self._tensor_of]).astype(np.int32)

    def ranges(self) -> tuple[Int32[np.ndarray, " row"], Int32[np.ndarray, " row"]]:
        """Find the first key and the number of keys of each row, over all layers."""
        seen = np.logical_or.reduce(list(self._known.values()))
        start = seen.argmax(1)
        stop = seen.shape[1] - seen[:, ::-1].argmax(1)
        return start.astype(np.int32), (stop - start).astype(np.int32)


def _ragged(
    weights: Float32[np.ndarray, "layer head row key"],
    seen: _Seen,
    queries: Int32[np.ndarray, " row"],
    wanted: Bool[np.ndarray, " row"],
) -> Rows:
    """Leave out the keys that no layer sees, and write the rows one after another."""
    start, length = (values[wanted] for values in seen.ranges())
    keys = np.arange(weights.shape[-1])
    inside = (keys >= start[:, None]) & (keys < (start + length)[:, None])
    flat = weights[:, :, wanted].reshape(*weights.shape[:2], -1)[:, :, inside.ravel()]
    return Rows(queries=queries[wanted], start=start, length=length, weights=flat)
