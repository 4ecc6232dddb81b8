"""Datasets as CSV files and `datasets` folders: the same records, and faults as clearly named."""

import csv
import json
import sys
import tracemalloc

import pytest

from attnprobe.errors import RecordError
from attnprobe.records import MAX_LINE_BYTES, parse_record, read_records, record_to_json
from attnprobe.types import Segment

COLUMNS = ["id", "item", "style", "prompt", "target", "task", "split"]
ROW = ["a/coarse", "a", "coarse", '和：1 2\n3,"4"', " 5", "sums", "seen"]


def write_csv(tmp_path, *rows, columns=COLUMNS, encoding="utf-8"):
    path = tmp_path / "data.csv"
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def fault(path):
    with pytest.raises(RecordError) as caught:
        list(read_records(path))
    return str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_row_is_a_plain_record_and_further_columns_are_meta(tmp_path, encoding):
    path = write_csv(
        tmp_path,
        [*ROW, "group A"],
        ["b/coarse", "b", "coarse", "1", "", "", "", ""],
        columns=[*COLUMNS, "source"],
        encoding=encoding,
    )
    first, second = read_records(path)
    assert first.prompt == (Segment("prompt", '和：1 2\n3,"4"'),)
    assert first.prompt_text + first.target_text == '和：1 2\n3,"4" 5'
    assert (first.task, first.split, first.meta) == ("sums", "seen", {"source": "group A"})
    assert second.target == ()
    assert (first.where, second.where) == ("data.csv:2", "data.csv:4")


def test_a_joiner_and_a_meta_object_have_columns_too(tmp_path):
    row = ["a", "a", "direct", "1", "2", "\n", '{"answer": [2]}', "x"]
    columns = ["id", "item", "style", "prompt", "target", "joiner", "meta", "source"]
    (record,) = read_records(write_csv(tmp_path, row, columns=columns))
    assert record.prompt_text + record.target_text == "1\n2"
    assert record.meta == {"source": "x", "answer": [2]}


