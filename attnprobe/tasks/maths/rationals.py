"""Fractions, decimals, rounding and units: ten templates."""

from collections.abc import Callable
from fractions import Fraction
from math import gcd, lcm
from random import Random

from attnprobe.tasks.maths.arithmetic import multiply_by_place, nonzero_digits
from attnprobe.tasks.maths.derivation import (
    Expression,
    Number,
    Step,
    decimal,
    done,
    done_ratio,
    ratio,
    whole,
)
from attnprobe.tasks.maths.template import (
    Language,
    Template,
    drawn_until,
    wholes,
    with_digits,
    wording,
)

GROUP = "fractions"

UNITS = {
    10: {"zh": ("厘米", "毫米"), "en": ("centimetres", "millimetres")},
    60: {"zh": ("小时", "分钟"), "en": ("hours", "minutes")},
    100: {"zh": ("米", "厘米"), "en": ("metres", "centimetres")},
    1000: {"zh": ("千米", "米"), "en": ("kilometres", "metres")},
}
"""The larger and the smaller unit, by how many of the smaller make one of the larger."""


def _draw_two(rng: Random, accept: Callable[..., bool]) -> tuple[Number, ...]:
    """Draw two proper fractions in lowest terms, with different denominators."""
    return wholes(
        *drawn_until(
            lambda: (*_draw_one(rng), *_draw_one(rng)),
            lambda a, b, c, d: b != d and accept(a, b, c, d),
        )
    )


def _draw_one(rng: Random) -> tuple[int, ...]:
    bottom = max(2, with_digits(rng, 1, 2))
    return drawn_until(
        lambda: (rng.randint(1, bottom - 1), bottom), lambda top, bottom: gcd(top, bottom) == 1
    )


def _expand(top: Number, bottom: Number, common: int) -> Expression:
    fraction = top.over(bottom)
    factor = common // bottom.exact
    if factor == 1:
        return fraction
    return Step(fraction, Number(fraction.value, f"{top.exact * factor}/{common}"))


def _combine(sign: str, a: Number, b: Number, c: Number, d: Number) -> tuple[Step]:
    common = lcm(b.exact.numerator, d.exact.numerator)
    left, right = _expand(a, b, common), _expand(c, d, common)
    both = left + right if sign == "+" else left - right
    top = both.value * common
    unreduced = Step(both, Number(both.value, f"{top}/{common}"))
    return (done_ratio(unreduced) if gcd(top.numerator, common) > 1 else unreduced,)


def _multiply(a: Number, b: Number, c: Number, d: Number) -> tuple[Step]:
    return (done_ratio(done(a * c).over(done(b * d))),)


def _simplify(top: Number, bottom: Number) -> tuple[Step, ...]:
    divisor = whole(gcd(top.exact.numerator, bottom.exact.numerator))
    return done(top / divisor), done(bottom / divisor), done_ratio(top.over(bottom))


def _compare(a: Number, b: Number, c: Number, d: Number) -> tuple[Step, ...]:
    """Over a common denominator, take the smaller from the larger, which shows which is which."""
    common = lcm(b.exact.numerator, d.exact.numerator)
    smaller, larger = sorted(
        (_expand(a, b, common), _expand(c, d, common)), key=lambda fraction: fraction.value
    )
    difference = larger - smaller
    return (Step(difference, Number(difference.value, f"{difference.value * common}/{common}")),)


def _draw_simplify(rng: Random) -> tuple[Number, ...]:
    factor, top, bottom = drawn_until(
        lambda: (rng.randint(2, 99), rng.randint(1, 99), rng.randint(2, 99)),
        lambda factor, top, bottom: bottom % top != 0 and top % bottom != 0,
    )
    return wholes(factor * top, factor * bottom)


def _decimal(digits: int, places: int) -> Number:
    return decimal(Fraction(digits, 10**places))


def _draw_decimal_addition(rng: Random) -> tuple[Number, ...]:
    a, m, b, n = drawn_until(
        lambda: (
            with_digits(rng, 2, 6),
            rng.randint(1, 3),
            with_digits(rng, 3, 6),
            rng.randint(1, 2),
        ),
        lambda a, m, b, n: a % 10 != 0 and b % 10 != 0 and a > 10**m,
    )
    return _decimal(a, m), _decimal(b, n)


