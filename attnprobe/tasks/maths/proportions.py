"""Percentages, ratios and averages: eight templates."""

from fractions import Fraction
from random import Random

from attnprobe.tasks.maths.derivation import Number, Step, decimal, done, whole
from attnprobe.tasks.maths.template import (
    Template,
    drawn_until,
    wholes,
    with_digits,
    wording,
)

GROUP = "proportions"
_HUNDRED = whole(100)


def _draw_percent_of(rng: Random) -> tuple[Number, ...]:
    return wholes(rng.randint(2, 99), max(2, with_digits(rng, 1, 6)))


def _draw_percent_change(rng: Random) -> tuple[Number, ...]:
    percent = rng.randint(1, 30) * 5
    before = rng.randint(1, 499) * 20
    return wholes(before, before + before * percent // 100)


def _draw_discount(rng: Random) -> tuple[Number, ...]:
    return wholes(max(2, with_digits(rng, 1, 5)), rng.randint(1, 18) * 5)


def _draw_interest(rng: Random) -> tuple[Number, ...]:
    rate = decimal(Fraction(rng.randint(2, 19), 2))
    return whole(rng.randint(1, 999) * 100), rate, whole(rng.randint(2, 9))


def _draw_share(rng: Random) -> tuple[Number, ...]:
    first, second = drawn_until(
        lambda: (rng.randint(1, 20), rng.randint(1, 20)), lambda m, n: m != n
    )
    return wholes((first + second) * rng.randint(2, 999), first, second)


def _derive_share(total: Number, first: Number, second: Number) -> tuple[Step, ...]:
    part = done(total / done(first + second))
    return done(part * first), done(part * second)


def _draw_proportion(rng: Random) -> tuple[Number, ...]:
    return wholes(
        *drawn_until(
            lambda: (rng.randint(2, 99), rng.randint(2, 99), rng.randint(2, 999)),
            lambda a, b, c: a not in (b, c) and b * c % a == 0,
        )
    )


def _draw_average(rng: Random) -> tuple[Number, ...]:
    n_digits = rng.randint(1, 5)
    return wholes(
        *drawn_until(
            lambda: tuple(with_digits(rng, n_digits, n_digits) for _ in range(4)),
            lambda *numbers: sum(numbers) % 4 == 0,
        )
    )


def _draw_weighted(rng: Random) -> tuple[Number, ...]:
    return wholes(
        *drawn_until(
            lambda: tuple(rng.randint(2, high) for high in (50, 99, 50, 99)),
            lambda m, p, n, q: p != q and 100 * (m * p + n * q) % (m + n) == 0,
        )
    )


def _derive_weighted(m: Number, p: Number, n: Number, q: Number) -> tuple[Step]:
    return (done(done(done(m * p) + done(n * q)) / done(m + n)),)


TEMPLATES = (
    Template(
        "percent_of",
        GROUP,
        _draw_percent_of,
        wording(zh="{1} 的 {0}% 是多少？", en="What is {0}% of {1}?"),
        lambda percent, number: (number * percent / 100,),
        lambda percent, number: (done(done(number / _HUNDRED) * percent),),
    ),
    Template(
        "percent_change",
        GROUP,
        _draw_percent_change,
        wording(
            zh="一件商品的价格从 {0} 元涨到 {1} 元，上涨了百分之几？",
            en="A price rises from {0} yuan to {1} yuan. By how many percent does it rise?",
        ),
        lambda before, after: ((after / before - 1) * 100,),
        lambda before, after: (done(done(done(after - before) / before) * _HUNDRED),),
    ),
    Template(
        "discount",
        GROUP,
        _draw_discount,
        wording(
            zh="一件商品原价 {0} 元，现在降价 {1}% 出售，现价是多少元？",
            en="An article costs {0} yuan and is sold at {1}% off. What is the new price in yuan?",
        ),
        lambda price, percent: (price * (1 - percent / 100),),
        lambda price, percent: (done(done(price * done(_HUNDRED - percent)) / _HUNDRED),),
    ),
    Template(
        "simple_interest",
        GROUP,
        _draw_interest,
        wording(
            zh="本金 {0} 元，年利率 {1}%，按单利计算，存 {2} 年的利息一共是多少元？",
            en="A sum of {0} yuan earns simple interest at {1}% a year. "
            "How many yuan of interest does it earn in {2} years?",
        ),
        lambda principal, rate, years: (principal * rate * years / 100,),
        lambda principal, rate, years: (done(done(done(principal * rate) / _HUNDRED) * years),),
    ),
    Template(
        "ratio_share",
        GROUP,
        _draw_share,
        wording(
            zh="把 {0} 按 {1}:{2} 分成两份，两份依次是多少？",
            en="Divide {0} in the ratio {1}:{2}. What are the two shares, in this order?",
        ),
        lambda total, m, n: (total * m / (m + n), total * n / (m + n)),
        _derive_share,
    ),
    Template(
        "proportion",
        GROUP,
        _draw_proportion,
        wording(zh="已知 {0}:{1} = {2}:x，x 是多少？", en="Given {0}:{1} = {2}:x, what is x?"),
        lambda a, b, c: (b * c / a,),
        lambda a, b, c: (done(done(b * c) / a),),
    ),
    Template(
        "average",
        GROUP,
        _draw_average,
        wording(
            zh="求 {0}、{1}、{2}、{3} 这四个数的平均数。",
            en="What is the average of the four numbers {0}, {1}, {2} and {3}?",
        ),
        lambda *numbers: (sum(numbers, Fraction(0)) / 4,),
        lambda a, b, c, d: (done(done(done(done(a + b) + c) + d) / whole(4)),),
    ),
    Template(
        "weighted_average",
        GROUP,
        _draw_weighted,
        wording(
            zh="把 {0} 千克每千克 {1} 元的糖和 {2} 千克每千克 {3} 元的糖混合，"
            "混合后的糖平均每千克多少元？",
            en="We mix {0} kg of sweets at {1} yuan per kg with {2} kg of sweets at {3} yuan "
            "per kg. What is the average price in yuan per kg?",
        ),
        lambda m, p, n, q: ((m * p + n * q) / (m + n),),
        _derive_weighted,
    ),
)
