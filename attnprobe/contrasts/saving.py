"""Writing results to files."""

import csv
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attnprobe.errors import ContrastError

Writer = Callable[[Path], object]


def write_by_suffix(path: str | Path, what: str, writers: Mapping[str, Writer]) -> Path:
    """Write a file of the kind that its suffix names, whole or not at all.

    Args:
        path: Where to; folders are made, and a file that is there is replaced in one go.
        what: What is written, for the error: `a contrast`.
        writers: By suffix, what writes to a path.

    Returns:
        The path.

    Raises:
        ContrastError: If there is no writer for the suffix, or the file cannot be written.
    """
    path = check_place(path, what, tuple(writers))
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writers[path.suffix.lower()](draft)
        draft.replace(path)
    except OSError as error:
        raise ContrastError(
            f"{what} cannot be written ({error.strerror or error})", where=str(path),
            fix="name another file",
        ) from error  # fmt: skip
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return path


def check_place(path: str | Path, what: str, suffixes: Sequence[str]) -> Path:
    """Refuse a place that cannot be written to; worth asking before anything long is computed.

    Raises:
        ContrastError: If the suffix is none of these, a folder is there, or no file can be made.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise ContrastError(
            f"{what} is not written to this kind of file", where=str(path),
            got=f"suffix '{path.suffix}'", expected=" or ".join(suffixes),
        )  # fmt: skip
    above = next(one for one in (path.parent, *path.parent.parents) if one.exists())
    fault = (
        "a folder of this name" if path.is_dir()
        else f"{above} is no folder" if not above.is_dir()
        else f"{above} may not be written to" if not os.access(above, os.W_OK)
        else None
    )  # fmt: skip
    if fault:
        raise ContrastError(
            f"{what} cannot be written", where=str(path), got=fault, fix="name another file"
        )
    return path


def csv_writer(rows: Sequence[Mapping[str, Any]]) -> Writer:
    """Make what writes a table, its columns those of the first row; NaN and None are empty."""

    def write(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows([{k: or_else(v, "") for k, v in row.items()} for row in rows])

    return write


def text_writer(text: str) -> Writer:
    """Make what writes a text and a line break."""
    return lambda path: path.write_text(f"{text}\n", encoding="utf-8")


def save_as(contrast: Any, path: str | Path) -> Path:
    """Write a contrast to a file of the kind that the suffix names; see `Contrast.save`."""
    names = {
        name: value
        for name, value in contrast.describe().items()
        if name in ("a", "b", "within", "filler", "measure", "query", "key", "unit")
    }
    rows = [{**names, "by": contrast.effects.attrs["by"], **row} for row in contrast.to_table()]
    writers: dict[str, Writer] = {
        ".csv": csv_writer(rows),
        ".json": lambda path: text_writer(contrast.to_json())(path),
        ".nc": lambda path: _write_netcdf(contrast, path),
    }
    return write_by_suffix(path, "a contrast", writers)


def _write_netcdf(contrast: Any, path: Path) -> None:
    effects = contrast.effects.copy()
    described = {**contrast.describe(), "methods": contrast.methods()}
    # netCDF attributes hold text and numbers only.
    for name in ("dropped", "settings", "omnibus", "refused"):
        described[name] = json.dumps(described[name], ensure_ascii=False)
    del described["test"]
    effects.attrs |= {k: v for k, v in described.items() if v is not None}
    for name in ("estimate", "low", "high"):
        effects[name].attrs["units"] = contrast.unit
    effects.to_netcdf(path, engine="scipy")


def or_else(value: object, instead: object) -> object:
    """Replace NaN, which neither CSV nor JSON has a word for."""
    return instead if isinstance(value, float) and math.isnan(value) else value
