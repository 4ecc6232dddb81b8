"""JSON files that prove themselves: the last member is the SHA-256 of every byte before it."""

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnprobe.errors import FormatError, StoreError
from attnprobe.store.publish import publish, sync, temporary_beside

_SEAL = re.compile(rb'"checksum":"([0-9a-f]{64})"\}\n\Z')
_SEAL_BYTES = 64 + len(b'"}\n')
"""Bytes of a file that its checksum does not cover."""


def canonical_json(value: Any) -> str:
    """Write JSON such that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sealed(value: Mapping[str, Any]) -> bytes:
    """Return the bytes of a file that holds this object: a member on each line, then the checksum.

    Args:
        value: The members, in the order in which they shall stand; `checksum` is not among them.
    """
    lines = [f'"{name}":{canonical_json(member)},\n' for name, member in value.items()]
    text = ("{" + "".join(lines) + '"checksum":"').encode("ascii")
    return text + hashlib.sha256(text).hexdigest().encode("ascii") + b'"}\n'


def write_json(path: Path, value: Mapping[str, Any], *, exclusive: bool = False) -> bool:
    """Write a JSON file atomically, with its checksum.

    Args:
        path: Its name.
        value: What it holds.
        exclusive: Leave an existing file alone instead of replacing it.

    Returns:
        Whether it was written.
    """
    temporary = temporary_beside(path)
    try:
        temporary.write_bytes(sealed(value))
        if exclusive:
            return publish(temporary, path)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def read_json(
    path: Path, max_bytes: int, max_entries: int, fix: str = "fetch the run again"
) -> dict[str, Any]:
    """Read a JSON file that `write_json` wrote.

    Args:
        path: Its name.
        max_bytes: How large it may be.
        max_entries: How many entries it may have; a comma counts as one.
        fix: What to do about a damaged one.

    Raises:
        FormatError: If it is missing, too large, no JSON object, or not what was written.
    """

    def refused(what: str, got: object = None, expected: object = None) -> FormatError:
        advice = f"the file was damaged or not written by attnprobe; {fix}"
        return FormatError(what, where=str(path), got=got, expected=expected, fix=advice)

    data = read_start(path, max_bytes + 1)
    if len(data) > max_bytes:
        raise refused("the file is too large", "more", f"at most {max_bytes} bytes")
    seal = _SEAL.search(data, max(len(data) - 128, 0))
    if seal is None:
        raise refused("the file does not end with its checksum", repr(data[-80:])[1:])
    if data.count(b",") > max_entries:
        raise refused("the file has too many entries", data.count(b","), max_entries)
    digest = hashlib.sha256(memoryview(data)[:-_SEAL_BYTES]).hexdigest()
    if digest.encode("ascii") != seal[1]:
        raise refused(
            "the file is not what was written", f"checksum {seal[1].decode('ascii')[:12]}…",
            f"{digest[:12]}…",
        )  # fmt: skip
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise refused("the file is no JSON", error) from error
    if not isinstance(value, dict):
        raise refused("the file holds no JSON object", type(value).__name__)
    return value


def read_start(path: Path, n_bytes: int) -> bytes:
    """Read at most so many bytes from the start of a file of the run.

    Raises:
        FormatError: If it is missing, or no plain file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would have the reader wait for ever
            raise FormatError("this is no plain file", where=str(path))
        with path.open("rb") as file:
            return file.read(n_bytes)
    except FileNotFoundError:
        raise FormatError(
            "a file of the run is missing", where=str(path), fix="is this the folder of a run?"
        ) from None
    except OSError as error:
        raise FormatError("a file of the run cannot be read", where=str(path), got=error) from error


def plain(value: Any, where: str) -> Any:
    """Return a value as JSON gives it back (tuples as lists), so that two can be compared.

    Raises:
        StoreError: If JSON cannot hold it.
    """
    try:
        return json.loads(canonical_json(value))
    except (TypeError, ValueError) as error:
        raise StoreError(
            "a value cannot be written as JSON", where=where, got=str(error),
            expected="text, finite numbers, booleans, lists and dicts",
        ) from error  # fmt: skip


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
