"""Whether what a model writes passes, with attention cut."""

from collections.abc import Sequence
from typing import Any

from attnprobe.attention import Edge, knockout
from attnprobe.capturing import Decoding, generate
from attnprobe.encode.generated import text_with_offsets
from attnprobe.models import LoadedModel
from attnprobe.tasks.scoring import score_record
from attnprobe.types import Encoding
from attnprobe.workflows.outcomes import prefix


def passes(
    loaded: LoadedModel, encoding: Encoding, first: int, cuts: Sequence[Sequence[Edge]]
) -> list[float]:
    """Let the model write from a position on, and score the texts; NaN where nothing can be."""
    record, n_left = encoding.record, encoding.n_tokens - first
    limit = 2 * n_left + 16
    if loaded.max_tokens is not None:
        limit = min(limit, loaded.max_tokens - first)
    until_end = [
        [edge._replace(queries=_open(edge.queries, first)) for edge in edges] for edges in cuts
    ]
    begun = prefix(encoding, first)
    decoding = Decoding("greedy", max(1, limit), batch_size=len(cuts))
    with knockout(loaded.model, per_example=until_end):
        written = [
            one for _, some in generate(loaded, [begun] * len(cuts), decoding) for one in some
        ]
    found = []
    for one in written:
        text, _ = text_with_offsets(
            encoding.ids[: encoding.n_prompt].tolist(), _text_ids(one, encoding, loaded),
            loaded.tokenizer,
        )  # fmt: skip
        found.append(_score(record, text))
    return found


def _open(queries: Any, first: int) -> tuple[int, int | None]:
    """Let queries that predict what is written go on to whatever end."""
    start, stop = queries
    return (start, None) if stop >= first else (start, stop)


def _text_ids(written: Encoding, encoding: Encoding, loaded: LoadedModel) -> list[int]:
    """Return the target's tokens, without special ones at the end."""
    ids = written.ids[encoding.n_prompt :].tolist()
    special = set(loaded.tokenizer.all_special_ids)
    while ids and ids[-1] in special:
        ids.pop()
    return ids


def _score(record: Any, text: str) -> float:
    passed = score_record(record, text).passed
    return float("nan") if passed is None else float(passed)
