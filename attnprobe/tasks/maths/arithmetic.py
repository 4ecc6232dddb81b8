"""Arithmetic with whole numbers: ten templates."""

from fractions import Fraction
from itertools import zip_longest
from random import Random

from attnprobe.tasks.maths.derivation import (
    Expression,
    Number,
    Operation,
    Step,
    done,
    whole,
)
from attnprobe.tasks.maths.template import (
    REMAINDER,
    Template,
    drawn_until,
    places_of,
    wholes,
    with_digits,
    wording,
)

GROUP = "arithmetic"


def add_by_place(total: Number, addend: Number) -> Step:
    """Add the addend's places, highest first."""
    highest, *lower = places_of(addend)
    running = done(total + highest)
    for place in lower:
        running = done(running + place)
    return running


def subtract_by_place(total: Number, subtrahend: Number) -> Step:
    """Take the subtrahend's places away, lowest first, as one does with borrows."""
    *higher, lowest = places_of(subtrahend)
    running = done(total - lowest)
    for place in reversed(higher):
        running = done(running - place)
    return running


def multiply_by_place(factor: Number, by: Number) -> Step:
    """Multiply by each place, then add the products up."""
    total, *products = (done(factor * place) for place in places_of(by))
    for product in products:
        total = done(total + product)
    return total


