"""The numbers of a figure, as a table for other tools."""

import csv
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from attnprobe.errors import FigureError


@runtime_checkable
class Tabled(Protocol):
    """Any panel."""

    def to_table(self) -> list[dict[str, Any]]:
        """Return its numbers, one row each."""
        ...


def write_table(panels: Tabled | Sequence[Tabled], path: str | Path) -> Path:
    """Write the numbers that a figure shows to a .csv file, row by row as `to_table` has them.

    Args:
        panels: What is drawn.
        path: Where to; folders are made. A file that is there is replaced in one go.

    Returns:
        The path.

    Raises:
        FigureError: If the suffix is another one, or the file cannot be written.
    """
    path = check_table_name(path)
    several = [panels] if isinstance(panels, Tabled) else list(panels)
    rows = [row for panel in several for row in panel.to_table()]
    names = list(dict.fromkeys(name for row in rows for name in row))
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: _cell(cell) for name, cell in row.items()} for row in rows)
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise FigureError(
            f"cannot write the table ({error.strerror or error})", where=str(path),
            fix="name another file",
        ) from error  # fmt: skip
    return path


def check_table_name(path: str | Path) -> Path:
    """Return the path of a table.

    Raises:
        FigureError: If its suffix is not .csv.
    """
    path = Path(path)
    if path.suffix.lower() != ".csv":
        raise FigureError(
            "a figure's numbers are not written to this kind of file", where=str(path),
            got=f"suffix '{path.suffix}'", expected=".csv",
        )  # fmt: skip
    return path


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
