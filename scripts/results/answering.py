"""What a model answers, written block by block, so that a stopped run goes on where it was."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnprobe.capturing import Decoding, generate
from attnprobe.encode import encode_prompt
from attnprobe.models import LoadedModel
from attnprobe.records import record_to_json
from attnprobe.types import Record


@dataclass(frozen=True, slots=True)
class Writing:
    """How answers are written."""

    at_once: int = 64
    """Records in one batch, and in one block: blocks are fixed, so that a run that was stopped ends
    with the same batches, and the same rounding, as one that was not."""
    max_new_tokens: int | None = None
    """Most tokens of an answer; None for twice the record's own target and 16 more."""
    chat: bool = False
    """Whether prompts go through the tokenizer's chat template."""


def answers(
    loaded: LoadedModel,
    records: Sequence[Record],
    folder: Path,
    writing: Writing,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, str]:
    """Let a model answer each record greedily.

    Args:
        loaded: The model.
        records: What is asked.
        folder: Where answers are kept; their file is named by weights, records and `writing`.
        writing: How.
        on_progress: Called with records done and records in all.

    Returns:
        Texts by the ids of the records.
    """
    file = folder / f"answers-{_key(loaded, records, writing)}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    found = _kept(file)
    ordered = sorted(records, key=lambda record: len(record.target_text))
    with file.open("a", encoding="utf-8") as stream:
        for start in range(0, len(ordered), writing.at_once):
            block = ordered[start : start + writing.at_once]
            if any(record.id not in found for record in block):
                texts = _write(loaded, block, writing)
                lines = (json.dumps([id_, text], ensure_ascii=False) for id_, text in texts.items())
                stream.write("".join(f"{line}\n" for line in lines))
                stream.flush()
                found |= texts
            on_progress(start + len(block), len(ordered))
    return {record.id: found[record.id] for record in records}


def _write(loaded: LoadedModel, block: Sequence[Record], writing: Writing) -> dict[str, str]:
    prompts = [
        encode_prompt(
            record, loaded.tokenizer, max_tokens=loaded.max_tokens, n_ids=loaded.n_ids,
            chat=writing.chat,
        )
        for record in block
    ]  # fmt: skip
    decoding = Decoding(max_new_tokens=writing.max_new_tokens, batch_size=writing.at_once)
    return {
        encoding.record.id: encoding.generated or ""
        for _, written in generate(loaded, prompts, decoding)
        for encoding in written
    }


def _kept(file: Path) -> dict[str, str]:
    """Read what is there, and drop a last line that was not written to its end."""
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole, encoding="utf-8")
    return dict(json.loads(line) for line in whole.splitlines())


def _key(loaded: LoadedModel, records: Sequence[Record], writing: Writing) -> str:
    adapter = loaded.identity().get("adapter")
    told = [loaded.identity()["fingerprint"], adapter, repr(writing)]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    for record in records:
        digest.update(json.dumps(record_to_json(record), sort_keys=True).encode())
    return digest.hexdigest()[:16]
