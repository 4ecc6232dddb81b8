"""A problem before it is put in a style: what is given, the derivation, the answer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any

from attnprobe.errors import DatasetError, nearest
from attnprobe.tasks.styles.numbers import exact, number_line, number_of
from attnprobe.tasks.styles.wording import check_language
from attnprobe.types import Segment

READINGS = ("sums", "means", "bins", "merge")


@dataclass(frozen=True, slots=True)
class CoarseReading:
    """What "coarse" means in a dataset."""

    kind: str = "sums"
    """`sums` or `means` of blocks of terms, `bins` of values, or `merge`d derivation steps."""
    size: int = 3
    """Terms in a block, bins over the history's range, or steps merged into one."""

    def __post_init__(self) -> None:
        if self.kind not in READINGS:
            raise DatasetError(
                "unknown coarse reading", got=f"'{self.kind}'", fix=nearest(self.kind, READINGS)
            )
        if self.size < 2:
            raise DatasetError(
                "coarse reading changes nothing",
                where=f"coarse '{self.kind}'",
                got=f"size {self.size}",
                expected="2 or more",
            )


@dataclass(frozen=True, slots=True)
class Step:
    """One intermediate computation, on one line: `expression = result`."""

    expression: str
    """The computation. Negative operands stand in parentheses: `3*(-5) + 2`."""
    result: str = ""
    """Its printed result; empty when `expression` is a sentence that says all."""

    @property
    def text(self) -> str:
        """The line as it is written."""
        return f"{self.expression} = {self.result}" if self.result else self.expression


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, not yet in a style."""

    item: str
    """Name shared by the records that a problem becomes."""
    task: str
    """The problem family or template."""
    instruction: str
    """What is asked, as sentences of their own; the style adds how to write it."""
    given: tuple[Segment, ...]
    """What follows the instruction in the prompt (`history`, `question` …)."""
    steps: tuple[Step, ...]
    """The derivation. Each line holds a digit and is no bare list of numbers."""
    answer: tuple[str, ...]
    """The printed numbers of the answer."""
    history: tuple[str, ...] = ()
    """The printed terms that blocks and bins are made of; empty when there is no sequence."""
    separator: str = " "
    """Text between the numbers of an answer or a history."""
    language: str = "en"
    """Language of the instruction, `en` or `zh`."""
    coarse: CoarseReading = field(default_factory=CoarseReading)
    """What the style `coarse` writes; without a `history` always merged steps."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the records should carry (JSON values)."""

    def __post_init__(self) -> None:
        check_language(self.language)
        if not self.answer:
            raise DatasetError("problem has no answer", where=self.item)
        for number in self.answer:
            number_of(number)
        for step in self.steps:
            if not _is_readable_step(step.text):
                raise DatasetError(
                    "derivation step could not be told from the answer when read back",
                    where=self.item,
                    got=repr(step.text),
                    expected="one line with a digit, and not numbers alone",
                )

    @property
    def answer_text(self) -> str:
        """The answer as it is written."""
        return self.separator.join(self.answer)

    @property
    def values(self) -> list[int | float]:
        """The answer as numbers."""
        return [number_of(text) for text in self.answer]

    @property
    def reading(self) -> CoarseReading:
        """The coarse reading that can be written: merged steps when there is no history."""
        if self.history or self.coarse.kind == "merge":
            return self.coarse
        return CoarseReading("merge", self.coarse.size)


@dataclass(frozen=True, slots=True)
class CoarseText:
    """The coarse side of a problem, printed."""

    history: tuple[str, ...]
    answer: tuple[str, ...]
    meta: Mapping[str, Any]
    """The `coarse` entry of a record's meta: reading, size, the true values, the bins."""
    wording: Mapping[str, object]
    """What the instruction says about the reading."""


def coarse_text(problem: Problem) -> CoarseText:
    """Print the block values or bins of a problem.

    Blocks are counted back from the end of the history, so that the first coming block begins with
    the first answer; terms at the front that fill no block are left out. Bins divide the range of
    the history; beyond it they go on with the same width, so that a bin may be negative or ≥ b.

    Raises:
        DatasetError: If the answer does not fill whole blocks, or the history not one.
    """
    reading = problem.reading
    if reading.kind == "merge":
        ends = merged_results(problem.steps, reading.size)
        return CoarseText((), ends, _coarse_meta(reading, ends), {"size": reading.size})
    history = [exact(text) for text in problem.history]
    answer = [exact(text) for text in problem.answer]
    if reading.kind == "bins":
        low, width = _bins(history, reading.size)
        shown_history, shown = (tuple(_bin(v, low, width) for v in vs) for vs in (history, answer))
        extra = {"low": float(low), "width": float(width)}
        wording = {"low": _plain(low), "width": _plain(width)}
        return CoarseText(shown_history, shown, _coarse_meta(reading, shown) | extra, wording)
    size = reading.size
    if len(answer) % size or len(history) < size:
        raise DatasetError(
            "terms do not fill whole blocks",
            where=f"{problem.item}, coarse '{reading.kind}'",
            got=f"history {len(history)}, horizon {len(answer)}, blocks of {size}",
            expected="a horizon that is a multiple of the block, a history of at least one block",
            fix="change the horizon or the size of the coarse reading",
        )
    decimals = _decimals(answer[0]) + (reading.kind == "means")
    past, shown = (
        tuple(_plain(_block(total, reading, decimals)) for total in _sums(terms, size))
        for terms in (history[len(history) % size :], answer)
    )
    meta = _coarse_meta(reading, shown) | {"decimals": decimals}
    return CoarseText(past, shown, meta, {"size": size})


