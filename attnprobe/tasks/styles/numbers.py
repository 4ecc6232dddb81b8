"""Numbers as text: how they are printed in a prompt, and how they are found in generated text."""

import re
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from attnprobe.errors import DatasetError

SEPARATOR_CHARACTERS = " \t,;|，；、"
_NUMBER = re.compile(r"[-+−]?[0-9]{1,15}(?:\.[0-9]{1,15}|/[0-9]{1,15})?%?")
_OPENING = " \t\r([{（【「*_#`'\"$¥￥€£=>"
_CLOSING = " \t\r)]}）】」*_`'\".。…,，;；!！-"
_CONNECTIVES = frozenset({"", "remainder", "r", "余", "余数", "and", "和", "与"})
_UNIT = re.compile(r"[A-Za-z一-鿿°²³/$¥€£]{1,12}")
_LABEL_LENGTH = 60
_COARSE_WORDS = ("sum", "block", "mean", "average", "bin", "之和", "和", "块", "平均", "区间")
_ANSWER_WORDS = ("answer", "next", "number", "result", "答", "接下来", "后续", "结果")


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """How the numbers of a dataset are printed."""

    digits: int = 5
    """The most digits a value may have, before and after the point together; 1 to 9."""
    decimals: int = 2
    """Digits after the point, in real-valued families; integer families have none."""
    separator: str = " "
    """Text between two numbers; made of spaces, tabs and `, ; | ， ； 、`."""

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= 9:
            raise DatasetError(
                "number of digits cannot be used",
                where="NumberFormat.digits",
                got=self.digits,
                expected="1 to 9",
            )
        if not 0 <= self.decimals < self.digits:
            raise DatasetError(
                "number of decimals cannot be used",
                where="NumberFormat.decimals",
                got=self.decimals,
                expected=f"0 to {self.digits - 1} (fewer than the {self.digits} digits)",
            )
        if not self.separator or self.separator.strip(SEPARATOR_CHARACTERS):
            raise DatasetError(
                "separator could not be told from a number when read back",
                where="NumberFormat.separator",
                got=repr(self.separator),
                expected="spaces, tabs or any of , ; | ， ； 、",
            )

    def limit(self, kind: str) -> float:
        """Return the bound that every value of an `integer` or `real` family stays below."""
        return 10.0 ** (self.digits - (self.decimals if kind == "real" else 0))

    def text(self, value: int | float) -> str:
        """Print one value: an int as it is, a float with the fixed number of decimals."""
        if isinstance(value, int):
            return str(value)
        shown = f"{value:.{self.decimals}f}"
        return shown[1:] if shown.startswith("-") and not shown.strip("-0.") else shown

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


class FoundNumber(NamedTuple):
    """A number in a text: where it stands and what it is worth."""

    start: int
    stop: int
    value: int | float


class NumberLine(NamedTuple):
    """A line that holds numbers and nothing else but, perhaps, a label and a unit."""

    label: str
    """`answer` or `coarse` by the words before the numbers; empty when there are none."""
    numbers: tuple[FoundNumber, ...]


def number_of(text: str) -> int | float:
    """Return the value of a printed number: `12`, `-3.50`, `3/4`, `15%` (worth 15).

    Raises:
        DatasetError: If `text` is no number.
    """
    if not _NUMBER.fullmatch(text) or (value := _value(text)) is None:
        raise DatasetError("text is no number", got=repr(text), expected="such as 12, -3.50 or 3/4")
    return value


def exact(text: str) -> Decimal:
    """Return a printed decimal number without loss.

    Raises:
        DatasetError: If `text` is no decimal number.
    """
    plain = text.replace("−", "-")
    if not re.fullmatch(r"[-+]?[0-9]{1,15}(?:\.[0-9]{1,15})?", plain):
        raise DatasetError("text is no decimal number", got=repr(text), expected="such as -3.50")
    return Decimal(plain)


def number_line(text: str) -> NumberLine | None:
    """Read a line that is a list of numbers.

    Only the digits 0 to 9 count, a number has at most 15 of them, and the time taken is linear in
    the length of the line, whatever it holds.

    Args:
        text: One line. Before the numbers there may be brackets, a currency sign, or a label such
            as `Answer:` or `下一块的和：`; after them closing punctuation, or a unit if there is
            one number only.

    Returns:
        The numbers with their places in `text`, or None when the line is anything else.
    """
    found: list[FoundNumber] = []
    end = 0
    for match in _NUMBER.finditer(text):
        between = text[end : match.start()]
        if found and (not between or between.strip(SEPARATOR_CHARACTERS) not in _CONNECTIVES):
            return None
        if (value := _value(match[0])) is None:
            return None
        found.append(FoundNumber(match.start(), match.end(), value))
        end = match.end()
    if not found or not _is_ending(text[end:], single=len(found) == 1):
        return None
    label = _label(text[: found[0].start])
    return None if label is None else NumberLine(label, tuple(found))


def _value(text: str) -> int | float | None:
    plain = text.replace("−", "-").rstrip("%")
    numerator, slash, denominator = plain.partition("/")
    if slash:
        return int(numerator) / int(denominator) if int(denominator) else None
    return float(plain) if "." in plain else int(plain)


def _is_ending(text: str, *, single: bool) -> bool:
    rest = text.strip(_CLOSING)
    return not rest or (single and _UNIT.fullmatch(rest) is not None)


def _label(text: str) -> str | None:
    if len(text) > _LABEL_LENGTH:
        return None
    words = text.strip(_OPENING).lower()
    if not words:
        return ""
    if "=" in text:
        return None
    if any(word in words for word in _COARSE_WORDS):
        return "coarse"
    return "answer" if any(word in words for word in _ANSWER_WORDS) else None
