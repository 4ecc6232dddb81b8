"""Before an extraction: how records become spans, and what time and disk it will take."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attnprobe.attention import Survey
from attnprobe.capturing import count_virtual, token_limit
from attnprobe.encode import encode, encode_prompt, with_prefix
from attnprobe.errors import RecordError, StoreError
from attnprobe.models import LoadedModel
from attnprobe.records import read_records
from attnprobe.records.rules import SegmentRules, apply_rules, read_rules
from attnprobe.types import Encoding, Record
from attnprobe.workflows.costs import (
    Lengths,
    Timing,
    choose_sample,
    shard_bytes,
    stored_bytes,
    time_sample,
    total_seconds,
)
from attnprobe.workflows.extract import Data, ExtractSettings, load_for, plan


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check` found."""

    model: str
    """As the user called it."""
    settings: ExtractSettings
    """What the extraction would capture."""
    encodings: tuple[Encoding, ...]
    """The first records."""
    lengths: Lengths
    """Of all records."""
    role_records: dict[str, int]
    """In how many records each role occurs, in the order of first appearance."""
    role_tokens: dict[str, int]
    """How many tokens each role has."""
    n_uncut: int
    """Records that are as plain as before, although there are segment rules."""
    timings: tuple[Timing, ...]
    """What was measured, by length."""
    seconds: float
    """How long the extraction will take, without loading the model."""
    n_bytes: int
    """How much the run will take on disk."""
    free_bytes: int
    """How much is free there."""
    out: Path = field(default_factory=Path)
    """Folder of the run."""

    @property
    def n_records(self) -> int:
        """Records in the dataset."""
        return len(self.lengths.n_tokens)

    @property
    def fits(self) -> bool:
        """Whether the run fits on the disk."""
        return self.n_bytes <= self.free_bytes

    def require_room(self) -> None:
        """Refuse an extraction that the disk cannot hold.

        Raises:
            StoreError: If the run will take more than what is free.
        """
        if not self.fits:
            raise StoreError(
                "this extraction will not fit on the disk", where=str(self.out),
                got=f"{size_text(self.free_bytes)} free", expected=size_text(self.n_bytes),
                fix="make room, write elsewhere, or store less: --keep steps, --encoding u8, "
                "fewer --layers or --heads",
            )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "model": self.model,
            "records": self.n_records,
            "tokens": int(self.lengths.n_tokens.sum()),
            "longest": int(self.lengths.n_tokens.max()),
            "steps": int(self.lengths.n_steps.sum()),
            "uncut": self.n_uncut,
            "roles": [
                {"role": role, "records": n, "tokens": self.role_tokens[role]}
                for role, n in self.role_records.items()
            ],
            "keep": list(self.settings.keep),
            "attribute": list(self.settings.attribute),
            "encoding": self.settings.encoding,
            "seconds": round(self.seconds, 3),
            "timings": [{"tokens": t.n_tokens, "seconds": t.seconds} for t in self.timings],
            "bytes": self.n_bytes,
            "free_bytes": self.free_bytes,
            "fits": self.fits,
            "shown": [_encoding_json(encoding) for encoding in self.encodings],
        }


def check(
    data: Data,
    model: str | LoadedModel,
    settings: ExtractSettings | None = None,
    rules: SegmentRules | str | Path | None = None,
    n_records: int = 3,
    *,
    out: str | Path = ".",
) -> CheckReport:
    """Show what an extraction would do, before it is begun.

    All records are read, cut and tokenized. A few, spread over the lengths, are extracted into a
    folder that is thrown away, each length twice; the second time counts. So the time holds
    everything an extraction does, and a capture that cannot prove itself is found out here. Where
    the model writes by itself, disk and time are those of the longest texts it may write.

    Args:
        data: A dataset, or records.
        model: A model name (see `load_model`), or a loaded model.
        settings: What would be captured.
        rules: Segment rules or their file, to cut plain prompts by.
        n_records: How many of the first records to return in tokens and spans.
        out: Where the run would go, for the free space.

    Returns:
        The report. `report.require_room()` refuses what the disk cannot hold.

    Raises:
        RecordError: If the dataset or the rules are malformed.
        EncodeError: If a record does not fit the model.
        CertificateError: If a capture is not what the model used.
    """
    settings = settings or ExtractSettings()
    rules = read_rules(rules) if isinstance(rules, str | Path) else rules
    loaded = load_for(model, settings)
    reach = {"attention_module": settings.attention_module, "uncertified": settings.uncertified}
    n_virtual = count_virtual(loaded, Survey(loaded.model, **reach))

    def records() -> Iterator[Record]:
        plain = read_records(data) if isinstance(data, str | Path) else iter(data)
        return apply_rules(plain, rules) if rules else plain

    def n_written(encoding: Encoding) -> int:
        """Return how many tokens are predicted: the target's, or the most a model may write."""
        if settings.decoding is None:
            return encoding.n_steps
        prompt = encode_prompt(
            encoding.record, loaded.tokenizer, max_tokens=loaded.max_tokens, chat=settings.chat
        )
        return token_limit(loaded, prompt, settings.decoding)

    survey = _Survey(rules, n_records, n_written)
    encodings = _encodings(records(), loaded, settings, n_virtual)
    chunks = plan(survey.watch(encodings), settings.records_per_chunk)
    lengths = survey.lengths(n_virtual)
    n_layers = loaded.n_layers if settings.layers is None else len(settings.layers)
    n_heads = loaded.n_heads if settings.heads is None else len(settings.heads)
    n_bytes = stored_bytes(lengths, settings, n_layers, n_heads)
    sample = choose_sample(lengths.n_tokens, n_bytes)
    sizes = [int(lengths.n_tokens[index]) for index in sample]
    timings = time_sample(_pick(records(), sample), sizes, loaded, settings)
    out = Path(out)
    return CheckReport(
        model=loaded.name,
        settings=settings,
        encodings=tuple(survey.shown),
        lengths=lengths,
        role_records=dict(survey.role_records),
        role_tokens=dict(survey.role_tokens),
        n_uncut=survey.n_uncut,
        timings=timings,
        seconds=total_seconds(lengths.n_tokens, timings),
        n_bytes=round(n_bytes.sum() + shard_bytes(settings, n_layers, n_heads) * len(chunks)),
        free_bytes=_free_bytes(out),
        out=out,
    )


