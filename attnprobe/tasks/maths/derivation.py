"""Derivations: expressions, steps that name their results, and steps merged by substitution.

A derivation is a graph of steps. Each step states one equation and stands, in the steps after it,
for its result; merging k steps into one puts its expression in the result's place instead.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

_LEVEL = {"+": 1, "−": 1, "×": 2, "÷": 2, "/": 2}
_ATOM = 3
_PARENTHESISED_ON_THE_RIGHT_OF = {"+": (), "−": (1,), "×": (1,), "÷": (1, 2), "/": (1, 2)}


class Expression:
    """Something with an exact value that can be written out."""

    __slots__ = ()

    @property
    def value(self) -> Fraction:
        """The exact value."""
        raise NotImplementedError

    def __add__(self, other: "Expression") -> "Operation":
        return Operation("+", self, other)

    def __sub__(self, other: "Expression") -> "Operation":
        return Operation("−", self, other)

    def __mul__(self, other: "Expression") -> "Operation":
        return Operation("×", self, other)

    def __truediv__(self, other: "Expression") -> "Operation":
        return Operation("÷", self, other)

    def over(self, denominator: "Expression") -> "Operation":
        """Write a fraction: `3/4`, or `(1 + 2)/4` where a part is not a plain number."""
        return Operation("/", self, denominator)


@dataclass(frozen=True, slots=True, eq=False)
class Number(Expression):
    """A number and how it is written: 3/4 can be written `3/4`, `6/8` or `0.75`."""

    exact: Fraction
    text: str

    @property
    def value(self) -> Fraction:
        """The exact value."""
        return self.exact

    @property
    def json(self) -> int | float | str:
        """The number for a JSON file: an integer, a short decimal, or `p/q` as a string."""
        if self.exact.denominator == 1:
            return self.exact.numerator
        return self.text if "/" in self.text else float(self.text)


@dataclass(frozen=True, slots=True, eq=False)
class Operation(Expression):
    """Two expressions and the sign between them; `/` is the bar of a fraction."""

    sign: Literal["+", "−", "×", "÷", "/"]
    left: Expression
    right: Expression

    @property
    def value(self) -> Fraction:
        """The exact value."""
        left, right = self.left.value, self.right.value
        match self.sign:
            case "+":
                return left + right
            case "−":
                return left - right
            case "×":
                return left * right
            case _:
                return left / right


@dataclass(frozen=True, slots=True, eq=False)
class Step(Expression):
    """A true equation; in later expressions it stands for its result."""

    expression: Expression
    result: Number

    @property
    def value(self) -> Fraction:
        """The exact value of the result."""
        return self.result.exact

    def __str__(self) -> str:
        return _state(self, frozenset())


def whole(value: int) -> Number:
    """Write an integer as a number."""
    return Number(Fraction(value), str(value))


def decimal(value: Fraction) -> Number:
    """Write a number as an integer or a terminating decimal where it is one, else as p/q."""
    places = _decimal_places(value.denominator)
    if places is None:
        return Number(value, str(value))
    if places == 0:
        return whole(value.numerator)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return Number(value, f"{'-' * (value < 0)}{digits[:-places]}.{digits[-places:]}")


def ratio(value: Fraction) -> Number:
    """Write a number as an integer or a fraction in lowest terms."""
    return Number(value, str(value))


def done(expression: Expression) -> Step:
    """Work an expression out, as an integer or decimal where it is one."""
    return Step(expression, decimal(expression.value))


def done_ratio(expression: Expression) -> Step:
    """Work an expression out, as an integer or a fraction in lowest terms."""
    return Step(expression, ratio(expression.value))


def list_steps(roots: Sequence[Step]) -> tuple[Step, ...]:
    """List the steps that lead to the roots, each after those it uses."""
    found: dict[int, Step] = {}
    for root in roots:
        _visit(root, found)
    return tuple(found.values())


def _visit(step: Step, found: dict[int, Step]) -> None:
    if id(step) not in found:
        for used in _steps_used(step.expression):
            _visit(used, found)
        found[id(step)] = step


def merge_steps(roots: Sequence[Step], k: int) -> tuple[str, ...]:
    """Merge every `k` steps of the derivation that leads to the roots into one line.

    A result that is used once, and on the same line, gives way to its expression; every other
    result, and every root, is stated, so that no line speaks of a number that was never derived.

    Args:
        roots: The last steps.
        k: How many steps make one line; the last line may merge fewer.

    Returns:
        The lines.
    """
    steps = list_steps(roots)
    stated = {id(root) for root in roots}
    users: dict[int, list[int]] = {}
    for step in steps:
        for used in _steps_used(step.expression):
            users.setdefault(id(used), []).append(id(step))
    lines: list[str] = []
    for start in range(0, len(steps), k):
        group = steps[start : start + k]
        ids = {id(step) for step in group}
        inlined = frozenset(
            id(step)
            for step in group
            if id(step) not in stated
            and len(users.get(id(step), ())) == 1
            and users[id(step)][0] in ids
        )
        lines.append("; ".join(_state(step, inlined) for step in group if id(step) not in inlined))
    return tuple(lines)


def _decimal_places(denominator: int) -> int | None:
    places = 0
    for prime in (2, 5):
        power = 0
        while denominator % prime == 0:
            denominator //= prime
            power += 1
        places = max(places, power)
    return places if denominator == 1 else None


def _steps_used(expression: Expression) -> Iterator[Step]:
    match expression:
        case Step():
            yield expression
        case Operation(left=left, right=right):
            yield from _steps_used(left)
            yield from _steps_used(right)


def _state(step: Step, inlined: frozenset[int]) -> str:
    return f"{_write(step.expression, inlined)[0]} = {step.result.text}"


def _write(expression: Expression, inlined: frozenset[int]) -> tuple[str, int]:
    """Write an expression, with how tightly its outermost sign binds."""
    match expression:
        case Number(text=text):
            return text, _ATOM
        case Step(expression=inner, result=result):
            return _write(inner, inlined) if id(expression) in inlined else (result.text, _ATOM)
        case Operation(sign="/", left=left, right=right):
            parts = [_write(part, inlined) for part in (left, right)]
            top, bottom = (text if level == _ATOM else f"({text})" for text, level in parts)
            plain = all(level == _ATOM for _, level in parts)
            return f"{top}/{bottom}", _ATOM if plain else _LEVEL["/"]
        case Operation(sign=sign, left=left, right=right):
            level = _LEVEL[sign]
            left_text, left_level = _write(left, inlined)
            right_text, right_level = _write(right, inlined)
            if left_level < level:
                left_text = f"({left_text})"
            if right_level in _PARENTHESISED_ON_THE_RIGHT_OF[sign]:
                right_text = f"({right_text})"
            return f"{left_text} {sign} {right_text}", level
        case _:
            raise TypeError(type(expression).__name__)
