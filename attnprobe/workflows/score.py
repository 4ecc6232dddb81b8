"""What a model wrote in a run → how often it was right."""

from collections.abc import Iterator, Sequence
from typing import Any

from attnprobe.errors import SelectionError
from attnprobe.store import Run
from attnprobe.tasks.scoring import score_record, score_table
from attnprobe.types import Encoding


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
    scores = (score_record(e.record, e.generated or "") for e in _written(run))
    return score_table(scores, by)


def passed_records(run: Run) -> dict[str, bool | None]:
    """Tell which records a model answered rightly, by id; None for what is not scored.

    Raises:
        SelectionError: If the model was shown the targets, so that it wrote nothing.
        RecordError: If a record says nothing to score against.
    """
    return {e.record.id: score_record(e.record, e.generated or "").passed for e in _written(run)}


def _written(run: Run) -> Iterator[Encoding]:
    """Go through records that a model wrote answers to."""
    if run.settings.get("decode", "gold") == "gold":
        raise SelectionError(
            "there is nothing to score: the model was shown the targets and wrote nothing",
            where=str(run.path), got="decode 'gold'",
            fix="extract again, into another folder, with --decode greedy",
        )  # fmt: skip
    return map(run.encoding, run.records.index)
