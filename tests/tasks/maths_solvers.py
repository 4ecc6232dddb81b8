"""Independent solvers: they read nothing but a question's text, and go another way about it."""

import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import count

Answer = tuple[Fraction, ...]

UNIT_LENGTHS = {
    "厘米": 10,
    "毫米": 1,
    "米": 1000,
    "千米": 1_000_000,
    "centimetres": 10,
    "millimetres": 1,
    "metres": 1000,
    "kilometres": 1_000_000,
    "小时": 3600,
    "分钟": 60,
    "hours": 3600,
    "minutes": 60,
}


def numbers(text: str) -> list[Fraction]:
    return [Fraction(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


def evaluate(text: str) -> Fraction:
    """Evaluate an expression as a reader would: a plain `3/4` is one number."""
    python = re.sub(
        r"(\d+(?:\.\d+)?)(?:/(\d+))?",
        lambda found: (
            f"(Fraction('{found[1]}')/{found[2]})" if found[2] else f"Fraction('{found[1]}')"
        ),
        text.replace("×", "*").replace("÷", "/").replace("−", "-"),
    )
    return Fraction(eval(python, {"Fraction": Fraction}))


def statement_holds(text: str) -> bool:
    """Say whether an equation is true."""
    left, right = text.split(" = ")
    return evaluate(left) == evaluate(right)


def _formula(text: str) -> Answer:
    found = re.search(r"[:：] ?(.+) = [?？]", text)
    assert found is not None, text
    return (evaluate(found[1]),)


def _division(text: str) -> Answer:
    dividend, divisor = (int(number) for number in numbers(text))
    quotient = 0
    for size in (1000, 100, 10, 1):
        while divisor * (quotient + size) <= dividend:
            quotient += size
    return Fraction(quotient), Fraction(dividend - divisor * quotient)


def _simplify(text: str) -> Answer:
    top, bottom = (int(number) for number in numbers(text))
    for divisor in range(2, 100):
        while top % divisor == bottom % divisor == 0:
            top, bottom = top // divisor, bottom // divisor
    return (Fraction(top, bottom),)


def _compare(text: str) -> Answer:
    return (max(Fraction(part) for part in re.findall(r"\d+/\d+", text)),)


def _rounding(text: str) -> Answer:
    number, places = re.findall(r"\d+(?:\.\d+)?", text)
    quantum = Decimal(1).scaleb(-int(places))
    return (Fraction(Decimal(number).quantize(quantum, ROUND_HALF_UP)),)


def _units(text: str) -> Answer:
    names = sorted(UNIT_LENGTHS, key=len, reverse=True)
    found = re.findall(rf"(\d+) ({'|'.join(names)})", text)
    asked = re.search(rf"(?:等于多少|How many )({'|'.join(names)})", text)
    assert asked is not None
    total = sum(int(number) * UNIT_LENGTHS[unit] for number, unit in found)
    return (Fraction(total, UNIT_LENGTHS[asked[1]]),)


def _percent_of(text: str) -> Answer:
    percent = re.search(r"(\d+)%", text)
    number = re.search(r"(\d+)(?!\d|%)", text)
    assert percent is not None
    assert number is not None
    return (int(number[1]) * Fraction(f"{percent[1]}e-2"),)


def _percent_change(text: str) -> Answer:
    before, after = numbers(text)
    return (100 * after / before - 100,)


def _discount(text: str) -> Answer:
    price, percent = numbers(text)
    return (price - price * percent / 100,)


def _interest(text: str) -> Answer:
    principal, rate, years = numbers(text)
    return (sum((principal / 100 * rate for _ in range(int(years))), Fraction(0)),)


def _share(text: str) -> Answer:
    total, first, second = numbers(text)
    share = total / (1 + second / first)
    return share, total - share


def _proportion(text: str) -> Answer:
    a, b, c = numbers(text)
    return (c * (b / a),)


def _average(text: str) -> Answer:
    return (sum(number / 4 for number in numbers(text)),)  # type: ignore[return-value]


def _weighted(text: str) -> Answer:
    m, p, n, q = (int(number) for number in numbers(text))
    prices = [p] * m + [q] * n
    return (Fraction(sum(prices), len(prices)),)


def _speed(text: str) -> Answer:
    distance, hours = (
        Fraction(re.findall(pattern, text)[0])
        for pattern in (r"(\d+) (?:千米|km)", r"(\d+) (?:小时|hours)")
    )
    more = Fraction(re.findall(r"(\d+) (?:小时|hours)", text)[1])
    return (distance * (more / hours),)


def _meeting(text: str) -> Answer:
    distance, first, second = numbers(text)
    left, right = Fraction(0), distance
    for hours in count():
        if left >= right:
            assert left == right
            return (Fraction(hours),)
        left, right = left + first, right - second
    raise AssertionError


def _pursuit(text: str) -> Answer:
    gap, fast, slow = numbers(text)
    behind, ahead = Fraction(0), gap
    for minutes in count():
        if behind >= ahead:
            assert behind == ahead
            return (Fraction(minutes),)
        behind, ahead = behind + fast, ahead + slow
    raise AssertionError


def _work(text: str) -> Answer:
    first, second = numbers(text)
    return (1 / (1 / first + 1 / second),)


def _prices(text: str) -> Answer:
    m, p, n, q = (int(number) for number in numbers(text))
    return (Fraction(sum([p] * m + [q] * n)),)


def _change(text: str) -> Answer:
    cups, price, paid = (int(number) for number in numbers(text))
    for _ in range(cups):
        paid -= price
    return (Fraction(paid),)


def _age(text: str) -> Answer:
    mother, child, times = numbers(text)
    return (next(Fraction(y) for y in range(100) if mother + y == times * (child + y)),)


def _chickens(text: str) -> Answer:
    heads, legs = (int(number) for number in numbers(text))
    return next(
        (Fraction(chickens), Fraction(heads - chickens))
        for chickens in range(heads + 1)
        if 2 * chickens + 4 * (heads - chickens) == legs
    )


def _trees(text: str) -> Answer:
    length, distance = (int(number) for number in numbers(text))
    return (Fraction(len(range(0, length + 1, distance))),)


def _perimeter(text: str) -> Answer:
    long, short = numbers(text)
    return (long + short + long + short,)


def _triangle(text: str) -> Answer:
    base, height = numbers(text)
    return (base / 2 * height,)


def _box(text: str) -> Answer:
    length, width, height = numbers(text)
    return (height * width * length,)


def _angle(text: str) -> Answer:
    first, second = numbers(text)
    return (180 - (first + second),)


def _equation(text: str) -> Answer:
    found = re.search(r"(\d*)x \+ (\d+) = (\d+)", text)
    assert found is not None
    factor, known, total = int(found[1] or 1), int(found[2]), int(found[3])
    low, high = 0, total
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if factor * middle + known < total else (low, middle)
    assert factor * low + known == total
    return (Fraction(low),)


SOLVERS: dict[str, Callable[[str], Answer]] = {
    "addition": _formula,
    "subtraction": _formula,
    "multiplication": _formula,
    "exact_division": _formula,
    "remainder_division": _division,
    "carry_addition": _formula,
    "borrow_subtraction": _formula,
    "three_terms": _formula,
    "precedence": _formula,
    "parentheses": _formula,
    "fraction_addition": _formula,
    "fraction_subtraction": _formula,
    "fraction_multiplication": _formula,
    "fraction_division": _formula,
    "fraction_simplify": _simplify,
    "fraction_compare": _compare,
    "decimal_addition": _formula,
    "decimal_multiplication": _formula,
    "rounding": _rounding,
    "unit_conversion": _units,
    "percent_of": _percent_of,
    "percent_change": _percent_change,
    "discount": _discount,
    "simple_interest": _interest,
    "ratio_share": _share,
    "proportion": _proportion,
    "average": _average,
    "weighted_average": _weighted,
    "speed_time": _speed,
    "meeting": _meeting,
    "pursuit": _pursuit,
    "work_rate": _work,
    "price_quantity": _prices,
    "change": _change,
    "age": _age,
    "chicken_rabbit": _chickens,
    "tree_planting": _trees,
    "sharing_remainder": _division,
    "perimeter": _perimeter,
    "area": _triangle,
    "volume": _box,
    "triangle_angle": _angle,
    "one_step_equation": _equation,
    "two_step_equation": _equation,
}
