"""Numbers read out of text without loss: `5/6`, `1 1/2`, `1,692`, `-3.50`."""

import re
from fractions import Fraction
from math import gcd, isfinite
from typing import Any

from attnprobe.errors import RecordError

_DIGITS = "[0-9]{1,15}"
_TAIL = rf"(?:\.{_DIGITS}|/{_DIGITS})?(?![0-9])"
_GROUPED = r"[0-9]{1,3}(?:,[0-9]{3}){1,4}(?![0-9])"
_START = r"(?<![0-9.])[-−]?"
_MIXED = rf"{_DIGITS} {_DIGITS}/{_DIGITS}(?![0-9])"
_NUMBER = re.compile(rf"{_START}(?:{_MIXED}|(?:{_GROUPED}|{_DIGITS}){_TAIL})")
_UNGROUPED = re.compile(rf"{_START}(?:{_MIXED}|{_DIGITS}{_TAIL})")


def find_numbers(text: str, count: int) -> tuple[str, ...]:
    """Find the first numbers of a text, as they are written.

    A comma before three digits groups thousands, unless there would then be fewer numbers than
    asked for. A number has at most 15 digits in a row; longer ones are not numbers.
    """
    found = _NUMBER.findall(text)
    if len(found) < count:
        found = _UNGROUPED.findall(text)
    return tuple(found[:count])


def value_of(number: str) -> Fraction | None:
    """Return the exact value of a number as it is written; None when its denominator is 0."""
    plain = number.replace("−", "-").replace(",", "")
    unsigned = plain.removeprefix("-")
    sign = -1 if unsigned != plain else 1
    whole, _, part = unsigned.rpartition(" ")
    try:
        return sign * (Fraction(whole or 0) + Fraction(part))
    except ZeroDivisionError:
        return None


def is_in_lowest_terms(number: str) -> bool:
    """Say whether a number is written as a fraction that cannot be reduced."""
    top, bar, bottom = number.lstrip("-−").partition("/")
    return bool(bar) and top.isdecimal() and gcd(int(top), int(bottom)) == 1


def result_of(statement: str) -> Fraction | None:
    """Return the number on the right of a line's last `=`; None without one."""
    _, sign, right = statement.rpartition("=")
    found = find_numbers(right, 1) if sign else ()
    return value_of(found[0]) if found else None


def exact_of(value: Any, where: str) -> Fraction:
    """Return a JSON number exactly: a float is worth its shortest decimal.

    Raises:
        RecordError: If `value` is no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise RecordError(
            "answer cannot be scored",
            where=where,
            got=repr(value),
            expected="finite numbers under meta.answer, meta.history and meta.coarse.answer",
        )
    return Fraction(repr(value))
