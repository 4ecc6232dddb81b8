"""Folders written by `datasets`: one record a row, read from disk as they are needed."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attnprobe.errors import RecordError
from attnprobe.records.fields import parse_record, short
from attnprobe.records.tables import check_columns, gather_meta
from attnprobe.types import Record

_STATE, _SPLITS = "state.json", "dataset_dict.json"


def read_folder(path: Path) -> Iterator[Record]:
    """Stream the records of a folder written by `save_to_disk` of the library `datasets`.

    Columns are those of a CSV file, but prompt and target may also be lists of
    `{"role": …, "text": …}`, and columns of your own may hold any JSON value. In a dictionary of
    splits, a row without `split` belongs to the split it stands in.

    Args:
        path: The folder.

    Yields:
        Records; `where` names folder and row, counted from 1.

    Raises:
        RecordError: If the folder is no dataset, `datasets` is not installed, or a row is no
            record.
    """
    for split, rows in _tables(path).items():
        place = f"{path.name}/{split}" if split else path.name
        check_columns(list(rows.column_names), place)
        for number, row in enumerate(rows, start=1):
            where = f"{place}:row {number}"
            fields = {key: value for key, value in row.items() if value is not None}
            if split:
                fields.setdefault("split", split)
            fields = gather_meta(fields)
            _check_json(fields.get("meta", {}), where)
            yield parse_record(fields, where)


def _tables(path: Path) -> Mapping[str, Any]:
    """Open the splits of a folder by name; a dataset without splits has the name ''."""
    if not any((path / name).is_file() for name in (_STATE, _SPLITS)):
        raise RecordError(
            "this folder is no dataset", where=str(path), got=f"neither {_STATE} nor {_SPLITS}",
            expected="a folder written by save_to_disk", fix="or give a .jsonl or .csv file",
        )  # fmt: skip
    try:
        import datasets
    except ImportError as error:
        raise RecordError(
            "reading this folder needs the library datasets", where=str(path),
            fix="run: pip install 'attnprobe[datasets]'",
        ) from error  # fmt: skip
    try:
        opened = datasets.load_from_disk(str(path))
    except Exception as error:  # Arrow, JSON, the file system: each raises its own kinds
        raise RecordError(
            "cannot open this dataset", where=str(path), got=short(str(error)),
            fix="write it again with save_to_disk",
        ) from error  # fmt: skip
    return (
        {str(name): rows for name, rows in opened.items()}
        if isinstance(opened, dict)
        else {"": opened}
    )


def _check_json(meta: Any, where: str) -> None:
    for name, value in meta.items() if isinstance(meta, Mapping) else ():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RecordError(
                f"column '{name}' holds no JSON value", where=where, got=type(value).__name__,
                expected="text, numbers, lists or objects", fix="remove or convert the column",
            ) from error  # fmt: skip
