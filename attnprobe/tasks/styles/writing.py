"""The styles: each writes a problem as prompt and target, and reads generated text back."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from attnprobe.tasks.styles.numbers import number_line, number_of
from attnprobe.tasks.styles.parsing import TextSpan, answer_line, cover, lines_of
from attnprobe.tasks.styles.problem import Problem, coarse_text, coarse_values, merge_steps
from attnprobe.tasks.styles.wording import instruction
from attnprobe.types import Record, Segment

Written = tuple[tuple[Segment, ...], tuple[Segment, ...]]
"""Prompt and target."""

_MAX_STEPS = 64
_INTERMEDIATE = re.compile(r"step_[0-9]+|coarse_history|coarse_answer")
_PIECE = re.compile(r"[0-9]| (?=[0-9])|[A-Za-z]+|[^\sA-Za-z0-9]")
_RESULT = re.compile(r"= *([-−]?[0-9]{1,15}(?:\.[0-9]{1,15})?)$")


@runtime_checkable
class Style(Protocol):
    """A way of prompting: how a problem is written, and how what a model wrote is read."""

    def write(self, problem: Problem) -> Written:
        """Write a problem; its texts hold no newline, which is what lies between them."""
        ...

    def parse(self, text: str, record: Record) -> tuple[TextSpan, ...]:
        """Cut generated text into roles; never raises, whatever the text."""
        ...

    def read_answer(self, text: str, record: Record) -> list[float] | None:
        """Read the numbers of the answer, at most as many as were asked for; None without any."""
        ...

    def read_coarse(self, text: str, record: Record) -> list[float] | None:
        """Read the coarse values: those written, or those that the answer amounts to."""
        ...


class BaseStyle:
    """What styles share: the answer is what `parse` calls `answer`."""

    def parse(self, text: str, record: Record) -> tuple[TextSpan, ...]:
        """Give roles in the order of the record's own target, one line for each line there."""
        lines = list(lines_of(text))
        roles = [s.role for s in record.target for _ in lines_of(s.text)]
        return cover(
            text, _joined(line.span(role) for line, role in zip(lines, roles, strict=False))
        )

    def read_answer(self, text: str, record: Record) -> list[float] | None:
        """Read the numbers in the role `answer`."""
        return _numbers_in("answer", text, self.parse(text, record), horizon_of(record))

    def read_coarse(self, text: str, record: Record) -> list[float] | None:
        """Reduce the answer to coarse values, where the record says how."""
        coarse = record.meta.get("coarse")
        answer = self.read_answer(text, record)
        if not coarse or not coarse.get("answer") or answer is None:
            return None
        return coarse_values(answer, coarse) or None


class Direct(BaseStyle):
    """The answer at once."""

    def write(self, problem: Problem) -> Written:
        """Write the answer and nothing else."""
        asked = instruction(problem.instruction, "direct", problem.language)
        return (Segment("instruction", asked), *problem.given), (_answer(problem),)

    def parse(self, text: str, record: Record) -> tuple[TextSpan, ...]:
        """Find the answer: the first line of numbers."""
        lines = list(lines_of(text))
        found = answer_line(lines, horizon_of(record))
        if found is None:
            return cover(text, [])
        index, numbers = found
        return cover(text, [lines[index].numbers_span(numbers, horizon_of(record), "answer")])


class Stepwise(BaseStyle):
    """Each intermediate computation on a line of its own, then the answer."""

    def write(self, problem: Problem) -> Written:
        """Write every step, one segment each."""
        asked = instruction(problem.instruction, "stepwise", problem.language)
        steps = _step_segments([step.text for step in problem.steps])
        return (Segment("instruction", asked), *problem.given), (*steps, _answer(problem))

    def parse(self, text: str, record: Record) -> tuple[TextSpan, ...]:
        """Find the answer; lines with a digit before it are steps, as many as the record has."""
        return _parse_steps(text, record)


class Coarse(BaseStyle):
    """The coarse answer first: block values, bins, or several derivation steps in one."""

    def write(self, problem: Problem) -> Written:
        """Write in the problem's coarse reading."""
        reading, coarse = problem.reading, coarse_text(problem)
        asked = instruction(problem.instruction, reading.kind, problem.language, **coarse.wording)
        prompt = (Segment("instruction", asked), *problem.given)
        if reading.kind == "merge":
            steps = [step.text for step in merge_steps(problem.steps, reading.size)]
            return prompt, (*_step_segments(steps), _answer(problem))
        past, coming = (problem.separator.join(side) for side in (coarse.history, coarse.answer))
        prompt = (*prompt, Segment("coarse_history", past))
        return prompt, (Segment("coarse_answer", coming), _answer(problem))

    def parse(self, text: str, record: Record) -> tuple[TextSpan, ...]:
        """Find the coarse answer, the first line of numbers, and after it the answer."""
        if _is_merged(record):
            return _parse_steps(text, record)
        lines = list(lines_of(text))
        spans = []
        first = answer_line(lines, 1, ("", "coarse", "answer"))
        if first is not None and first[1].label != "answer":
            index, numbers = first
            spans.append(lines[index].numbers_span(numbers, _n_coarse(record), "coarse_answer"))
            lines = lines[index + 1 :]
        found = answer_line(lines, horizon_of(record))
        if found is not None:
            index, numbers = found
            spans.append(lines[index].numbers_span(numbers, horizon_of(record), "answer"))
        return cover(text, spans)

    def read_coarse(self, text: str, record: Record) -> list[float] | None:
        """Read the coarse answer that was written; of merged steps, the result of each."""
        spans = self.parse(text, record)
        if not _is_merged(record):
            return _numbers_in("coarse_answer", text, spans, _n_coarse(record))
        steps = [text[s.start : s.stop] for s in spans if s.role.startswith("step_")]
        results = [match[1] for step in steps if (match := _RESULT.search(step))]
        return [float(number_of(result)) for result in results] or None


