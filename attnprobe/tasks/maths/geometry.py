"""Shapes and equations: six templates."""

from random import Random

from attnprobe.tasks.maths.arithmetic import nonzero_digits, subtract_by_place
from attnprobe.tasks.maths.derivation import Number, done, whole
from attnprobe.tasks.maths.template import (
    Template,
    drawn_until,
    wholes,
    with_digits,
    wording,
)

GROUP = "geometry_and_equations"
_TWO, _HALF_TURN = whole(2), whole(180)


def _draw_sides(rng: Random) -> tuple[Number, ...]:
    short, long = sorted(
        drawn_until(
            lambda: (with_digits(rng, 1, 4), with_digits(rng, 1, 4)),
            lambda a, b: a != b and min(a, b) > 1,
        )
    )
    return wholes(long, short)


def _draw_triangle(rng: Random) -> tuple[Number, ...]:
    return wholes(rng.randint(2, 400), rng.randint(2, 400))


def _draw_box(rng: Random) -> tuple[Number, ...]:
    return wholes(*(rng.randint(2, 60) for _ in range(3)))


def _draw_angles(rng: Random) -> tuple[Number, ...]:
    return wholes(
        *drawn_until(lambda: (rng.randint(5, 160), rng.randint(5, 160)), lambda a, b: a + b <= 175)
    )


def _draw_one_step(rng: Random) -> tuple[Number, ...]:
    unknown, known = drawn_until(
        lambda: (with_digits(rng, 1, 5), with_digits(rng, 2, 5)),
        lambda x, a: nonzero_digits(a) > 1,
    )
    return wholes(known, unknown + known)


def _draw_two_step(rng: Random) -> tuple[Number, ...]:
    factor, unknown, known = rng.randint(2, 99), rng.randint(2, 999), with_digits(rng, 1, 4)
    return wholes(factor, known, factor * unknown + known)


TEMPLATES = (
    Template(
        "perimeter",
        GROUP,
        _draw_sides,
        wording(
            zh="一个长方形长 {0} 厘米，宽 {1} 厘米，它的周长是多少厘米？",
            en="A rectangle is {0} cm long and {1} cm wide. What is its perimeter in cm?",
        ),
        lambda length, width: (2 * length + 2 * width,),
        lambda length, width: (done(done(length + width) * _TWO),),
    ),
    Template(
        "area",
        GROUP,
        _draw_triangle,
        wording(
            zh="一个三角形底 {0} 厘米，高 {1} 厘米，它的面积是多少平方厘米？",
            en="A triangle has a base of {0} cm and a height of {1} cm. "
            "What is its area in square centimetres?",
        ),
        lambda base, height: (base * height / 2,),
        lambda base, height: (done(done(base * height) / _TWO),),
    ),
    Template(
        "volume",
        GROUP,
        _draw_box,
        wording(
            zh="一个长方体长 {0} 厘米，宽 {1} 厘米，高 {2} 厘米，它的体积是多少立方厘米？",
            en="A box is {0} cm long, {1} cm wide and {2} cm high. "
            "What is its volume in cubic centimetres?",
        ),
        lambda length, width, height: (length * width * height,),
        lambda length, width, height: (done(done(length * width) * height),),
    ),
    Template(
        "triangle_angle",
        GROUP,
        _draw_angles,
        wording(
            zh="一个三角形的两个角分别是 {0} 度和 {1} 度，第三个角是多少度？",
            en="Two angles of a triangle are {0} and {1} degrees. "
            "How many degrees is the third angle?",
        ),
        lambda first, second: (180 - (first + second),),
        lambda first, second: (done(done(_HALF_TURN - first) - second),),
    ),
    Template(
        "one_step_equation",
        GROUP,
        _draw_one_step,
        wording(zh="解方程：x + {0} = {1}，x 是多少？", en="Solve x + {0} = {1}. What is x?"),
        lambda known, total: (total - known,),
        lambda known, total: (subtract_by_place(total, known),),
    ),
    Template(
        "two_step_equation",
        GROUP,
        _draw_two_step,
        wording(zh="解方程：{0}x + {1} = {2}，x 是多少？", en="Solve {0}x + {1} = {2}. What is x?"),
        lambda factor, known, total: ((total - known) / factor,),
        lambda factor, known, total: (done(done(total - known) / factor),),
    ),
)
