"""A dataset and a model → a run on disk."""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from attnprobe.attention import Survey, check_canary
from attnprobe.attention.canary import LENGTHS
from attnprobe.capturing import (
    CaptureSettings,
    Decoding,
    as_recorded,
    can_pad,
    capture,
    count_virtual,
    overlapping,
    padded_ids,
    refuse_attribution,
    token_limit,
)
from attnprobe.encode import encode, encode_prompt, foil_ids, framed, with_prefix
from attnprobe.errors import RecordError, SelectionError
from attnprobe.models import LoadedModel, cache_folder, free_memory, load_model
from attnprobe.records import read_records
from attnprobe.records.rules import SegmentRules, apply_rules
from attnprobe.store import (
    PlannedRecord,
    Run,
    RunWriter,
    is_run,
    open_run,
    read_manifest,
)
from attnprobe.types import Encoding, Record
from attnprobe.workflows.extract_settings import RECORDS_PER_CHUNK, ExtractSettings

TOKENS_PER_CHUNK = 32_768
"""About a minute of work for a small model on two cores."""
WRITTEN_TOKEN = 8
"""How many tokens' work it is to write one, which needs a forward pass of its own."""

MOST_AT_ONCE, OTHERWISE_AT_ONCE = 64, 8
"""Records in one forward pass: at most, and where a device does not tell its free memory."""

_RECORDED_VERSIONS = ("torch", "transformers")
_ATTRIBUTION_VERSIONS = ("captum",)

Data = str | Path | Sequence[Record]


