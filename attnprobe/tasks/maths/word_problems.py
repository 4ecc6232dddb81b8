"""Word problems on motion, work, money, ages, heads and legs, trees and sharing: ten templates."""

from fractions import Fraction
from math import gcd
from random import Random

from attnprobe.tasks.maths.arithmetic import (
    divide_by_place,
    draw_remainder_division,
    solve_division,
)
from attnprobe.tasks.maths.derivation import Number, Step, done, done_ratio, whole
from attnprobe.tasks.maths.template import (
    REMAINDER,
    Template,
    drawn_until,
    wholes,
    wording,
)

GROUP = "word_problems"
_ONE, _TWO = whole(1), whole(2)


def _draw_speed(rng: Random) -> tuple[Number, ...]:
    speed, hours, more = drawn_until(
        lambda: (rng.randint(11, 250), rng.randint(2, 12), rng.randint(2, 24)),
        lambda speed, hours, more: hours != more,
    )
    return wholes(speed * hours, hours, more)


def _draw_meeting(rng: Random) -> tuple[Number, ...]:
    first, second, hours = rng.randint(11, 150), rng.randint(11, 150), rng.randint(2, 30)
    return wholes((first + second) * hours, first, second)


def _draw_pursuit(rng: Random) -> tuple[Number, ...]:
    slow, faster_by, minutes = rng.randint(40, 300), rng.randint(5, 99), rng.randint(2, 40)
    return wholes(faster_by * minutes, slow + faster_by, slow)


def _draw_work(rng: Random) -> tuple[Number, ...]:
    """Draw two times that make a whole time together: k·m·(m+n) and k·n·(m+n) make k·m·n."""
    k, m, n = drawn_until(
        lambda: (rng.randint(1, 40), rng.randint(1, 9), rng.randint(1, 9)),
        lambda k, m, n: m != n and gcd(m, n) == 1 and k * m * n > 1,
    )
    return wholes(k * m * (m + n), k * n * (m + n))


def _derive_work(first: Number, second: Number) -> tuple[Step]:
    return (done(_ONE / done_ratio(_ONE.over(first) + _ONE.over(second))),)


def _draw_prices(rng: Random) -> tuple[Number, ...]:
    return wholes(rng.randint(2, 60), rng.randint(2, 999), rng.randint(2, 60), rng.randint(2, 999))


