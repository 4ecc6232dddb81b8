"""Lines of a text file, decoded one at a time and never longer than a bound."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from attnprobe.errors import RecordError

MAX_LINE_BYTES = 16 * 2**20
"""A longer line is not a record but another kind of file; refusing it keeps memory bounded."""

MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"
"""The byte order mark, once decoded."""

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def numbered_lines(path: Path, shorten: str) -> Iterator[tuple[int, str]]:
    """Yield line numbers from 1 and decoded lines, with their line ends.

    Args:
        path: A UTF-8 file.
        shorten: What to do about a line that is too long, for the error message.

    Raises:
        RecordError: Naming file and line, if it cannot be read, is not UTF-8, or a line is longer
            than `MAX_LINE_BYTES`.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise RecordError(
            f"cannot read this file ({error.strerror})", where=str(path), fix="check the path"
        ) from error
    with file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path.name}:{number}"
            if number == 1 and line.startswith(_UTF16_MARKS):
                raise _foreign_mark("UTF-16", where)
            if len(line) > MAX_LINE_BYTES:
                raise RecordError(
                    "this line is too long for a record", where=where,
                    got=f"over {MAX_LINE_BYTES} bytes", fix=shorten,
                )  # fmt: skip
            yield number, _decode(line, where)


def check_mark(line: str, where: str) -> None:
    """Refuse a first line that starts with a byte order mark.

    Raises:
        RecordError: If it does.
    """
    if line.startswith(MARK):
        raise _foreign_mark("UTF-8", where)


def _foreign_mark(name: str, where: str) -> RecordError:
    return RecordError(
        f"the file starts with a {name} byte order mark", where=where,
        expected="UTF-8 without a mark", fix="save it as 'UTF-8' (not 'UTF-8 with BOM')",
    )  # fmt: skip


def _decode(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(
            f"this line is not UTF-8 (byte {error.start + 1})", where=where,
            got=f"0x{line[error.start]:02x}", expected="UTF-8",
            fix="convert the file, e.g. iconv -f GB18030 -t UTF-8",
        ) from error  # fmt: skip
