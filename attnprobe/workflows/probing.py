"""A text and a model → an in-memory run, for notebooks."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from attnprobe.attention import Survey
from attnprobe.capturing import CaptureSettings, as_recorded, capture, count_virtual
from attnprobe.encode import encode, with_prefix
from attnprobe.errors import EncodeError, ModelError, RecordError, StoreError
from attnprobe.models import LoadedModel, load_model
from attnprobe.store import PlannedRecord, Run
from attnprobe.types import Encoding, Record, Segment
from attnprobe.workflows.extract import (
    ExtractSettings,
    check_canary_once,
    chosen_numbers,
    described_settings,
)

Text = str | Sequence[tuple[str, str]] | Sequence[Segment]
"""Plain text, or pieces of it with their roles."""
Numbers = int | Sequence[int] | None

MOST_BYTES = 4 * 2**30
"""Bytes of weights that a run in memory may hold."""


def probe(
    model: Any,
    tokenizer: Any,
    text: Text | Record | Sequence[Record],
    *,
    target: Text | None = None,
    keep: str | Sequence[str] = "full",
    layers: Numbers = None,
    heads: Numbers = None,
) -> Run:
    """Capture a model's attention on a text and return it as a run in memory.

    The run is proven and read like one on disk: `weights`, `step_mass`, `pooled`, `measure`,
    `contrast`, panels and figures. Weights are stored as float32.

    Args:
        model: A transformers model (put into eval mode meanwhile), a `LoadedModel`, or a name as
            for `load_model`.
        tokenizer: Its tokenizer; None where the model brings its own.
        text: Plain text, a list of (role, text), a record, or several. What has no target is all
            prompt; every token after its first counts as predicted, each from the tokens before.
        target: What is predicted after the text; with it, only its tokens count as predicted.
            Plain text and target are joined as they are, lists of segments by line breaks.
        keep: `full` (every token's weights), `rows` (those of predicted tokens), `steps`,
            `pooled`, or several of them.
        layers: Layer, or layers; None for all.
        heads: Query head, or heads; None for all.

    Returns:
        The run, opened.

    Raises:
        ModelError: If the model cannot be loaded, or has no tokenizer.
        RecordError: If there is no text, or a target is given beside records.
        EncodeError: If the text does not fit the model, or is too short to predict anything.
        StoreError: If the weights would take too much memory.
        CertificateError: If the capture is not what the model used.
    """
    from attnprobe.store.memory import in_memory  # needs xarray and pandas, as `Run` does

    records = _records(text, target)
    settings = ExtractSettings(
        keep=(keep,) if isinstance(keep, str) else tuple(keep),
        layers=_listed(layers), heads=_listed(heads), encoding="f32", batch_size=1,
    )  # fmt: skip
    loaded = _loaded(model, tokenizer)
    with _evaluating(loaded.model):
        survey = Survey(loaded.model)
        n_virtual = count_virtual(loaded, survey)
        encodings = [with_prefix(_encoded(record, loaded), n_virtual) for record in records]
        chosen = CaptureSettings(
            keep=settings.keep,
            layers=chosen_numbers(settings.layers, survey.layers, "layers"),
            heads=chosen_numbers(settings.heads, range(loaded.n_heads), "heads"),
        )
        _check_size(encodings, chosen)
        check_canary_once(loaded, as_recorded(settings.keep))
        with in_memory(
            described_settings(settings, chosen, loaded, n_virtual), loaded.identity(),
            chosen.layers or (), chosen.heads or (),
            [PlannedRecord.of(encoding) for encoding in encodings],
        ) as writer:  # fmt: skip
            capture(loaded, encodings, chosen, writer.sink)
    return writer.run()


def _listed(numbers: Numbers) -> tuple[int, ...] | None:
    if numbers is None:
        return None
    return (int(numbers),) if isinstance(numbers, int) else tuple(int(n) for n in numbers)


def _records(text: Any, target: Text | None) -> list[Record]:
    """Make records of what was given."""
    records = [text] if isinstance(text, Record) else text
    if not isinstance(records, str) and all(isinstance(record, Record) for record in records):
        if target is not None:
            raise RecordError(
                "records have targets of their own", where="probe", got="a target beside records",
                fix="put the target into the record",
            )  # fmt: skip
        if not records:
            raise RecordError("there is no text to probe", where="probe", got="an empty list")
        return list(records)
    prompt = _segments(text, "text")
    joiner = "" if isinstance(text, str) and isinstance(target, str | None) else "\n"
    answer = () if target is None else _segments(target, "target")
    return [Record("text", "text", "text", prompt, answer, joiner=joiner)]


def _segments(text: Any, name: str) -> tuple[Segment, ...]:
    """Give plain text the usual role, and check segments."""
    if isinstance(text, str):
        text = [("prompt" if name == "text" else "answer", text)]
    segments = []
    for piece in text:
        role, words = (
            (piece.role, piece.text) if isinstance(piece, Segment) else _role_and_text(piece, name)
        )
        if not (role and words):
            raise RecordError(
                "a segment is empty", where=f"probe, {name}", got=repr((role, words)),
                expected="a role and some text",
            )  # fmt: skip
        segments.append(Segment(role, words))
    if not segments:
        raise RecordError("there is no text to probe", where=f"probe, {name}", got="an empty list")
    return tuple(segments)


def _role_and_text(piece: Any, name: str) -> tuple[str, str]:
    good = isinstance(piece, tuple | list) and len(piece) == 2
    if not good or not all(isinstance(part, str) for part in piece):
        raise RecordError(
            "a segment is no pair of texts", where=f"probe, {name}", got=repr(piece)[:80],
            expected="(role, text)",
        )  # fmt: skip
    return piece[0], piece[1]


def _loaded(model: Any, tokenizer: Any) -> LoadedModel:
    if isinstance(model, str):
        loaded = load_model(model)
    elif isinstance(model, LoadedModel):
        loaded = model
    elif tokenizer is None:
        raise ModelError(
            "the model has no tokenizer", where="probe", got=type(model).__name__,
            fix="give its tokenizer as well: probe(model, tokenizer, text)",
        )  # fmt: skip
    else:
        name = str(getattr(model, "name_or_path", "") or type(model).__name__)
        return LoadedModel(model, tokenizer, name)
    return loaded if tokenizer is None else replace(loaded, tokenizer=tokenizer)


def _encoded(record: Record, loaded: LoadedModel) -> Encoding:
    """Encode a record; without a target, all tokens after the first are predicted."""
    given = record
    if not record.target and len(record.prompt) > 1:  # no joiner after the last segment
        given = replace(record, prompt=record.prompt[:-1], target=record.prompt[-1:])
    elif not record.target:
        given = replace(record, joiner="")
    encoding = encode(given, loaded.tokenizer, max_tokens=loaded.max_tokens, n_ids=loaded.n_ids)
    if record.target:
        return encoding
    if encoding.n_tokens < 2:
        raise EncodeError(
            "the text is too short: nothing is predicted", where=f"record '{record.id}'",
            got=f"{encoding.n_tokens} token", expected="at least 2",
        )  # fmt: skip
    return replace(encoding, record=given, n_prompt=1)


def _check_size(encodings: Sequence[Encoding], chosen: CaptureSettings) -> None:
    """Refuse weights that would fill the memory, before the model runs."""
    heads = len(chosen.layers or ()) * len(chosen.heads or ())
    rows = {
        "full": sum(e.n_tokens * (e.n_tokens + 1) // 2 for e in encodings),
        "rows": sum(e.n_tokens * e.n_steps for e in encodings),
    }
    n_bytes = 4 * heads * max((rows.get(keep, 0) for keep in chosen.keep), default=0)
    if n_bytes > MOST_BYTES:
        raise StoreError(
            "the weights would take too much memory", where="probe",
            got=f"{n_bytes / 2**30:.1f} GiB", expected=f"at most {MOST_BYTES / 2**30:g} GiB",
            fix="choose layers= or heads=, keep='steps' or 'pooled', or extract to disk",
        )  # fmt: skip


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Put a model into eval mode, and each of its modules back into the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