def _draw_change(rng: Random) -> tuple[Number, ...]:
    count, price = rng.randint(2, 30), rng.randint(2, 300)
    step = rng.choice((10, 50, 100))
    return wholes(count, price, (count * price // step + rng.randint(1, 5)) * step)


def _draw_age(rng: Random) -> tuple[Number, ...]:
    child, years, times = drawn_until(
        lambda: (rng.randint(2, 40), rng.randint(2, 40), rng.randint(2, 6)),
        lambda child, years, times: 18 <= (times - 1) * (child + years) <= 45,
    )
    return wholes(times * (child + years) - years, child, times)


def _derive_age(mother: Number, child: Number, times: Number) -> tuple[Step]:
    return (done(done(mother - done(child * times)) / done(times - _ONE)),)


def _draw_heads_and_legs(rng: Random) -> tuple[Number, ...]:
    chickens, rabbits = rng.randint(2, 500), rng.randint(2, 500)
    return wholes(chickens + rabbits, 2 * chickens + 4 * rabbits)


def _solve_heads_and_legs(heads: Fraction, legs: Fraction) -> tuple[Fraction, ...]:
    rabbits = legs / 2 - heads
    return heads - rabbits, rabbits


def _derive_heads_and_legs(heads: Number, legs: Number) -> tuple[Step, ...]:
    rabbits = done(done(legs - done(heads * _TWO)) / _TWO)
    return rabbits, done(heads - rabbits)


def _draw_trees(rng: Random) -> tuple[Number, ...]:
    distance, gaps = rng.randint(2, 50), rng.randint(5, 500)
    return wholes(distance * gaps, distance)


TEMPLATES = (
    Template(
        "speed_time",
        GROUP,
        _draw_speed,
        wording(
            zh="一辆汽车 {1} 小时行驶 {0} 千米。照这样的速度，{2} 小时行驶多少千米？",
            en="A car travels {0} km in {1} hours. "
            "At this speed, how many km does it travel in {2} hours?",
        ),
        lambda distance, hours, more: (distance * more / hours,),
        lambda distance, hours, more: (done(done(distance / hours) * more),),
    ),
    Template(
        "meeting",
        GROUP,
        _draw_meeting,
        wording(
            zh="甲、乙两地相距 {0} 千米，两辆车同时从两地相对开出，"
            "一辆每小时行 {1} 千米，另一辆每小时行 {2} 千米，几小时后相遇？",
            en="Two towns are {0} km apart. Two cars leave them at the same time and drive "
            "towards each other, one at {1} km per hour and the other at {2} km per hour. "
            "After how many hours do they meet?",
        ),
        lambda distance, first, second: (distance / (first + second),),
        lambda distance, first, second: (done(distance / done(first + second)),),
    ),
    Template(
        "pursuit",
        GROUP,
        _draw_pursuit,
        wording(
            zh="乙在甲前面 {0} 米，两人同时同向出发，甲每分钟走 {1} 米，乙每分钟走 {2} 米，"
            "几分钟后甲追上乙？",
            en="Bo is {0} m ahead of An. They set off at the same time in the same direction, "
            "An at {1} m per minute and Bo at {2} m per minute. "
            "After how many minutes does An catch up with Bo?",
        ),
        lambda gap, fast, slow: (gap / (fast - slow),),
        lambda gap, fast, slow: (done(gap / done(fast - slow)),),
    ),
    Template(
        "work_rate",
        GROUP,
        _draw_work,
        wording(
            zh="一个水池，单开甲管 {0} 分钟注满，单开乙管 {1} 分钟注满。两管同时开，几分钟注满？",
            en="One pipe alone fills a tank in {0} minutes, another alone in {1} minutes. "
            "How many minutes do both pipes together take?",
        ),
        lambda first, second: (first * second / (first + second),),
        _derive_work,
    ),
    Template(
        "price_quantity",
        GROUP,
        _draw_prices,
        wording(
            zh="买 {0} 本书，每本 {1} 元，又买 {2} 支笔，每支 {3} 元，一共要付多少元？",
            en="Someone buys {0} books at {1} yuan each and {2} pens at {3} yuan each. "
            "How many yuan is that in all?",
        ),
        lambda m, p, n, q: (m * p + n * q,),
        lambda m, p, n, q: (done(done(m * p) + done(n * q)),),
    ),
    Template(
        "change",
        GROUP,
        _draw_change,
        wording(
            zh="买 {0} 个杯子，每个 {1} 元，付给售货员 {2} 元，应找回多少元？",
            en="Someone buys {0} cups at {1} yuan each and pays with {2} yuan. "
            "How many yuan of change are due?",
        ),
        lambda count, price, paid: (paid - count * price,),
        lambda count, price, paid: (done(paid - done(count * price)),),
    ),
    Template(
        "age",
        GROUP,
        _draw_age,
        wording(
            zh="妈妈今年 {0} 岁，孩子今年 {1} 岁，几年后妈妈的年龄是孩子的 {2} 倍？",
            en="A mother is {0} years old and her child is {1}. "
            "In how many years will the mother be {2} times as old as the child?",
        ),
        lambda mother, child, times: ((mother - times * child) / (times - 1),),
        _derive_age,
    ),
    Template(
        "chicken_rabbit",
        GROUP,
        _draw_heads_and_legs,
        wording(
            zh="鸡兔同笼，一共有 {0} 个头、{1} 只脚，鸡和兔依次有多少只？",
            en="Chickens and rabbits in a cage have {0} heads and {1} legs in all. "
            "How many chickens and how many rabbits are there, in this order?",
        ),
        _solve_heads_and_legs,
        _derive_heads_and_legs,
    ),
    Template(
        "tree_planting",
        GROUP,
        _draw_trees,
        wording(
            zh="在一条长 {0} 米的路的一边种树，每隔 {1} 米种一棵，两端都种，一共要种多少棵树？",
            en="Trees are planted along one side of a road {0} m long, one every {1} m, "
            "at both ends too. How many trees are needed?",
        ),
        lambda length, distance: (length / distance + 1,),
        lambda length, distance: (done(done(length / distance) + _ONE),),
    ),
    Template(
        "sharing_remainder",
        GROUP,
        draw_remainder_division,
        wording(
            zh="把 {0} 颗糖平均分给 {1} 个小朋友，每人分到多少颗，还剩多少颗？",
            en="{0} sweets are shared equally among {1} children. "
            "How many does each child get, and how many are left?",
        ),
        solve_division,
        divide_by_place,
        separator=REMAINDER,
    ),
)