@dataclass(frozen=True, slots=True)
class Filler(BaseStyle):
    """A style with its intermediate text replaced by dots that say nothing.

    Roles stay as they are in the style, so the two can be compared: what the intermediate text is
    worth, apart from the room it gives (Pfau et al. 2024). Lengths match in tokens, for tokenizers
    that split numbers into digits: one dot for each digit, word, sign, and space before a number.
    """

    style: Style
    """The style whose text is replaced."""
    wording: str
    """Which sentence asks for it."""

    def write(self, problem: Problem) -> Written:
        """Write the style, then replace what lies between question and answer."""
        asked = instruction(problem.instruction, self.wording, problem.language)
        prompt, target = self.style.write(problem)
        return (
            (Segment("instruction", asked), *map(_filled, prompt[1:])),
            tuple(map(_filled, target)),
        )

    def parse(self, text: str, record: Record) -> tuple[TextSpan, ...]:
        """Find the answer; lines of dots before it are the intermediate text."""
        lines = list(lines_of(text))
        found = answer_line(lines, horizon_of(record))
        before = lines if found is None else lines[: found[0]]
        dots = [line for line in before if not line.text.strip(". ")]
        roles = [s.role for s in record.target if _INTERMEDIATE.fullmatch(s.role)]
        spans = [line.span(role) for line, role in zip(dots, roles, strict=False)]
        if found is not None:
            index, numbers = found
            spans.append(lines[index].numbers_span(numbers, horizon_of(record), "answer"))
        return cover(text, spans)


def filler(text: str) -> str:
    """Return dots that take as many tokens as `text`, about."""
    return " ".join("." * len(_PIECE.findall(text)))


def horizon_of(record: Record) -> int:
    """Return how many numbers a record's answer has."""
    if "horizon" in record.meta:
        return int(record.meta["horizon"])
    texts = [s.text for s in record.target if s.role == "answer"]
    found = number_line(texts[-1]) if texts else None
    return len(found.numbers) if found else 1


def _answer(problem: Problem) -> Segment:
    return Segment("answer", problem.answer_text)


def _step_segments(texts: Sequence[str]) -> tuple[Segment, ...]:
    return tuple(Segment(f"step_{k}", text) for k, text in enumerate(texts, start=1))


def _filled(segment: Segment) -> Segment:
    if not _INTERMEDIATE.fullmatch(segment.role):
        return segment
    return Segment(segment.role, filler(segment.text))


def _is_merged(record: Record) -> bool:
    return (record.meta.get("coarse") or {}).get("reading") == "merge"


def _n_coarse(record: Record) -> int:
    return len((record.meta.get("coarse") or {}).get("answer") or [0])


def _parse_steps(text: str, record: Record) -> tuple[TextSpan, ...]:
    lines = list(lines_of(text))
    found = answer_line(lines, horizon_of(record))
    before = lines if found is None else lines[: found[0]]
    n_steps = sum(s.role.startswith("step_") for s in record.target) if record.target else 0
    steps = [line for line in before if re.search("[0-9]", line.text)]
    spans = [
        line.span(f"step_{k}")
        for k, line in enumerate(steps[: n_steps if record.target else _MAX_STEPS], start=1)
    ]
    if found is not None:
        index, numbers = found
        spans.append(lines[index].numbers_span(numbers, horizon_of(record), "answer"))
    return cover(text, spans)


def _numbers_in(role: str, text: str, spans: Sequence[TextSpan], count: int) -> list[float] | None:
    for span in spans:
        found = number_line(text[span.start : span.stop]) if span.role == role else None
        if found is not None:
            return [float(number.value) for number in found.numbers[:count]]
    return None


def _joined(spans: Iterable[TextSpan]) -> list[TextSpan]:
    """Join neighbouring lines of one role."""
    joined: list[TextSpan] = []
    for span in spans:
        if joined and joined[-1].role == span.role:
            joined[-1] = TextSpan(joined[-1].start, span.stop, span.role)
        else:
            joined.append(span)
    return joined