def coarse_values(answer: Sequence[int | float], coarse: Mapping[str, Any]) -> list[float]:
    """Reduce the numbers of an answer to coarse values, by the `coarse` entry of a record's meta.

    This is how a style that writes no block values is scored beside one that does. Numbers that
    fill no whole block are left out.
    """
    size = int(coarse["size"])
    kind = coarse["reading"]
    if kind == "bins":
        low, width = Decimal(repr(coarse["low"])), Decimal(repr(coarse["width"]))
        return [float(_bin(Decimal(repr(value)), low, width)) for value in answer]
    if kind == "merge":
        ends = [*answer[size - 1 :: size], *(answer[-1:] if len(answer) % size else [])]
        return [float(value) for value in ends]
    whole = len(answer) - len(answer) % size
    totals = _sums([Decimal(repr(value)) for value in answer[:whole]], size)
    if kind == "sums":
        return [float(total) for total in totals]
    return [float(_mean(total, size, int(coarse["decimals"]))) for total in totals]


def merge_steps(steps: Sequence[Step], size: int) -> tuple[Step, ...]:
    """Merge every `size` derivation steps into one.

    Where a step uses the result of an earlier one of its group, the earlier computation takes that
    result's place in parentheses; steps that nothing uses are written beside it, after a semicolon.
    """
    groups = (steps[start : start + size] for start in range(0, len(steps), size))
    return tuple(_merge(group) for group in groups)


def merged_results(steps: Sequence[Step], size: int) -> tuple[str, ...]:
    """Return the printed result of the last step of every group."""
    return tuple(step.result for step in merge_steps(steps, size))


def operand(text: str) -> str:
    """Write a number inside an expression: a negative one in parentheses."""
    return f"({text})" if text.startswith("-") else text


def _is_readable_step(text: str) -> bool:
    found = number_line(text)
    is_answer = found is not None and found.label in ("", "answer")
    has_digit = re.search("[0-9]", text) is not None
    return has_digit and not is_answer and "\n" not in text and text == text.strip()


def _merge(group: Sequence[Step]) -> Step:
    open_steps: list[Step] = []
    for step in group:
        expression, left = step.expression, []
        for earlier in open_steps:
            expression, used = _insert(expression, earlier)
            if not used:
                left.append(earlier)
        open_steps = [*left, Step(expression, step.result)]
    *beside, last = open_steps
    return Step("; ".join([*(step.text for step in beside), last.expression]), last.result)


def _insert(expression: str, earlier: Step) -> tuple[str, bool]:
    if not earlier.result:
        return expression, False
    value = re.escape(earlier.result)
    inside = re.escape(operand(earlier.result))
    pattern = rf"(?<![\w.]){inside}(?![\w.])|^{value}(?![\w.])"
    merged, count = re.subn(pattern, lambda _: f"({earlier.expression})", expression)
    return merged, count > 0


def _coarse_meta(reading: CoarseReading, answer: Sequence[str]) -> dict[str, Any]:
    numbers = [number_of(text) for text in answer if text]
    known = numbers and len(numbers) == len(answer)
    return {"reading": reading.kind, "size": reading.size, "answer": numbers if known else None}


def _sums(values: Sequence[Decimal], size: int) -> list[Decimal]:
    return [sum(values[start : start + size], Decimal(0)) for start in range(0, len(values), size)]


def _block(total: Decimal, reading: CoarseReading, decimals: int) -> Decimal:
    return _mean(total, reading.size, decimals) if reading.kind == "means" else total


def _mean(total: Decimal, size: int, decimals: int) -> Decimal:
    """Divide and round to what a mean is printed with: one decimal more than the terms."""
    return (total / size).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_EVEN)


def _decimals(value: Decimal) -> int:
    return -int(value.as_tuple().exponent)


def _plain(value: Decimal) -> str:
    return f"{value:f}" if value else f"{abs(value):f}"


def _bins(history: Sequence[Decimal], count: int) -> tuple[Decimal, Decimal]:
    """Divide the range of the history into `count` bins whose width the number format can print."""
    low, high = min(history), max(history)
    unit = Decimal(1).scaleb(-_decimals(low))
    n_units = int((high - low) / unit) + 1
    return low, -(-n_units // count) * unit


def _bin(value: Decimal, low: Decimal, width: Decimal) -> str:
    return str(int(((value - low) / width).to_integral_value(ROUND_FLOOR)))
