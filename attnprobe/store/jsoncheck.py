"""Takes values out of JSON that may come from a stranger: of the right kind, or refused."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from attnprobe.errors import FormatError
from attnprobe.store.layout import MAX_NAME_BYTES

MAX_NUMBER = 2**62
MAX_NESTING = 64
_HEX = re.compile("[0-9a-f]*")


def take(value: Any, name: str, kind: type, where: str) -> Any:
    """Return a member of an object.

    Raises:
        FormatError: If it is missing or of another kind.
    """
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        raise FormatError(
            f"'{name}' is missing or of the wrong kind", where=where, expected=kind.__name__
        )
    return found


def take_shallow(value: Any, name: str, where: str) -> dict[str, Any]:
    """Return a member that is an object of free form, nested no deeper than `MAX_NESTING`."""
    found, level = take(value, name, dict, where), [value[name]]
    for _ in range(MAX_NESTING):
        level = [
            inner
            for entry in level
            for inner in (entry.values() if isinstance(entry, dict) else entry)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return found
    raise FormatError(f"'{name}' is nested too deeply", where=where, expected=MAX_NESTING)


def take_whole(value: Any, name: str, where: str) -> int:
    """Return a member that is a whole number from 0 on."""
    number = take(value, name, int, where)
    if not 0 <= number < MAX_NUMBER:
        raise FormatError(f"'{name}' is out of range", where=where, got=number)
    return number


def take_numbers(value: Any, name: str, where: str, length: int | None = None) -> list[int]:
    """Return a member that is a list of whole numbers from 0 on."""
    numbers = take(value, name, list, where)
    fits = length is None or len(numbers) == length
    if not (fits and set(map(type, numbers)) <= {int} and _in_range(numbers)):
        raise _damaged(name, where, "whole numbers", length)
    return numbers


def take_errors(value: Any, name: str, where: str, length: int) -> list[float]:
    """Return a member that is a list of finite numbers."""
    numbers = take(value, name, list, where)
    good = len(numbers) == length and set(map(type, numbers)) <= {int, float}
    if not (good and all(map(math.isfinite, numbers))):
        raise _damaged(name, where, "finite numbers", length)
    return numbers


def take_names(value: Any, name: str, where: str, length: int | None = None) -> list[str]:
    """Return a member that is a list of names."""
    names = take(value, name, list, where)
    fits = length is None or len(names) == length
    if not (fits and set(map(type, names)) <= {str} and _are_names(names)):
        raise _damaged(name, where, f"names of at most {MAX_NAME_BYTES} bytes", length)
    return names


def take_hash(value: Any, name: str, where: str, n_characters: int = 64) -> str:
    """Return a member that is a hash in hex."""
    text = take(value, name, str, where)
    return take_hashes({name: [text]}, name, where, 1, n_characters)[0]


def take_hashes(
    value: Any, name: str, where: str, length: int, n_characters: int = 64
) -> list[str]:
    """Return a member that is a list of hashes in hex."""
    hashes = take(value, name, list, where)
    good = len(hashes) == length and set(map(type, hashes)) <= {str}
    if not (good and set(map(len, hashes)) <= {n_characters} and _HEX.fullmatch("".join(hashes))):
        raise _damaged(name, where, f"hashes of {n_characters} hex digits", length)
    return hashes


def take_repeated(value: Any, name: str, where: str, length: int) -> list[str]:
    """Return a column of names that was written by `repeated`."""
    column = take(value, name, dict, where)
    names = take_names(column, "names", f"{where}, '{name}'")
    numbers = take_numbers(column, "of", f"{where}, '{name}'", length)
    if numbers and max(numbers) >= len(names):
        raise FormatError(
            f"'{name}' points outside its names", where=where, got=max(numbers),
            expected=f"below {len(names)}",
        )  # fmt: skip
    return list(map(names.__getitem__, numbers))


def repeated(column: Sequence[str]) -> dict[str, Any]:
    """Write a column in which few names come again and again: each name once, and numbers."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(column))}
    return {"names": list(numbers), "of": [numbers[name] for name in column]}


def short(value: np.floating[Any] | float) -> float:
    """Return a float32 as the number with the fewest digits that reads as the same float32."""
    return float(str(np.float32(value)))


def _are_names(names: Sequence[str]) -> bool:
    try:
        together = "".join(names).encode("utf-8")
    except UnicodeEncodeError:
        return False
    longest = max(map(len, names), default=0)
    if 4 * longest > MAX_NAME_BYTES:  # only then can one of them have too many bytes
        longest = max(len(name.encode("utf-8")) for name in names)
    return b"\0" not in together and longest <= MAX_NAME_BYTES


def _in_range(numbers: Sequence[int]) -> bool:
    return not numbers or (min(numbers) >= 0 and max(numbers) < MAX_NUMBER)


def _damaged(name: str, where: str, kind: str, length: int | None) -> FormatError:
    count = "" if length is None else f"{length} "
    return FormatError(f"'{name}' is damaged", where=where, expected=f"{count}{kind}")
