"""A run → what its report and `attnprobe view` show: contrast, scores, and what was refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from attnprobe.contrasts import contrast
from attnprobe.errors import (
    AttnprobeError,
    ContrastError,
    MeasureError,
    RecordError,
    SelectionError,
    nearest,
)
from attnprobe.report import Findings, Notice, Payload
from attnprobe.store import Run
from attnprobe.tasks.scoring import score_record
from attnprobe.workflows.choosing import require_heads
from attnprobe.workflows.score import score_run

USUAL = ("coarse", "stepwise")
"""Styles that are shown where a run has both and none is named."""


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What a report shows of a run."""

    a: str | None = None
    """Style that positive differences favour; None for `coarse`, or the first there is."""
    b: str | None = None
    """Style it is held against; None for `stepwise`, or the next there is, or no other."""
    measure: str = "enrichment"
    """One of `attnprobe.measures.MEASURES`."""
    query: str = "answer"
    """Role of the predicted tokens that look."""
    key: str = "history"
    """Role that is looked at."""
    by: Literal["task", "item"] = "task"
    """`task` for claims about new tasks, `item` for these tasks only."""
    seed: int = 0
    """Seed of flips and resamples."""


def report_payload(run: Run, settings: ReportSettings | None = None) -> Payload:
    """Find out what there is to show of a run.

    What a run does not allow (a contrast of too few tasks, pass rates where the model was shown
    the targets) is left out and said on the page.

    Args:
        run: An open run; of an unfinished one, what is there is shown.
        settings: What to show; a measure or style that is named must be there.

    Returns:
        The pieces of the page; the run must stay open while they are asked for.

    Raises:
        SelectionError: If the run is empty, or a style, the measure, or a role that was asked for
            is not there.
    """
    settings = settings or ReportSettings()
    require_heads(settings.measure, "a report shows heads")
    a, b = chosen_styles(run, settings.a, settings.b)
    notices: list[Notice] = []
    found = None
    if b is not None:
        try:
            found = contrast(
                run, a=a, b=b, measure=settings.measure, query=settings.query, key=settings.key,
                by=settings.by, rng=settings.seed,
            )  # fmt: skip
        except (ContrastError, MeasureError, SelectionError) as error:
            usual = ReportSettings()
            asked = (settings.query, settings.key) != (usual.query, usual.key)
            if asked and isinstance(error, SelectionError):  # mistyped, not lacking
                raise
            notices.append(_notice("no_contrast", error))
    else:
        notices.append(Notice("one_style", {"style": a}))
    scores, passed = _scored(run, notices)
    return Payload(
        run,
        Findings(
            a=a, b=b, measure=settings.measure, query=settings.query, key=settings.key,
            contrast=found, scores=scores, passed=passed, notices=tuple(notices),
        ),
    )  # fmt: skip


def chosen_styles(run: Run, a: str | None, b: str | None) -> tuple[str, str | None]:
    """Choose the styles that are shown.

    Raises:
        SelectionError: If the run has no record yet, or no style of a name that was given.
    """
    there = list(dict.fromkeys(str(style) for style in run.records["style"]))
    if not there:
        raise SelectionError(
            "the run holds no record yet", where=str(run.path),
            fix="let the extraction seal its first chunk, or finish it",
        )  # fmt: skip
    for style in (a, b):
        if style is not None and style not in there:
            raise SelectionError(
                f"no style '{style}'", where=str(run.path), fix=nearest(style, there)
            )
    if a is not None and a == b:
        raise SelectionError(
            "a style does not differ from itself", got=f"'{a}' twice",
            expected=f"two of {', '.join(there)}",
        )  # fmt: skip
    usual = [style for style in USUAL if style in there]
    order = [*usual, *(style for style in there if style not in usual)]
    first = a or next(style for style in order if style != b)
    return first, b or next((style for style in order if style != first), None)


def _scored(
    run: Run, notices: list[Notice]
) -> tuple[Sequence[dict[str, Any]], dict[str, bool | None]]:
    """Score what the model wrote, where it wrote anything that can be scored."""
    if run.settings.get("decode", "gold") == "gold":
        return (), {}
    try:
        scores = score_run(run)
        encodings = map(run.encoding, run.records.index)
        return scores, {
            e.record.id: score_record(e.record, e.generated or "").passed for e in encodings
        }
    except RecordError as error:
        notices.append(_notice("no_scores", error))
        return (), {}


def _notice(kind: str, error: AttnprobeError) -> Notice:
    return Notice(kind, {"reason": str(error)})
