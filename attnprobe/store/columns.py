"""A capture as the columns of a shard, and back."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from attnprobe.errors import StoreError
from attnprobe.store.layout import KEEPS, MAX_NAME_BYTES
from attnprobe.store.plan import REPEATED
from attnprobe.types import (
    Capture,
    Encoding,
    Masses,
    Record,
    Rows,
    Segment,
    Span,
    is_source,
)

Values = dict[str, np.ndarray]


def record_json(record: Record) -> bytes:
    """Write a record as JSON that gives back every field."""
    value = {
        "id": record.id, "item": record.item, "style": record.style,
        "task": record.task, "split": record.split, "joiner": record.joiner,
        "prompt": [{"role": s.role, "text": s.text} for s in record.prompt],
        "target": [{"role": s.role, "text": s.text} for s in record.target],
        "meta": dict(record.meta), "where": record.where,
    }  # fmt: skip
    try:
        return json.dumps(value, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise StoreError(
            "a record's meta cannot be written as JSON", where=f"record '{record.id}'", got=error
        ) from error


def record_from_json(text: bytes) -> Record:
    """Rebuild a record from `record_json`."""
    value = json.loads(text)
    prompt, target = (
        tuple(Segment(s["role"], s["text"]) for s in value[name]) for name in ("prompt", "target")
    )
    fields = ("id", "item", "style", "task", "split", "joiner", "meta", "where")
    return Record(**{name: value[name] for name in fields}, prompt=prompt, target=target)


def names(capture: Capture) -> dict[str, list[bytes]]:
    """Return the fixed-length text columns of one capture."""
    record, spans = capture.encoding.record, capture.encoding.spans
    texts = {
        "/record/id": [record.id],
        "/span/role": [span.role for span in spans],
    }  # fmt: skip
    for name in REPEATED:  # the plan has them
        _name_bytes(getattr(record, name), name, record.id)
    return {
        column: [_name_bytes(text, column, record.id) for text in entries]
        for column, entries in texts.items()
    }


def _name_bytes(text: str, column: str, record_id: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = b"\0"
    if b"\0" in data or len(data) > MAX_NAME_BYTES:
        raise StoreError(
            f"{column} cannot be stored", where=f"record {record_id!r}", got=repr(text[:80]),
            expected=f"valid text of at most {MAX_NAME_BYTES} bytes without NUL",
        )  # fmt: skip
    return data


def values(capture: Capture, keep: tuple[str, ...], methods: tuple[str, ...] = ()) -> Values:
    """Return every other column of one capture that a run with this `keep` and `methods` stores.

    Probabilities come as float32; the caller encodes them.
    """
    encoding, where = capture.encoding, f"record '{capture.encoding.record.id}'"
    texts = [_blob(text) for text in encoding.texts]
    lengths = np.array([len(text) for text in texts], np.int32)
    groups = encoding.groups
    columns = {
        "/record/json": np.frombuffer(record_json(encoding.record), np.uint8),
        "/record/generated": np.frombuffer(_blob(encoding.generated or ""), np.uint8),
        "/token/id": encoding.ids,
        "/token/text": np.frombuffer(b"".join(texts), np.uint8),
        "/token/text_length": lengths,
        "/span/start": _whole([span.start for span in encoding.spans]),
        "/span/stop": _whole([span.stop for span in encoding.spans]),
        "/group/start": _whole([group.start for group in groups]),
        "/group/stop": _whole([group.stop for group in groups]),
        "/group/span": _whole([group.span for group in groups]),
        "/group/is_sink": np.array([group.is_sink for group in groups], np.uint8),
        "/sink/position": _whole(list(encoding.sinks)),
        "/step/log_prob": capture.log_probs,
        "/step/predicted": capture.predicted,
        "/visible_query": capture.visible_queries,
        "/visible": capture.visible.reshape(len(capture.visible), -1),
    }
    kept = {KEEPS[name] for name in keep}
    if "/weights" in kept:
        columns |= _row_values(_present(capture.rows, "rows", where))
    if "/step_mass" in kept:
        columns |= _mass_values("/step_mass", _present(capture.step_mass, "step_mass", where))
    if "/pooled" in kept:
        columns |= _mass_values("/pooled", _present(capture.pooled, "pooled", where))
    if "/value_norm" in kept:
        columns["/value_norm"] = _present(capture.value_norms, "value_norms", where)
    before = is_source(encoding.n_prompt, encoding.n_steps)
    for method in methods:
        attribution = capture.attributions[method]
        columns[f"/attribution/{method}"] = attribution.scores[before]
        columns[f"/attribution_delta/{method}"] = attribution.delta
    return columns


def _blob(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _present(part: Any, name: str, where: str) -> Any:
    if part is None:
        raise StoreError(f"the capture lacks `{name}`, which the run keeps", where=where)
    return part


def _whole(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, np.int32)


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """Return where entries begin that stand end to end."""
    return np.cumsum(lengths, dtype=np.int64) - lengths


def _row_values(rows: Rows) -> Values:
    return {
        "/row/query": rows.queries, "/row/key_start": rows.start, "/row/length": rows.length,
        "/weights": rows.weights,
    }  # fmt: skip


def _mass_values(name: str, masses: Masses) -> Values:
    return {
        f"{name}_query": masses.queries,
        name: masses.mass.reshape(*masses.mass.shape[:2], -1),
    }


def encoding_from(
    columns: Mapping[str, np.ndarray], n_prompt: int, *, is_generated: bool
) -> Encoding:
    """Rebuild an encoding from one record's part of the columns."""
    generated = columns["/record/generated"].tobytes().decode("utf-8", "surrogatepass")
    spans = zip(
        columns["/span/start"].tolist(), columns["/span/stop"].tolist(),
        columns["/span/role"].tolist(), strict=True,
    )  # fmt: skip
    return Encoding(
        record=record_from_json(columns["/record/json"].tobytes()),
        ids=columns["/token/id"].astype(np.int32),
        texts=texts_from(columns),
        spans=tuple(Span(start, stop, role.decode()) for start, stop, role in spans),
        n_prompt=n_prompt,
        sinks=tuple(columns["/sink/position"].tolist()),
        generated=generated if is_generated else None,
    )


def texts_from(columns: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Rebuild the token texts of one record."""
    blob, lengths = columns["/token/text"].tobytes(), columns["/token/text_length"]
    return tuple(
        blob[start : start + length].decode("utf-8", "surrogatepass")
        for start, length in zip(starts_of(lengths).tolist(), lengths.tolist(), strict=True)
    )
