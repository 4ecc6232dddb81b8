"""What a model wrote in a run → how often it was right."""

from collections.abc import Sequence
from typing import Any

from attnprobe.errors import SelectionError
from attnprobe.store import Run
from attnprobe.tasks.scoring import score_record, score_table


def score_run(run: Run, by: Sequence[str] = ("style", "split")) -> list[dict[str, Any]]:
    """Score the texts that a model wrote while it was captured.

    Args:
        run: A run whose decoding was `greedy` or `sample`; of an unfinished one, what is there.
        by: What to break the table down by: any of `style`, `split`, `task`, `language`.

    Returns:
        One row per group, as of `attnprobe.tasks.scoring.score_table`: `style`, `split`, `n`,
        `pass_rate` with its interval and the chance beside it, the same for the coarse values …

    Raises:
        SelectionError: If the model was shown the targets, so that it wrote nothing.
        RecordError: If a record says nothing to score against.
    """
    decode = run.settings.get("decode", "gold")
    if decode == "gold":
        raise SelectionError(
            "there is nothing to score: the model was shown the targets and wrote nothing",
            where=str(run.path), got="decode 'gold'",
            fix="extract again, into another folder, with --decode greedy",
        )  # fmt: skip
    encodings = map(run.encoding, run.records.index)
    return score_table((score_record(e.record, e.generated or "") for e in encodings), by)
