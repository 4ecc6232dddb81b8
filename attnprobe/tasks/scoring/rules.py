"""What a record asks for, and how near an answer must come."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import sqrt
from typing import Any

from attnprobe.errors import RecordError, nearest
from attnprobe.tasks.scoring.exact import exact_of, find_numbers, result_of, value_of
from attnprobe.tasks.styles import number_line
from attnprobe.types import Record

Value = Fraction | str
"""A number, or an answer in words."""

TOLERANCE = Fraction(2, 100)
"""Of the history's range (max − min): how far each number of a real-valued family may be off."""

KINDS = ("integer", "real", "exact", "text")


@dataclass(frozen=True, slots=True)
class Target:
    """Values that are asked for, and how far each may be off."""

    values: tuple[Value, ...]
    tolerance: Fraction = Fraction(0)

    def step_passes(self, answer: Sequence[Value]) -> tuple[bool, ...]:
        """Say for each value whether the answer has it; a missing one fails."""
        return tuple(
            place < len(answer) and self._is_near(answer[place], value)
            for place, value in enumerate(self.values)
        )

    def accepts(self, answer: Sequence[Value]) -> bool:
        """Say whether every value passes."""
        return all(self.step_passes(answer))

    def _is_near(self, answer: Value, value: Value) -> bool:
        if isinstance(answer, str) or isinstance(value, str):
            return answer == value
        return abs(answer - value) <= self.tolerance


@dataclass(frozen=True, slots=True)
class Rule:
    """How a record is scored."""

    kind: str
    """`integer`, `real`, `exact` (numbers equal in value) or `text` (words equal)."""
    answer: Target
    coarse: Target | None
    """Block values, bins, or results of merged steps; None where the record has none."""
    derivation: Target | None
    """Result of each step line; None where the record has none."""
    history: tuple[Fraction, ...]
    lowest_terms: bool
    """Whether a fraction must be written in lowest terms."""
    counts: bool
    """False for a negative control, which has errors but no pass rate."""
    chaotic: bool
    """Whether a valid prediction time makes sense."""

    @property
    def horizon(self) -> int:
        """How many values are asked for."""
        return len(self.answer.values)

    @property
    def history_range(self) -> float | None:
        """Max − min of the history; None without one, or when all its terms are equal."""
        if not self.history:
            return None
        return float(max(self.history) - min(self.history)) or None

    @property
    def history_spread(self) -> float:
        """Standard deviation of the history (of all its terms, not of a sample)."""
        mean = sum(self.history, Fraction(0)) / len(self.history)
        return sqrt(sum((term - mean) ** 2 for term in self.history) / len(self.history))


def rule_of(record: Record) -> Rule:
    """Read from a record how it is to be scored.

    The answer is `meta.answer_text` or `meta.answer`, else the segment `answer` of the target. The
    kind is `meta.kind`; without it an answer in words is `text`, whole numbers are `integer`,
    others are `real` where there is a history and `exact` where there is none.

    Raises:
        RecordError: If the record says nothing to score against, or something that is no number.
    """
    where = record.where or f"record '{record.id}'"
    history = _history(record, where)
    values = _answer(record, where)
    kind = str(record.meta.get("kind") or _kind(values, history))
    if kind not in KINDS:
        raise RecordError(
            "unknown kind of answer",
            where=f"{where}, meta.kind",
            got=f"'{kind}'",
            fix=nearest(kind, KINDS),
        )
    if kind == "real" and not history:
        raise RecordError(
            "tolerance has nothing to be a share of",
            where=where,
            expected="a segment 'history' with numbers, or meta.history, for kind 'real'",
        )
    tolerance = TOLERANCE * (max(history) - min(history)) if kind == "real" else Fraction(0)
    derivation = _derivation(record)
    return Rule(
        kind=kind,
        answer=Target(values, tolerance),
        coarse=_coarse(record, derivation, kind, tolerance, where),
        derivation=Target(derivation, tolerance) if derivation else None,
        history=history,
        lowest_terms=record.meta.get("lowest_terms") is True,
        counts=record.meta.get("control") is not True and record.task != "random_walk",
        chaotic=record.meta.get("chaotic") is True and bool(history),
    )