def extract(
    data: Data,
    model: str | LoadedModel,
    out: str | Path,
    settings: ExtractSettings | None = None,
    *,
    rules: SegmentRules | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Run:
    """Capture a model's attention over a dataset and store it.

    Every record's capture proves itself before it is stored. A run that was interrupted is
    continued by the same call, and ends as if it had never stopped.

    Args:
        data: A JSON lines file (streamed twice: to plan, then to run), or records.
        model: A model name (see `load_model`), or a loaded model.
        out: Folder of the run.
        settings: What to capture.
        rules: How to cut plain prompts and targets into segments.
        overwrite: Replace a run that is already there.
        on_progress: Called with records done and records in all.

    Returns:
        The finished run, opened.

    Raises:
        RecordError: If the dataset is malformed.
        EncodeError: If a record does not fit the model.
        StoreError: If the run cannot be written, or was begun with other settings.
        CertificateError: If a capture is not what the model used.
    """
    settings = settings or ExtractSettings()
    next(_records(data, None), None)  # a bad dataset is told of before a model is loaded
    loaded = load_for(model, settings)
    reach = {"attention_module": settings.attention_module, "uncertified": settings.uncertified}
    survey = Survey(loaded.model, **reach)
    n_virtual = count_virtual(loaded, survey)
    if settings.attribute:
        refuse_attribution(n_virtual)
    encoded = functools.partial(_encoded, loaded, settings, n_virtual)
    work = functools.partial(_work, loaded, settings.decoding)
    longest = _Longest(work)
    chunks = plan(map(encoded, _some(_records(data, rules))), settings.records_per_chunk, longest)
    capture_settings = CaptureSettings(
        keep=settings.keep,
        layers=chosen_numbers(settings.layers, survey.layers, "layers"),
        heads=chosen_numbers(settings.heads, range(loaded.n_heads), "heads"),
        batch_size=settings.batch_size or _batch_size(loaded, longest.tokens, Path(out)),
        decoding=settings.decoding,
        crediting=settings.crediting,
        **reach,
    )
    writer = RunWriter.open(
        out,
        settings=described_settings(settings, capture_settings, loaded, n_virtual),
        model=loaded.identity(),
        layers=capture_settings.layers or (),
        heads=capture_settings.heads or (),
        chunks=chunks,
        overwrite=overwrite,
    )
    missing = set(writer.missing())
    sizes = [len(chunk) for chunk in writer.manifest.plan]
    done = sum(size for chunk, size in enumerate(sizes) if chunk not in missing)
    on_progress(done, sum(sizes))
    if missing:
        check_canary_once(loaded, as_recorded(settings.keep), survey)
    for chunk, records in enumerate(_cut(_records(data, rules), sizes)):
        if chunk not in missing:
            continue

        def count(n_records: int) -> None:
            nonlocal done
            done += n_records
            on_progress(done, sum(sizes))

        encodings = [encoded(record) for record in records]
        with writer.chunk(chunk) as file, overlapping(file) as sink:
            capture(loaded, encodings, capture_settings, sink, count)
    writer.complete()
    return open_run(out)


def plan(
    encodings: Iterable[Encoding],
    records_per_chunk: int = RECORDS_PER_CHUNK,
    work: Callable[[Encoding], int] = lambda encoding: encoding.n_tokens,
) -> list[list[PlannedRecord]]:
    """Divide a dataset into chunks, by its order alone.

    Args:
        encodings: The dataset; consumed once, one at a time.
        records_per_chunk: Most records in a chunk; long records make smaller ones.
        work: How much work a record is, in tokens.

    Returns:
        The records of each chunk.
    """
    chunks: list[list[PlannedRecord]] = []
    n_tokens = TOKENS_PER_CHUNK
    for encoding in encodings:
        n_tokens += work(encoding)
        if n_tokens > TOKENS_PER_CHUNK or len(chunks[-1]) == records_per_chunk:
            chunks.append([])
            n_tokens = work(encoding)
        chunks[-1].append(PlannedRecord.of(encoding))
    return chunks


def _records(data: Data, rules: SegmentRules | None) -> Iterator[Record]:
    records = read_records(data) if isinstance(data, str | Path) else iter(data)
    return records if rules is None else apply_rules(records, rules)


def _some(records: Iterator[Record]) -> Iterator[Record]:
    first = next(records, None)
    if first is None:
        raise RecordError("no records to extract", expected="at least one")
    yield first
    yield from records


def load_for(model: str | LoadedModel, settings: ExtractSettings) -> LoadedModel:
    """Load the model that a run is made with; one that is loaded stays as it is."""
    if isinstance(model, LoadedModel):
        return model
    return load_model(
        model, device=settings.device, dtype=settings.dtype, base=settings.base,
        merge_adapter=settings.merge_adapter, trust_remote_code=settings.trust_remote_code,
    )  # fmt: skip


def _encoded(
    loaded: LoadedModel, settings: ExtractSettings, n_virtual: int, record: Record
) -> Encoding:
    """Encode what the model is given: prompt and target, or the prompt alone."""
    whole = settings.decode == "gold"
    encoding = (encode if whole else encode_prompt)(
        record, loaded.tokenizer, max_tokens=loaded.max_tokens, n_ids=loaded.n_ids,
        chat=settings.chat,
    )  # fmt: skip
    if whole and encoding.n_steps == 0:
        raise RecordError(
            "decoding 'gold' needs a target",
            where=f"{record.where or 'record'} (id '{record.id}')",
            fix="add 'target', or let the model write with --decode greedy",
        )  # fmt: skip
    if settings.attribute_foil is not None:  # a bad one is told of before anything runs
        foil_ids(encoding, loaded.tokenizer, settings.attribute_foil, chat=settings.chat)
    return with_prefix(encoding, n_virtual)


def _work(loaded: LoadedModel, decoding: Decoding | None, encoding: Encoding) -> int:
    if decoding is None:
        return encoding.n_tokens
    return encoding.n_tokens + WRITTEN_TOKEN * token_limit(loaded, encoding, decoding)


class _Longest:
    """Measures work, and remembers the longest record."""

    def __init__(self, work: Callable[[Encoding], int]) -> None:
        self._work, self.tokens = work, 0

    def __call__(self, encoding: Encoding) -> int:
        """Return the work of one record, in tokens."""
        self.tokens = max(self.tokens, encoding.n_tokens)
        return self._work(encoding)


def _batch_size(loaded: LoadedModel, longest: int, out: Path) -> int:
    """Choose how many records share a forward pass.

    On a CPU one record fills the cores, and a batch would pay for its padding. On a device with
    memory of its own, as many as half of what is free holds of the longest record; a run that is
    continued keeps the size it was begun with.
    """
    if is_run(out):
        begun = read_manifest(out).settings.get("batch_size")
        if isinstance(begun, int) and begun > 0:
            return begun
    free = free_memory(loaded.device)
    if not can_pad(loaded):
        return 1
    if free is None:
        return 1 if loaded.device.type == "cpu" else OTHERWISE_AT_ONCE
    config = loaded.config
    wide = 16 * config.hidden_size + 4 * getattr(config, "intermediate_size", config.hidden_size)
    rows = loaded.n_layers * loaded.n_heads * longest * 4
    each = longest * (wide * loaded.dtype.itemsize + rows)
    return max(1, min(MOST_AT_ONCE, free // 2 // max(each, 1)))


def _cut(records: Iterator[Record], sizes: Sequence[int]) -> Iterator[list[Record]]:
    for size in sizes:
        yield list(islice(records, size))


def chosen_numbers(
    numbers: tuple[int, ...] | None, there: Sequence[int], what: str
) -> tuple[int, ...]:
    """Check a selection against what the model has; all of it if there is no selection."""
    if numbers is None:
        return tuple(there)
    if outside := [number for number in numbers if number not in there]:
        gaps = len(there) <= there[-1] - there[0]  # recurrent layers between the attending ones
        raise SelectionError(
            f"the model has no such {what.rstrip('s')}", where=f"--{what}", got=outside[0],
            expected=", ".join(map(str, there)) if gaps else f"{there[0]} to {there[-1]}",
        )  # fmt: skip
    return tuple(sorted(set(numbers)))


def check_canary_once(loaded: LoadedModel, keep: list[str], survey: Survey | None = None) -> None:
    """Run the canary once per weights, settings and library versions; a passed one is noted."""
    survey = survey or Survey(loaded.model)
    known = {
        **loaded.identity(),
        "route": survey.route,
        "places": sorted(map(str, survey.places.values())),
        "device": str(loaded.device),
        "keep": keep,
        "versions": _versions((*_RECORDED_VERSIONS, "attnprobe")),
    }
    name = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    note = cache_folder() / "canaries" / f"{name}.json"
    if note.is_file():
        return
    check_canary(
        loaded.model, keep, survey, functools.partial(padded_ids, loaded),
        functools.partial(framed, tokenizer=loaded.tokenizer),
        LENGTHS if can_pad(loaded) else LENGTHS[:1],
    )  # fmt: skip
    with contextlib.suppress(OSError):  # without a note, the next run checks again
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(known, sort_keys=True, indent=1), encoding="utf-8")


def _versions(packages: Iterable[str]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}


def described_settings(
    settings: ExtractSettings,
    capture_settings: CaptureSettings,
    loaded: LoadedModel,
    n_virtual: int = 0,
) -> dict[str, Any]:
    """Write down what a second call must share to continue the run."""
    described: dict[str, Any] = {
        "keep": sorted(set(settings.keep)),
        "decode": settings.decode,
        "encoding": settings.encoding,
        "batch_size": capture_settings.batch_size,
        "records_per_chunk": settings.records_per_chunk,
        "device": loaded.device.type,
        "versions": _versions(_RECORDED_VERSIONS),
        "route": capture_settings.survey(loaded.model).route,
    } | ({"chat": True} if settings.chat else {})
    if settings.attention_module is not None:
        described["attention_module"] = settings.attention_module
    if settings.uncertified:
        described["uncertified"] = True
    if n_virtual:
        described["virtual_tokens"] = n_virtual
    if methods := (crediting := capture_settings.crediting).methods:
        described["attribute"] = list(methods)
        described["attribute_params"] = {name: crediting.described(name) for name in methods}
        described["versions"] |= _versions(_ATTRIBUTION_VERSIONS)
    return described | _decoding_described(capture_settings.decoding)


def _decoding_described(decoding: Decoding | None) -> dict[str, Any]:
    if decoding is None:
        return {}
    named = {"max_new_tokens": decoding.max_new_tokens}
    if decoding.how == "greedy":
        return named | {"written_at_once": decoding.batch_size}
    return named | {
        "temperature": decoding.temperature, "top_p": decoding.top_p, "seed": decoding.seed
    }  # fmt: skip
