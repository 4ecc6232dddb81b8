"""Writing a contrast to a file."""

import csv
import json
import math
from pathlib import Path
from typing import Any

from attnprobe.errors import ContrastError


def save_as(contrast: Any, path: Path) -> Path:
    """Write a contrast to a file of the kind that the suffix names; see `Contrast.save`."""
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise ContrastError(
            "a contrast is not written to this kind of file",
            where=str(path),
            got=f"suffix '{path.suffix}'",
            expected=" or ".join(_WRITERS),
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    try:
        write(contrast, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _write_csv(contrast: Any, path: Path) -> None:
    names = {
        name: value
        for name, value in contrast.describe().items()
        if name in ("a", "b", "within", "filler", "measure", "query", "key", "unit")
    }
    rows = [{**names, "by": contrast.effects.attrs["by"], **row} for row in contrast.to_table()]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows([{k: or_else(v, "") for k, v in row.items()} for row in rows])


def _write_json(contrast: Any, path: Path) -> None:
    path.write_text(contrast.to_json() + "\n", encoding="utf-8")


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


_WRITERS = {".csv": _write_csv, ".json": _write_json, ".nc": _write_netcdf}


def or_else(value: object, instead: object) -> object:
    """Replace NaN, which neither CSV nor JSON has a word for."""
    return instead if isinstance(value, float) and math.isnan(value) else value
