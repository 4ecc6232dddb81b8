"""What the table says of each model, as JSON values."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnprobe.models import REFERENCE, load_model
from attnprobe.tasks.scoring import RecordScore, score_record, score_table
from attnprobe.types import Record
from results.answering import Writing, answers
from results.data import first_items
from results.questions import asked

Progress = Callable[[int, int], None]
SMOLLM2 = "smollm2-135m-instruct"


@dataclass(frozen=True, slots=True)
class Subject:
    """A model of the table."""

    name: str
    """How the table calls it."""
    model: str
    """A known name, or a folder."""
    per_family: dict[bool, int]
    """How many problems of each family it is asked: of trained ones, of those held out (True)."""
    writing: Writing
    questions: Writing | None
    """How it answers general questions; None for a model that knows numbers only."""
    about: str

    @property
    def is_there(self) -> bool:
        """Whether its weights are."""
        return self.model in (REFERENCE, SMOLLM2) or Path(self.model).is_dir()


ALL, SOME = {False: 50, True: 50}, {False: 23, True: 34}
"""In each style: 450 or 300 a split, and 207 or 204; an own model of 135 million takes long."""


def subjects(artifacts: Path, others: Sequence[tuple[str, str]] = ()) -> list[Subject]:
    """List the models of the table, and others by name and folder."""
    ask = Writing(at_once=20, max_new_tokens=24, chat=True)
    wide, narrow = Writing(64), Writing(69)
    return [
        Subject(REFERENCE, str(artifacts / "reference-model"), ALL, wide, None,
                "the reference model of `artifacts/reference-model`"),
        *(Subject(name, folder, ALL, wide, None, "another training of the reference model")
          for name, folder in others),
        Subject(SMOLLM2, SMOLLM2, SOME, narrow, ask, "SmolLM2-135M-Instruct as it is"),
        Subject("smollm2-adapter", str(artifacts / "smollm2-adapter"), SOME, narrow, ask,
                "the same with the adapter of `artifacts/smollm2-adapter`"),
    ]  # fmt: skip


def measure(
    subject: Subject,
    problems: Sequence[Record],
    questions: Sequence[Record],
    folder: Path,
    progress: Callable[[str], AbstractContextManager[Progress]],
) -> dict[str, Any]:
    """Let a model answer, and score it.

    Args:
        subject: The model.
        problems: The test problems.
        questions: The general questions.
        folder: Where answers are kept.
        progress: Makes a progress bar by its title.

    Returns:
        What the model is, its tables `styles`, `kinds` and `families`, and `questions`.
    """
    loaded = load_model(subject.model, dtype="float32")
    chosen = first_items(list(problems), subject.per_family)
    with progress(f"{subject.name}, sequences") as count:
        texts = answers(loaded, chosen, folder, subject.writing, count)
    identity = loaded.identity()
    found = {"about": subject.about, "fingerprint": identity["fingerprint"]}
    if "adapter" in identity:
        found["adapter"] = identity["adapter"]
    found |= tables(score_record(record, texts[record.id]) for record in chosen)
    if subject.questions is not None:
        with progress(f"{subject.name}, questions") as count:
            written = answers(loaded, questions, folder, subject.questions, count)
        found["questions"] = asked(loaded, questions, written, chat=subject.questions.chat)
    return _rounded(found)


def tables(scored: Iterable[RecordScore]) -> dict[str, list[dict[str, Any]]]:
    """Break scores down by style and split, and that by kind of number and by family."""
    scores = list(scored)
    by = ("split", "style")
    kinds = [
        {"kind": kind} | row
        for kind in ("integer", "real")
        for row in score_table([s for s in scores if s.rule.kind == kind], by)
    ]
    return {
        "styles": score_table(scores, by),
        "kinds": kinds,
        "families": score_table(scores, ("task", *by)),
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value
