"""What a maths template is, and the small tools that templates are written with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random
from typing import Literal

from attnprobe.tasks.maths.derivation import (
    Number,
    Step,
    decimal,
    list_steps,
    merge_steps,
    whole,
)

Language = Literal["zh", "en"]
Wording = Callable[[Language, tuple[Number, ...]], str]

COMMA: Mapping[Language, str] = {"zh": ", ", "en": ", "}
REMAINDER: Mapping[Language, str] = {"zh": " 余 ", "en": " remainder "}


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of problem: how to draw, ask, solve and derive it."""

    name: str
    group: str
    draw: Callable[[Random], tuple[Number, ...]]
    """Draws the operands."""
    ask: Wording
    """Words the question."""
    solve: Callable[..., tuple[Fraction, ...]]
    """The exact answers from the operands' values, independent of the derivation."""
    derive: Callable[..., tuple[Step, ...]]
    """The last steps of the derivation, from the operands as numbers."""
    write_answer: Callable[[Fraction], Number] = decimal
    """How an answer is written: as a decimal or as a fraction."""
    separator: Mapping[Language, str] = field(default_factory=lambda: COMMA)
    """What stands between the numbers of an answer that has several."""
    lowest_terms: bool = False
    """Whether only the answer in lowest terms is right, not every number equal to it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One instance of a template."""

    template: Template
    operands: tuple[Number, ...]

    def question(self, language: Language) -> str:
        """Word the question."""
        return self.template.ask(language, self.operands)

    @property
    def answer(self) -> tuple[Number, ...]:
        """The exact answer, as it is written."""
        values = self.template.solve(*(operand.exact for operand in self.operands))
        return tuple(self.template.write_answer(value) for value in values)

    def answer_text(self, language: Language) -> str:
        """Word the answer."""
        return self.template.separator[language].join(number.text for number in self.answer)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The derivation."""
        return list_steps(self.template.derive(*self.operands))

    def merged_steps(self, k: int) -> tuple[str, ...]:
        """The derivation with every `k` steps merged into one."""
        return merge_steps(self.template.derive(*self.operands), k)


def wording(*, zh: str, en: str) -> Wording:
    """Word a text by format strings whose fields `{0}`, `{1}` … are the operands."""
    texts = {"zh": zh, "en": en}

    def word(language: Language, numbers: tuple[Number, ...]) -> str:
        return texts[language].format(*(number.text for number in numbers))

    return word


def wholes(*values: int) -> tuple[Number, ...]:
    """Turn integers into operands."""
    return tuple(whole(value) for value in values)


def with_digits(rng: Random, low: int, high: int) -> int:
    """Draw a number of `low` to `high` digits, each count equally likely."""
    digits = rng.randint(low, high)
    return rng.randint(10 ** (digits - 1), 10**digits - 1)


def places_of(number: Number) -> tuple[Number, ...]:
    """Take an integer apart by place, highest first, without zeros: 305 is 300 and 5."""
    digits = number.text
    return tuple(
        whole(int(digit) * 10 ** (len(digits) - 1 - index))
        for index, digit in enumerate(digits)
        if digit != "0"
    )


def drawn_until(
    draw: Callable[[], tuple[int, ...]], accept: Callable[..., bool]
) -> tuple[int, ...]:
    """Draw integers again until they make a fit problem."""
    while not accept(*(values := draw())):
        pass
    return values
