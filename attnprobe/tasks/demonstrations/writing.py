"""Demonstrations in prompts."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

from attnprobe.errors import DatasetError, nearest
from attnprobe.tasks.demonstrations.candidates import (
    INSTRUCTION,
    Candidate,
    Demonstration,
    candidates_of,
    passes,
    question_of,
)
from attnprobe.tasks.demonstrations.choosing import Chooser
from attnprobe.tasks.demonstrations.embedding import Embedder
from attnprobe.tasks.demonstrations.rationales import Generator, zero_shot
from attnprobe.tasks.demonstrations.settings import DemonstrationSettings
from attnprobe.types import Record, Segment


def with_demonstrations(
    records: Iterable[Record],
    pool: Iterable[Record],
    settings: DemonstrationSettings | None = None,
    embed: Embedder | None = None,
    rationale: Literal["gold"] | Generator = "gold",
) -> Iterator[Record]:
    """Put demonstrations between the instruction and the question of every record.

    Records of one item in several styles are shown the same problems, each in its own style; a
    record's own problem is never shown.

    Args:
        records: What is asked.
        pool: Solved records to choose from, in every style that `records` has.
        settings: Which and how many.
        embed: Texts to embeddings; the packaged sentence model if None.
        rationale: `gold`: what leads to the answer in the pool's own targets. Or a function from a
            prompt to what a model writes after it: then rationale and answer are the model's, the
            same in every style, and only what passes the filters is shown.

    Yields:
        The records with segments `demo_1.question`, `demo_1.rationale` (if there is one),
        `demo_1.answer`, `demo_2.question` … `meta["demonstrations"]` says what was chosen.

    Raises:
        DatasetError: If the pool is too small, has no answers, or lacks a style.
    """
    settings = settings or DemonstrationSettings()
    candidates = candidates_of(pool)
    spoken = None if rationale == "gold" else _Spoken(rationale, settings)
    chooser = Chooser(candidates, settings, embed, spoken.accepts if spoken else None)
    for record in records:
        chosen = chooser.choose(question_of(record), record.item)
        shown = [_shown(candidate, record.style, spoken) for candidate in chosen]
        yield _written(record, shown, settings, "gold" if spoken is None else "zero-shot")


class _Spoken:
    """Rationales of a model, asked for once per problem and only when it is about to be chosen."""

    def __init__(self, generate: Generator, settings: DemonstrationSettings) -> None:
        self.by_item: dict[str, Demonstration] = {}
        self._generate, self._settings = generate, settings

    def accepts(self, candidate: Candidate) -> bool:
        limits = self._settings.max_question_words, self._settings.max_steps
        plain = next(iter(candidate.by_style.values()))
        asked = replace(plain, question=candidate.question)
        if not passes(replace(asked, n_steps=0, has_derivation=False), *limits):
            return False
        said = zero_shot(asked, self._generate)
        if said is None or not passes(said, *limits):
            return False
        self.by_item[candidate.item] = said
        return True


def _shown(candidate: Candidate, style: str, spoken: _Spoken | None) -> Demonstration:
    if style not in candidate.by_style:
        raise DatasetError(
            f"the pool does not show problem '{candidate.item}' in this style", got=f"'{style}'",
            fix=nearest(style, candidate.by_style),
        )  # fmt: skip
    own = candidate.by_style[style]
    if spoken is None:
        return own
    return replace(spoken.by_item[candidate.item], question=own.question)


def _written(
    record: Record, shown: list[Demonstration], settings: DemonstrationSettings, rationale: str
) -> Record:
    segments: list[Segment] = []
    for number, one in enumerate(shown, start=1):
        for part in ("question", "rationale", "answer"):
            if text := getattr(one, part):
                segments.append(Segment(f"demo_{number}.{part}", text))
    start = 0
    while start < len(record.prompt) - 1 and record.prompt[start].role == INSTRUCTION:
        start += 1
    chosen = {
        "method": settings.method,
        "k": settings.k,
        "seed": settings.seed,
        "rationale": rationale,
        "items": [one.item for one in shown],
    }
    return replace(
        record,
        prompt=(*record.prompt[:start], *segments, *record.prompt[start:]),
        meta={**record.meta, "demonstrations": chosen},
    )