def coarse_size(record: Record) -> int:
    """Return how many terms or steps make one coarse value, as the record says.

    Raises:
        RecordError: If it says nothing, or no whole number above 0.
    """
    size = _coarse_meta(record).get("size")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise RecordError(
            "coarse reading has no size",
            where=f"{record.where or repr(record.id)}, meta.coarse.size",
            got=repr(size),
            expected="a whole number above 0",
        )
    return size


def every_kth(results: Sequence[Value | None], k: int) -> tuple[Value | None, ...]:
    """Take the result of the last of every `k` steps, and the last of all."""
    return tuple(results[min(start + k, len(results)) - 1] for start in range(0, len(results), k))


def words_of(text: str) -> str:
    """Return a text as it is compared: one space between words, no case, no closing stop."""
    return " ".join(text.casefold().split()).rstrip(".。")


def _answer(record: Record, where: str) -> tuple[Value, ...]:
    written = [segment.text for segment in record.target if segment.role == "answer"]
    given = record.meta.get("answer")
    if isinstance(exact := record.meta.get("answer_text"), str) and isinstance(given, list):
        found = [value_of(number) for number in find_numbers(exact, len(given))]
        values = tuple(value for value in found if value is not None)
        if len(values) == len(given) > 0:
            return values
    if isinstance(given, list) and given:
        return tuple(exact_of(value, where) for value in given)
    if written:
        line = number_line(written[-1])
        if line is None:
            return (words_of(written[-1]),)
        return tuple(Fraction(repr(number.value)) for number in line.numbers)
    raise RecordError(
        "nothing to score against",
        where=where,
        expected="numbers under meta.answer or a target segment with the role 'answer'",
    )


def _kind(values: Sequence[Value], history: Sequence[Fraction]) -> str:
    if any(isinstance(value, str) for value in values):
        return "text"
    numbers = [value for value in (*values, *history) if isinstance(value, Fraction)]
    if all(number.denominator == 1 for number in numbers):
        return "integer"
    return "real" if history else "exact"


def _history(record: Record, where: str) -> tuple[Fraction, ...]:
    for segment in record.prompt:
        line = number_line(segment.text) if segment.role == "history" else None
        if line is not None:
            return tuple(Fraction(repr(number.value)) for number in line.numbers)
    given = record.meta.get("history")
    return tuple(exact_of(value, where) for value in given) if isinstance(given, list) else ()


def _derivation(record: Record) -> tuple[Fraction, ...]:
    """Return the results of the step lines; nothing when a line has none, as in filler."""
    results = [result_of(s.text) for s in record.target if s.role.startswith("step_")]
    return () if None in results else tuple(r for r in results if r is not None)


def _coarse(
    record: Record, derivation: Sequence[Fraction], kind: str, tolerance: Fraction, where: str
) -> Target | None:
    coarse = _coarse_meta(record)
    given = coarse.get("answer")
    if not isinstance(given, list) or not given:
        return None
    if kind == "exact":
        if not derivation:
            return None
        if len(derivation) == len(given):
            return Target(tuple(derivation))
        ends = every_kth(derivation, coarse_size(record))
        return Target(tuple(end for end in ends if end is not None))
    values = tuple(exact_of(value, where) for value in given)
    match coarse.get("reading"):
        case "sums":  # as near as the mean of a block must come, so that both readings agree
            return Target(values, tolerance * coarse_size(record))
        case "bins":
            return Target(values)
        case _:
            return Target(values, tolerance)


def _coarse_meta(record: Record) -> Mapping[str, Any]:
    coarse = record.meta.get("coarse")
    return coarse if isinstance(coarse, Mapping) else {}