def size_text(n_bytes: int) -> str:
    """Write a size with a unit that suits it."""
    size = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


class _Survey:
    """Gathers what the report says of a dataset while its encodings pass by."""

    def __init__(
        self,
        rules: SegmentRules | None,
        n_shown: int,
        n_steps: Callable[[Encoding], int] = lambda encoding: encoding.n_steps,
    ) -> None:
        self.shown: list[Encoding] = []
        self.role_records: Counter[str] = Counter()
        self.role_tokens: Counter[str] = Counter()
        self.n_uncut = 0
        self._rules, self._n_shown, self._n_steps = rules, n_shown, n_steps
        self._rows: list[tuple[int, int, int]] = []

    def watch(self, encodings: Iterable[Encoding]) -> Iterator[Encoding]:
        for encoding in encodings:
            if len(self.shown) < self._n_shown:
                self.shown.append(encoding)
            roles: Counter[str] = Counter()
            for span in encoding.spans:
                roles[span.role] += len(span)
            self.role_tokens.update(roles)
            self.role_records.update(roles.keys())
            self.n_uncut += self._is_uncut(encoding.record)
            n_steps = self._n_steps(encoding)
            row = encoding.n_prompt + n_steps, encoding.n_prompt, len(encoding.groups)
            self._rows.append(row)
            yield encoding

    def lengths(self, n_virtual: int = 0) -> Lengths:
        n_tokens, n_prompt, n_groups = np.array(self._rows, np.int64).T
        return Lengths(n_tokens, n_prompt, n_groups, n_virtual)

    def _is_uncut(self, record: Record) -> bool:
        """Tell whether the prompt is one plain segment, although there are rules for it."""
        if self._rules is None:
            return False
        return bool(self._rules.prompt) and [s.role for s in record.prompt] == ["prompt"]


def _encodings(
    records: Iterator[Record], loaded: LoadedModel, settings: ExtractSettings, n_virtual: int
) -> Iterator[Encoding]:
    n_records = 0
    for record in records:
        encoding = encode(
            record, loaded.tokenizer, max_tokens=loaded.max_tokens, n_ids=loaded.n_ids,
            chat=settings.chat,
        )  # fmt: skip
        if settings.decode == "gold" and not encoding.n_steps:
            raise RecordError(
                "decoding 'gold' needs a target",
                where=f"{record.where or 'record'} (id '{record.id}')",
                fix="add 'target', or let the model write with --decode greedy",
            )  # fmt: skip
        n_records += 1
        yield with_prefix(encoding, n_virtual)
    if n_records == 0:
        raise RecordError("no records to check", expected="at least one")


def _pick(records: Iterator[Record], indices: Sequence[int]) -> list[Record]:
    wanted = set(indices)
    picked = {index: record for index, record in enumerate(records) if index in wanted}
    return [picked[index] for index in indices]


def _free_bytes(out: Path) -> int:
    """Return the free space where a folder is, or will be."""
    folder = out.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _encoding_json(encoding: Encoding) -> dict[str, Any]:
    return {
        "id": encoding.record.id,
        "n_prompt": encoding.n_prompt,
        "tokens": list(encoding.texts),
        "spans": [
            {"role": span.role, "start": span.start, "stop": span.stop} for span in encoding.spans
        ],
    }