def _add_decimals(a: Number, b: Number) -> tuple[Step]:
    units = whole(b.exact.numerator // b.exact.denominator)
    return (done(done(a + units) + decimal(b.exact - units.exact)),)


def _draw_decimal_multiplication(rng: Random) -> tuple[Number, ...]:
    a, places, b = drawn_until(
        lambda: (with_digits(rng, 2, 4), rng.randint(1, 2), with_digits(rng, 2, 2)),
        lambda a, places, b: a % 10 != 0 and nonzero_digits(b) == 2,
    )
    return _decimal(a, places), _decimal(b, 1)


def _multiply_decimals(a: Number, b: Number) -> tuple[Step]:
    scale_a, scale_b = (10 ** len(number.text.partition(".")[2]) for number in (a, b))
    product = multiply_by_place(whole(int(a.exact * scale_a)), whole(int(b.exact * scale_b)))
    return (done(product / whole(scale_a * scale_b)),)


def _draw_rounding(rng: Random) -> tuple[Number, ...]:
    """Draw a decimal and how many places to keep; never a tie, never a result that ends in 0."""
    digits, places, keep = drawn_until(
        lambda: (with_digits(rng, 4, 6), (places := rng.randint(3, 4)), rng.randint(2, places - 1)),
        _rounds_plainly,
    )
    return _decimal(digits, places), whole(keep)


def _rounds_plainly(digits: int, places: int, keep: int) -> bool:
    cut = 10 ** (places - keep)
    kept = (digits + cut // 2) // cut
    return digits % 10 != 0 and digits % cut != cut // 2 and kept % 10 != 0


def _solve_rounding(number: Fraction, places: Fraction) -> tuple[Fraction, ...]:
    scale = 10**places.numerator
    return (Fraction((2 * number * scale + 1) // 2, scale),)


def _derive_rounding(number: Number, places: Number) -> tuple[Step]:
    scale = whole(10**places.exact.numerator)
    scaled = done(number * scale)
    nearest = round(scaled.value)
    gap = decimal(abs(nearest - scaled.value))
    rounded = done(scaled + gap if nearest > scaled.value else scaled - gap)
    return (done(rounded / scale),)


def _draw_units(rng: Random) -> tuple[Number, ...]:
    factor = rng.choice(sorted(UNITS))
    return wholes(rng.randint(2, 999), rng.randint(2, factor - 1), factor)


def _ask_units(language: Language, operands: tuple[Number, ...]) -> str:
    large, small, factor = operands
    larger, smaller = UNITS[int(factor.exact)][language]
    if language == "zh":
        return f"{large.text} {larger} {small.text} {smaller}等于多少{smaller}？"
    return f"How many {smaller} are {large.text} {larger} and {small.text} {smaller}?"


def _fraction_sum(sign: str) -> Callable[..., tuple[Step]]:
    return lambda a, b, c, d: _combine(sign, a, b, c, d)


TEMPLATES = (
    Template(
        "fraction_addition",
        GROUP,
        lambda rng: _draw_two(rng, lambda a, b, c, d: True),
        wording(zh="计算：{0}/{1} + {2}/{3} = ？", en="Calculate: {0}/{1} + {2}/{3} = ?"),
        lambda a, b, c, d: (a / b + c / d,),
        _fraction_sum("+"),
        ratio,
    ),
    Template(
        "fraction_subtraction",
        GROUP,
        lambda rng: _draw_two(rng, lambda a, b, c, d: a * d > c * b),
        wording(zh="计算：{0}/{1} − {2}/{3} = ？", en="Calculate: {0}/{1} − {2}/{3} = ?"),
        lambda a, b, c, d: (a / b - c / d,),
        _fraction_sum("−"),
        ratio,
    ),
    Template(
        "fraction_multiplication",
        GROUP,
        lambda rng: _draw_two(rng, lambda a, b, c, d: gcd(a * c, b * d) > 1),
        wording(zh="计算：{0}/{1} × {2}/{3} = ？", en="Calculate: {0}/{1} × {2}/{3} = ?"),
        lambda a, b, c, d: (a * c / (b * d),),
        _multiply,
        ratio,
    ),
    Template(
        "fraction_division",
        GROUP,
        lambda rng: _draw_two(rng, lambda a, b, c, d: gcd(a * d, b * c) > 1),
        wording(zh="计算：({0}/{1}) ÷ ({2}/{3}) = ？", en="Calculate: ({0}/{1}) ÷ ({2}/{3}) = ?"),
        lambda a, b, c, d: (a * d / (b * c),),
        lambda a, b, c, d: _multiply(a, b, d, c),
        ratio,
    ),
    Template(
        "fraction_simplify",
        GROUP,
        _draw_simplify,
        wording(
            zh="把分数 {0}/{1} 化成最简分数。", en="Reduce the fraction {0}/{1} to lowest terms."
        ),
        lambda top, bottom: (top / bottom,),
        _simplify,
        ratio,
        lowest_terms=True,
    ),
    Template(
        "fraction_compare",
        GROUP,
        lambda rng: _draw_two(rng, lambda a, b, c, d: True),
        wording(
            zh="{0}/{1} 和 {2}/{3}，哪个分数更大？",
            en="Which fraction is larger, {0}/{1} or {2}/{3}?",
        ),
        lambda a, b, c, d: (max(a / b, c / d),),
        _compare,
        ratio,
    ),
    Template(
        "decimal_addition",
        GROUP,
        _draw_decimal_addition,
        wording(zh="计算：{0} + {1} = ？", en="Calculate: {0} + {1} = ?"),
        lambda a, b: (a + b,),
        _add_decimals,
    ),
    Template(
        "decimal_multiplication",
        GROUP,
        _draw_decimal_multiplication,
        wording(zh="计算：{0} × {1} = ？", en="Calculate: {0} × {1} = ?"),
        lambda a, b: (a * b,),
        _multiply_decimals,
    ),
    Template(
        "rounding",
        GROUP,
        _draw_rounding,
        wording(zh="把 {0} 四舍五入，保留 {1} 位小数。", en="Round {0} to {1} decimal places."),
        _solve_rounding,
        _derive_rounding,
    ),
    Template(
        "unit_conversion",
        GROUP,
        _draw_units,
        _ask_units,
        lambda large, small, factor: (large * factor + small,),
        lambda large, small, factor: (done(done(large * factor) + small),),
    ),
)