def divide_by_place(dividend: Number, divisor: Number) -> tuple[Step, Step]:
    """Divide as on paper: the quotient's places, highest first.

    Returns:
        The step whose result is the remainder, and the step whose result is the quotient.
    """
    highest, *lower = places_of(whole(dividend.exact // divisor.exact))
    rest = done(dividend - divisor * highest)
    quotient: Expression = highest
    for place in lower:
        rest = done(rest - divisor * place)
        quotient = quotient + place
    return rest, done(quotient)


def _add_by_column(first: Number, second: Number) -> tuple[Step]:
    """Add both numbers' digits of one column after another, lowest first, as one does on paper."""
    running: Expression | None = None
    columns = zip_longest(reversed(first.text), reversed(second.text), fillvalue="0")
    for place, column in enumerate(columns):
        for digit in column:
            if digit != "0":
                part = whole(int(digit) * 10**place)
                running = part if running is None else running + part
        if isinstance(running, Operation):
            running = done(running)
    if not isinstance(running, Step):
        raise TypeError("a sum needs two numbers above zero")
    return (running,)


def has_carry(first: int, second: int) -> bool:
    """Say whether some column, in the addition of two numbers, passes nine."""
    carry = 0
    while first or second:
        carry = (first % 10 + second % 10 + carry) // 10
        if carry:
            return True
        first, second = first // 10, second // 10
    return False


def has_borrow(first: int, second: int) -> bool:
    """Say whether some column of a subtraction takes more than it has."""
    return has_carry(first - second, second)


def nonzero_digits(number: int) -> int:
    """Count the digits that are not zero."""
    return sum(digit != "0" for digit in str(number))


_COLUMNS_WITHOUT_CARRY = tuple((a, b) for a in range(10) for b in range(10 - a))


def _draw_columns(rng: Random) -> tuple[int, ...]:
    """Draw two numbers column by column, so that no column passes nine."""
    n_digits = rng.randint(2, 6), rng.randint(2, 6)
    columns = [rng.choice(_COLUMNS_WITHOUT_CARRY) for _ in range(max(n_digits))]
    return tuple(
        sum(column[side] * 10**place for place, column in enumerate(columns[: n_digits[side]]))
        for side in (0, 1)
    )


def _draw_addition(rng: Random) -> tuple[Number, ...]:
    return wholes(
        *drawn_until(lambda: _draw_columns(rng), lambda a, b: a > 9 and nonzero_digits(b) > 1)
    )


def _draw_subtraction(rng: Random) -> tuple[Number, ...]:
    difference, subtrahend = (int(number.text) for number in _draw_addition(rng))
    return wholes(difference + subtrahend, subtrahend)


def _draw_carry(rng: Random) -> tuple[Number, ...]:
    return wholes(
        *drawn_until(
            lambda: (with_digits(rng, 2, 6), with_digits(rng, 2, 6)),
            lambda a, b: has_carry(a, b) and nonzero_digits(a) > 1 and nonzero_digits(b) > 1,
        )
    )


def _draw_borrow(rng: Random) -> tuple[Number, ...]:
    return wholes(
        *drawn_until(
            lambda: (with_digits(rng, 2, 6), with_digits(rng, 2, 6)),
            lambda a, b: a > b and has_borrow(a, b) and nonzero_digits(b) > 1,
        )
    )


def _draw_multiplication(rng: Random) -> tuple[Number, ...]:
    return wholes(
        *drawn_until(
            lambda: (with_digits(rng, 1, 4), with_digits(rng, 2, 2)),
            lambda a, b: a > 1 and nonzero_digits(b) > 1,
        )
    )


def _draw_exact_division(rng: Random) -> tuple[Number, ...]:
    divisor, quotient = _draw_divisor_and_quotient(rng)
    return wholes(divisor * quotient, divisor)


def draw_remainder_division(rng: Random) -> tuple[Number, ...]:
    """Draw a dividend and a divisor that does not go into it."""
    divisor, quotient = _draw_divisor_and_quotient(rng)
    return wholes(divisor * quotient + rng.randint(1, divisor - 1), divisor)


def _draw_divisor_and_quotient(rng: Random) -> tuple[int, ...]:
    return drawn_until(
        lambda: (with_digits(rng, 1, 3), with_digits(rng, 2, 3)),
        lambda divisor, quotient: divisor > 1 and nonzero_digits(quotient) > 1,
    )


def _draw_three_terms(rng: Random) -> tuple[Number, ...]:
    return wholes(
        *drawn_until(
            lambda: tuple(with_digits(rng, 1, 6) for _ in range(3)),
            lambda a, b, c: a + b > c,
        )
    )


def _draw_precedence(rng: Random) -> tuple[Number, ...]:
    return wholes(with_digits(rng, 1, 5), with_digits(rng, 2, 3), rng.randint(2, 99))


def _draw_parentheses(rng: Random) -> tuple[Number, ...]:
    return wholes(with_digits(rng, 1, 4), with_digits(rng, 1, 4), rng.randint(2, 99))


def solve_division(dividend: Fraction, divisor: Fraction) -> tuple[Fraction, ...]:
    """Quotient and remainder."""
    return Fraction(dividend // divisor), dividend % divisor


TEMPLATES = (
    Template(
        "addition",
        GROUP,
        _draw_addition,
        wording(zh="计算：{0} + {1} = ？", en="Calculate: {0} + {1} = ?"),
        lambda a, b: (a + b,),
        lambda a, b: (add_by_place(a, b),),
    ),
    Template(
        "subtraction",
        GROUP,
        _draw_subtraction,
        wording(zh="计算：{0} − {1} = ？", en="Calculate: {0} − {1} = ?"),
        lambda a, b: (a - b,),
        lambda a, b: (subtract_by_place(a, b),),
    ),
    Template(
        "multiplication",
        GROUP,
        _draw_multiplication,
        wording(zh="计算：{0} × {1} = ？", en="Calculate: {0} × {1} = ?"),
        lambda a, b: (a * b,),
        lambda a, b: (multiply_by_place(a, b),),
    ),
    Template(
        "exact_division",
        GROUP,
        _draw_exact_division,
        wording(zh="计算：{0} ÷ {1} = ？", en="Calculate: {0} ÷ {1} = ?"),
        lambda a, b: (a / b,),
        divide_by_place,
    ),
    Template(
        "remainder_division",
        GROUP,
        draw_remainder_division,
        wording(
            zh="计算：{0} ÷ {1}，写出商和余数。",
            en="Calculate {0} ÷ {1}. Give the quotient and the remainder.",
        ),
        solve_division,
        divide_by_place,
        separator=REMAINDER,
    ),
    Template(
        "carry_addition",
        GROUP,
        _draw_carry,
        wording(zh="计算：{0} + {1} = ？", en="Calculate: {0} + {1} = ?"),
        lambda a, b: (a + b,),
        _add_by_column,
    ),
    Template(
        "borrow_subtraction",
        GROUP,
        _draw_borrow,
        wording(zh="计算：{0} − {1} = ？", en="Calculate: {0} − {1} = ?"),
        lambda a, b: (a - b,),
        lambda a, b: (subtract_by_place(a, b),),
    ),
    Template(
        "three_terms",
        GROUP,
        _draw_three_terms,
        wording(zh="计算：{0} + {1} − {2} = ？", en="Calculate: {0} + {1} − {2} = ?"),
        lambda a, b, c: (a + b - c,),
        lambda a, b, c: (done(done(a + b) - c),),
    ),
    Template(
        "precedence",
        GROUP,
        _draw_precedence,
        wording(zh="计算：{0} + {1} × {2} = ？", en="Calculate: {0} + {1} × {2} = ?"),
        lambda a, b, c: (a + b * c,),
        lambda a, b, c: (done(a + done(b * c)),),
    ),
    Template(
        "parentheses",
        GROUP,
        _draw_parentheses,
        wording(zh="计算：({0} + {1}) × {2} = ？", en="Calculate: ({0} + {1}) × {2} = ?"),
        lambda a, b, c: ((a + b) * c,),
        lambda a, b, c: (done(done(a + b) * c),),
    ),
)
