"""General questions: does a model still answer them after it was fine-tuned on something else?"""

import re
from collections.abc import Sequence
from typing import Any

import torch

from attnprobe.encode import encode
from attnprobe.models import LoadedModel
from attnprobe.tasks.scoring import wilson
from attnprobe.types import Record


def is_right(record: Record, text: str) -> bool:
    """Say whether the first line of an answer has one of the accepted answers in it, as a word.

    Chinese is not written in words, so there any place will do.
    """
    line = next((line for line in text.splitlines() if line.strip()), "").casefold()
    return any(_has(line, accepted.casefold()) for accepted in record.meta["accepted"])


def _has(line: str, accepted: str) -> bool:
    if not accepted.isascii():
        return accepted in line
    return re.search(rf"(?<![a-z0-9]){re.escape(accepted)}(?![a-z0-9])", line) is not None


@torch.inference_mode()
def log_prob(loaded: LoadedModel, record: Record, *, chat: bool) -> float:
    """Return the log-probability (nats) of a record's own target after its prompt."""
    encoding = encode(
        record, loaded.tokenizer, max_tokens=loaded.max_tokens, n_ids=loaded.n_ids, chat=chat
    )
    ids = torch.tensor(encoding.ids.tolist(), device=loaded.device)
    logits = loaded.model(ids[None], use_cache=False).logits[0, encoding.n_prompt - 1 : -1]
    chosen = logits.float().log_softmax(-1).gather(1, ids[encoding.n_prompt :, None])
    span = [s for s in encoding.spans if s.role == "answer"]
    steps = [t - encoding.n_prompt for s in span for t in range(s.start, s.stop)]
    return float(chosen[steps].sum())


def asked(
    loaded: LoadedModel, records: Sequence[Record], texts: dict[str, str], *, chat: bool
) -> dict[str, Any]:
    """Score the general questions.

    Args:
        loaded: The model.
        records: The questions.
        texts: What the model wrote, by id.
        chat: Whether they are asked in the chat template.

    Returns:
        By language, and for all: `n`, `right`, `low`, `high` (Wilson, 95 %) and the mean
        log-probability of the right answer; and `each`, question by question.
    """
    each = {
        record.id: {
            "language": record.meta["language"],
            "right": is_right(record, texts[record.id]),
            "log_prob": round(log_prob(loaded, record, chat=chat), 4),
        }
        for record in records
    }
    languages = list(dict.fromkeys(facts["language"] for facts in each.values()))
    rows = []
    for language in (*languages, "all"):
        chosen = [f for f in each.values() if language in (f["language"], "all")]
        right = sum(facts["right"] for facts in chosen)
        low, high = wilson(right, len(chosen))
        mean = sum(facts["log_prob"] for facts in chosen) / len(chosen)
        rows.append({"language": language, "n": len(chosen), "right": right / len(chosen),
                     "low": low, "high": high, "log_prob": mean})  # fmt: skip
    return {"rows": rows, "each": each}
