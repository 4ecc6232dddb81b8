"""One generated text, scored against its record."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite, sqrt

from attnprobe.tasks.scoring.exact import (
    find_numbers,
    is_in_lowest_terms,
    result_of,
    value_of,
)
from attnprobe.tasks.scoring.rules import (
    Rule,
    Value,
    coarse_size,
    every_kth,
    rule_of,
    words_of,
)
from attnprobe.tasks.styles import Style, TextSpan, style_of
from attnprobe.types import Record

VALID_ERROR = 0.4
"""Of the history's standard deviation: the error up to which a prediction of a chaotic sequence
counts as valid (Vlachos et al. 2020)."""


@dataclass(frozen=True, slots=True)
class RecordScore:
    """What one generated text got right."""

    id: str
    item: str
    style: str
    task: str
    split: str
    language: str
    rule: Rule
    """What was asked for."""
    answer: tuple[Value, ...]
    """What was read of the answer, at most as many values as were asked for."""
    coarse: tuple[Value, ...]
    """What was read of, or follows for, the coarse values."""
    step_passes: tuple[bool, ...]
    """For each number of the answer, whether it is within the rule."""
    derivation_passes: tuple[bool, ...] | None
    """For each step line of the record, whether that line was written with the right result."""

    @property
    def passed(self) -> bool | None:
        """Whether every number of the answer is within the rule; None for a negative control."""
        return all(self.step_passes) if self.rule.counts else None

    @property
    def coarse_passed(self) -> bool | None:
        """Whether every coarse value is; None for a control or where there are none."""
        if self.rule.coarse is None or not self.rule.counts:
            return None
        return self.rule.coarse.accepts(self.coarse)

    @property
    def is_exact(self) -> bool:
        """Whether the answer equals the true one, whatever the tolerance."""
        return self.answer == self.rule.answer.values and (
            not self.rule.lowest_terms or all(self.step_passes)
        )

    @property
    def coverage(self) -> float:
        """Share of the numbers asked for that could be read."""
        return len(self.answer) / self.rule.horizon

    @property
    def first_failure(self) -> int | None:
        """First number of the answer outside the rule, counted from 1; None without one."""
        return None if all(self.step_passes) else self.step_passes.index(False) + 1

    @property
    def mae(self) -> float | None:
        """Mean absolute error of the numbers read; None when none was."""
        return _mean(float(error) for error in self._errors)

    @property
    def nrmse(self) -> float | None:
        """Root mean square error of the numbers read, as a share of the history's range."""
        scale = self.rule.history_range
        mean_square = _mean(float(error) ** 2 for error in self._errors)
        return None if scale is None or mean_square is None else sqrt(mean_square) / scale

    @property
    def smape(self) -> float | None:
        """Mean of 2·|error| / (|predicted| + |true|) over the numbers read, from 0 to 2."""
        return _mean(
            float(2 * abs(read - true) / size) if (size := abs(read) + abs(true)) else 0.0
            for read, true in self._pairs
        )

    @property
    def valid_steps(self) -> int | None:
        """Steps before the error of a chaotic sequence first passes `VALID_ERROR`."""
        if not self.rule.chaotic:
            return None
        limit = VALID_ERROR * self.rule.history_spread
        valid = [float(error) <= limit for error in self._errors]
        return (*valid, False).index(False)

    @property
    def _pairs(self) -> list[tuple[Fraction, Fraction]]:
        return [
            (read, true)
            for read, true in zip(self.answer, self.rule.answer.values, strict=False)
            if isinstance(read, Fraction) and isinstance(true, Fraction)
        ]

    @property
    def _errors(self) -> list[Fraction]:
        return [abs(read - true) for read, true in self._pairs]


def score_record(record: Record, text: str, style: Style | None = None) -> RecordScore:
    """Score a generated text.

    Integer families pass when every number of the answer is right, real-valued ones when every
    number is within 2 % of the history's range, maths problems when every number equals the true
    one in value (unit words do not count; where lowest terms are asked for they are needed). An
    answer that cannot be read fails.

    Args:
        record: What the model was given.
        text: What it wrote.
        style: What reads the text; by default the record's own style.

    Returns:
        The score.

    Raises:
        RecordError: If the record says nothing to score against.
    """
    style = style or style_of(record)
    rule = rule_of(record)
    spans = style.parse(text, record)
    steps = [text[span.start : span.stop] for span in spans if span.role.startswith("step_")]
    answer, step_passes = _read_answer(record, text, style, spans, rule)
    results = [result_of(line) for line in steps]
    derived = tuple(result if result is not None else "" for result in results)
    return RecordScore(
        id=record.id,
        item=record.item,
        style=record.style,
        task=record.task,
        split=record.split,
        language=str(record.meta.get("language", "")),
        rule=rule,
        answer=answer,
        coarse=_read_coarse(record, text, style, derived, rule),
        step_passes=step_passes,
        derivation_passes=rule.derivation.step_passes(derived) if rule.derivation else None,
    )


def _read_answer(
    record: Record, text: str, style: Style, spans: Sequence[TextSpan], rule: Rule
) -> tuple[tuple[Value, ...], tuple[bool, ...]]:
    if rule.kind in ("integer", "real"):
        answer = _finite(style.read_answer(text, record), rule.horizon)
        return answer, rule.answer.step_passes(answer)
    written = next((span for span in spans if span.role == "answer"), None)
    if written is None:
        return (), (False,) * rule.horizon
    if rule.kind == "text":
        answer = (words_of(text[written.start : written.stop]),)
        return answer, rule.answer.step_passes(answer)
    # The parser may have cut `1,692` after the 1, so the rest of its line is read as well.
    line_end = text.find("\n", written.stop)
    line = text[written.start : line_end if line_end >= 0 else len(text)]
    numbers = find_numbers(line, rule.horizon)
    values = [value_of(number) for number in numbers]
    readable = values.index(None) if None in values else len(values)
    answer = tuple(value for value in values[:readable] if value is not None)
    passes = rule.answer.step_passes(answer)
    if rule.lowest_terms:
        written_low = [is_in_lowest_terms(number) for number in numbers[:readable]]
        passes = tuple(
            passed and low for passed, low in zip(passes, [*written_low, *passes], strict=False)
        )
    return answer, passes


def _read_coarse(
    record: Record, text: str, style: Style, derived: Sequence[Value], rule: Rule
) -> tuple[Value, ...]:
    if rule.coarse is None:
        return ()
    if rule.kind != "exact":
        return _finite(style.read_coarse(text, record), len(rule.coarse.values))
    if rule.derivation is not None and len(rule.derivation.values) == len(rule.coarse.values):
        return tuple(derived)
    ends = every_kth(derived, coarse_size(record))
    return tuple(end if end is not None else "" for end in ends)


def _finite(numbers: Iterable[float | int] | None, count: int) -> tuple[Fraction, ...]:
    """Take numbers exactly, up to the first that is none (a style of the user's may return any)."""
    finite: list[Fraction] = []
    for number in numbers or ():
        if len(finite) == count or not isfinite(number):
            break
        finite.append(Fraction(repr(number)))
    return tuple(finite)


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None