BAD_TABLES = {
    "missing column": (
        ["id,item,prompt", "a,a,1"],
        "data.csv:1: column 'style' is missing; got columns id, item, prompt, expected all of id, "
        "item, style, prompt; add it.",
    ),
    "semicolons": (
        ["id;item;style;prompt", "a;a;x;1"],
        "data.csv:1: column 'id' is missing; got columns id;item;style;prompt, expected all of id, "
        "item, style, prompt; save it with commas between the cells.",
    ),
    "a column that is almost one": (
        ["id,item,style,prompt,tragets", "a,a,x,1,2"],
        "data.csv:1: column 'tragets' is almost 'target'; rename it to 'target', or to something "
        "less like it.",
    ),
    "a column twice": (
        ["id,item,style,prompt,note,note", "a,a,x,1,2,3"],
        "data.csv:1: column 'note' is there twice; rename one.",
    ),
    "too many cells": (
        ["id,item,style,prompt", "", "a,a,x,1, 2"],
        "data.csv:3: this row does not fit the header; got 5 cells, expected 4; put quotes round "
        "cells that hold commas or quotes.",
    ),
    "empty prompt": (
        ["id,item,style,prompt", "a,a,x,"],
        "data.csv:2 (id 'a'): segment role 'prompt' is empty; give it text or remove it.",
    ),
    "empty style": (
        ["id,item,style,prompt", "a,a,,1"],
        "data.csv:2 (id 'a'): field 'style' is empty; give it a value.",
    ),
    "the same id twice": (
        ["id,item,style,prompt", "a,a,x,1", "a,b,x,1"],
        "data.csv:3: this id stands in line 2 already; got 'a'; make it unique.",
    ),
    "an open quote": (
        ["id,item,style,prompt", 'a,a,x,"1'],
        "data.csv:2: this row is not valid CSV (unexpected end of data); quote cells that hold "
        "commas, quotes or line breaks, and double their quotes.",
    ),
    "meta that is no JSON": (
        ["id,item,style,prompt,meta", "a,a,x,1,NaN"],
        "data.csv:2: column 'meta' is not valid JSON; got NaN; NaN is not JSON.",
    ),
    "meta that is no object": (
        ["id,item,style,prompt,meta", "a,a,x,1,[1]"],
        "data.csv:2 (id 'a'): field 'meta' is no object; got list, expected an object.",
    ),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_table_is_named_with_file_line_and_id(tmp_path, name):
    lines, message = BAD_TABLES[name]
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert fault(path) == message


def test_an_empty_table_and_one_without_rows_are_errors(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("")
    assert fault(path) == f"{path}: no header in this file; begin with id,item,style,prompt."
    path.write_text("id,item,style,prompt\n\n")
    assert fault(path) == f"{path}: no records in this file; write one record a row."


def test_another_encoding_is_named_with_its_line(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b"id,item,style,prompt\na,a,x," + "项".encode("gb18030"))
    assert fault(path) == (
        "data.csv:2: this line is not UTF-8 (byte 7); got 0xcf, expected UTF-8; convert the file, "
        "e.g. iconv -f GB18030 -t UTF-8."
    )
    path.write_bytes("id,item,style,prompt\n".encode("utf-16"))
    assert "starts with a UTF-16 byte order mark" in fault(path)


def test_long_cells_are_read_and_endless_ones_refused(tmp_path):
    usual = csv.field_size_limit()
    long = "1 " * 200_000
    (record,) = read_records(write_csv(tmp_path, ["a", "a", "x", long], columns=COLUMNS[:4]))
    assert record.prompt[0].text == long
    path = tmp_path / "data.csv"
    with path.open("w") as file:
        file.write('id,item,style,prompt\na,a,x,"')
        for _ in range(3 * MAX_LINE_BYTES // 2**20):
            file.write("x" * (2**20 - 1) + "\n")
    assert fault(path) == (
        f"data.csv:2: this row is too long for a record; got over {MAX_LINE_BYTES} characters; "
        "look for a quote that is not closed."
    )
    assert csv.field_size_limit() == usual


def test_a_large_table_is_streamed(tmp_path):
    path = write_csv(
        tmp_path, *([str(n), str(n), "x", "y" * 20_000] for n in range(1500)), columns=COLUMNS[:4]
    )
    tracemalloc.start()
    count = sum(1 for _ in read_records(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 1500
    assert peak < path.stat().st_size / 10


# ---------------------------------------------------------------- folders of `datasets`

SEGMENTS = [{"role": "history", "text": "1 2"}, {"role": "question", "text": "?"}]
RECORD = {"id": "a/x", "item": "a", "style": "x", "prompt": SEGMENTS, "target": SEGMENTS[:1]}


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets")


def save(datasets, folder, rows):
    datasets.Dataset.from_list(rows).save_to_disk(str(folder))
    return folder


def test_a_folder_gives_the_records_that_json_lines_give(tmp_path, datasets):
    folder = save(datasets, tmp_path / "set", [RECORD | {"answer": [3, 4], "note": None}])
    (record,) = read_records(folder)
    expected = parse_record(RECORD | {"meta": {"answer": [3, 4]}}, "set:row 1")
    assert (record.where, record_to_json(record)) == ("set:row 1", record_to_json(expected))


def test_splits_of_a_folder_name_the_split_of_their_rows(tmp_path, datasets):
    plain = {"id": "b", "item": "b", "style": "x", "prompt": "1 2", "target": " 3"}
    splits = {
        "train": datasets.Dataset.from_list([plain]),
        "test": datasets.Dataset.from_list([plain | {"id": "c", "item": "c", "split": "unseen"}]),
    }
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "set"))
    records = list(read_records(tmp_path / "set"))
    assert [(r.id, r.split, r.where) for r in records] == [
        ("b", "train", "set/train:row 1"),
        ("c", "unseen", "set/test:row 1"),
    ]
    assert records[0].prompt_text + records[0].target_text == "1 2 3"


def test_faults_of_a_folder_are_named_with_the_row(tmp_path, datasets):
    other = RECORD | {"id": "b", "prompt": SEGMENTS}
    assert fault(save(datasets, tmp_path / "one", [RECORD, other])) == (
        "one:row 2: this item in this style stands in one:row 1 already; got 'a / x'; make it "
        "unique."
    )
    assert fault(save(datasets, tmp_path / "two", [RECORD | {"id": 7}])) == (
        "two:row 1: field 'id' is no text; got int, expected a string."
    )
    assert fault(save(datasets, tmp_path / "three", [RECORD | {"raw": b"x"}])) == (
        "three:row 1: column 'raw' holds no JSON value; got bytes, expected text, numbers, lists "
        "or objects; remove or convert the column."
    )


def test_a_folder_that_is_no_dataset_or_damaged_is_refused(tmp_path, datasets):
    assert fault(tmp_path) == (
        f"{tmp_path}: this folder is no dataset; got neither state.json nor dataset_dict.json, "
        "expected a folder written by save_to_disk; or give a .jsonl or .csv file."
    )
    folder = save(datasets, tmp_path / "set", [RECORD])
    (folder / "state.json").write_text(json.dumps({}))
    assert "cannot open this dataset" in fault(folder)


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert fault(tmp_path) == (
        f"{tmp_path}: reading this folder needs the library datasets; run: pip install "
        "'attnprobe[datasets]'."
    )
