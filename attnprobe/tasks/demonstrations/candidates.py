"""Solved problems that can be shown, and the paper's filters."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from attnprobe.errors import DatasetError
from attnprobe.types import Record, Segment

INSTRUCTION, ANSWER = "instruction", "answer"
_SAME_IN_EVERY_STYLE = ("question", "history")
_CJK = r"[぀-ヿ㐀-䶿一-鿿가-힯豈-﫿]"
_WORD = re.compile(rf"{_CJK}|(?:(?!{_CJK})\S)+")
_NUMBER = re.compile(r"[-−]?\d+(?:[./]\d+)*")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A solved problem as it is shown."""

    item: str
    """The problem."""
    question: str
    """What is given, without the instruction."""
    rationale: str
    """What leads to the answer; empty if the style goes there at once."""
    answer: str
    """The answer."""
    n_steps: int = 0
    """Steps of the rationale."""
    has_derivation: bool = True
    """Whether the rationale spells computations out, so that the answer must be found in it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A problem of the pool, with its demonstration in every style it is written in."""

    item: str
    """The problem."""
    question: str
    """The text it is chosen by, the same whatever the style."""
    by_style: dict[str, Demonstration] = field(default_factory=dict)
    """How it is shown, by style."""


def candidates_of(pool: Iterable[Record]) -> list[Candidate]:
    """Gather the records of a pool by problem.

    Args:
        pool: Solved records, in one or more styles.

    Returns:
        One candidate per item, in the order of first appearance.

    Raises:
        DatasetError: If a record has no answer.
    """
    found: dict[str, Candidate] = {}
    for record in pool:
        candidate = found.setdefault(record.item, Candidate(record.item, question_of(record)))
        candidate.by_style[record.style] = demonstration_of(record)
    return list(found.values())


def question_of(record: Record) -> str:
    """Return the text a problem is chosen by.

    The segments `question` and `history`, which are the same in every style; without them all but
    the instruction.
    """
    same = [s for s in record.prompt if s.role in _SAME_IN_EVERY_STYLE]
    return record.joiner.join(s.text for s in same or given_of(record))


def given_of(record: Record) -> tuple[Segment, ...]:
    """Return the prompt without the instruction, or all of it if that is all there is."""
    return tuple(s for s in record.prompt if s.role != INSTRUCTION) or record.prompt


def demonstration_of(record: Record) -> Demonstration:
    """Turn a solved record into what is shown of it.

    Raises:
        DatasetError: If the record has no answer.
    """
    answers = [s for s in record.target if s.role == ANSWER]
    if not answers:
        raise DatasetError(
            "a record without an answer cannot be a demonstration",
            where=f"{record.where or 'record'} (id '{record.id}')",
            got=f"roles {', '.join(s.role for s in record.target) or 'none'}",
            expected=f"a target with role '{ANSWER}'",
        )  # fmt: skip
    reasons = [s for s in record.target if s.role != ANSWER]
    rationale = record.joiner.join(s.text for s in reasons)
    steps = [s for s in reasons if s.role.startswith("step")]
    return Demonstration(
        item=record.item,
        question=record.joiner.join(s.text for s in given_of(record)),
        rationale=rationale,
        answer=record.joiner.join(s.text for s in answers),
        n_steps=len(steps) or count_steps(rationale),
        has_derivation=bool(steps) and any(c.isalnum() for c in rationale),
    )


def count_words(text: str) -> int:
    """Count words; each Chinese, Japanese or Korean character is one."""
    return len(_WORD.findall(text))


def count_steps(rationale: str) -> int:
    """Count the lines of a rationale that are not blank."""
    return sum(1 for line in rationale.splitlines() if line.strip())


def answer_is_in(rationale: str, answer: str) -> bool:
    """Tell whether every number of an answer stands in a rationale as a number of its own.

    An answer without numbers must stand there as text.
    """
    numbers = _NUMBER.findall(answer)
    if not numbers:
        return answer.strip().casefold() in rationale.casefold()
    return set(numbers) <= set(_numbers_with_signs(rationale))


def _numbers_with_signs(text: str) -> Sequence[str]:
    """List the numbers of a text, with and without a sign: 5-3 may hold 3 or -3."""
    found = _NUMBER.findall(text)
    return [*found, *(number.lstrip("-−") for number in found)]


def passes(demonstration: Demonstration, max_question_words: int, max_steps: int) -> bool:
    """Apply the filters of Zhang et al. (2022): short question, few steps, answer in the rationale.

    The answer is looked for only in rationales that spell computations out; block values or dots
    do not hold it.
    """
    return (
        count_words(demonstration.question) <= max_question_words
        and demonstration.n_steps <= max_steps
        and (
            not demonstration.has_derivation
            or answer_is_in(demonstration.rationale, demonstration.answer)
        )
    )
