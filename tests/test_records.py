"""Reading datasets: what is accepted, and what is said of what is not."""

import json
import tracemalloc

import pytest

from attnprobe.errors import RecordError
from attnprobe.records import MAX_LINE_BYTES, parse_record, read_records, write_records
from attnprobe.types import Segment
from tests.tiny import make_record

GOOD = {"id": "a/coarse", "item": "a", "style": "coarse", "prompt": "1 2 3", "target": " 4"}


def write(tmp_path, *lines, name="data.jsonl"):
    path = tmp_path / name
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def fault(path):
    with pytest.raises(RecordError) as caught:
        list(read_records(path))
    return str(caught.value)


def test_written_records_read_back_the_same(tmp_path):
    records = [make_record(n, style) for n in range(3) for style in ("coarse", "stepwise")]
    path = tmp_path / "sub" / "data.jsonl"
    assert write_records(records, path) == 6
    read = list(read_records(path))
    assert [(r.id, r.item, r.style, r.task, r.split, r.joiner) for r in read] == [
        (r.id, r.item, r.style, r.task, r.split, r.joiner) for r in records
    ]
    assert [(r.prompt, r.target, r.meta) for r in read] == [
        (r.prompt, r.target, r.meta) for r in records
    ]
    assert read[4].where == "data.jsonl:5"
    assert "每3项求和" in path.read_text(encoding="utf-8")


def test_plain_strings_are_one_segment_each_and_joined_verbatim(tmp_path):
    (record,) = read_records(write(tmp_path, GOOD))
    assert record.prompt == (Segment("prompt", "1 2 3"),)
    assert record.target == (Segment("answer", " 4"),)
    assert record.prompt_text + record.target_text == "1 2 3 4"


def test_segments_are_joined_by_line_breaks_unless_told_otherwise(tmp_path):
    segments = [{"role": "instruction", "text": "Go on:"}, {"role": "history", "text": "1 2"}]
    (record,) = read_records(write(tmp_path, GOOD | {"prompt": segments, "target": "3"}))
    assert record.prompt_text + record.target_text == "Go on:\n1 2\n3"
    (record,) = read_records(
        write(tmp_path, GOOD | {"prompt": segments, "target": "3", "joiner": ""})
    )
    assert record.prompt_text + record.target_text == "Go on:1 23"


def test_blank_lines_are_passed_over_but_counted(tmp_path):
    path = write(tmp_path, GOOD, "", "   ", GOOD | {"id": "b", "item": "b"})
    assert [record.where for record in read_records(path)] == ["data.jsonl:1", "data.jsonl:4"]


BAD_LINES = {
    "bad JSON": (
        '{"id": "a", "item"',
        "data.jsonl:1: this line is not valid JSON; got {\"id\": \"a\", \"item\"; "
        "Expecting ':' delimiter: line 1 column 19 (char 18).",
    ),
    "not an object": (
        "[1, 2]",
        'data.jsonl:1: this line is not a JSON object; got list, expected an object such as '
        '{"id": …, "item": …, "style": …, "prompt": …}.',
    ),
    "missing field": (
        {k: v for k, v in GOOD.items() if k != "style"},
        "data.jsonl:1 (id 'a/coarse'): field 'style' is missing; got fields id, item, prompt, "
        "target, expected all of id, item, style, prompt; add it.",
    ),
    "empty segment": (
        GOOD | {"prompt": [{"role": "history", "text": ""}]},
        "data.jsonl:1 (id 'a/coarse'): segment role 'history' is empty; give it text or remove it.",
    ),
    "unknown field": (
        GOOD | {"tragets": "4"},
        "data.jsonl:1 (id 'a/coarse'): unknown field 'tragets'; put your own fields into 'meta'; "
        "did you mean 'target'? there is: id, item, joiner, meta, prompt, split, style, target, "
        "task.",
    ),
    "empty id": (GOOD | {"id": ""}, "data.jsonl:1 (id ''): field 'id' is empty; give it a value."),
    "id of another type": (
        GOOD | {"id": 7}, "data.jsonl:1: field 'id' is no text; got int, expected a string."
    ),
    "no segments": (
        GOOD | {"prompt": []},
        "data.jsonl:1 (id 'a/coarse'): field 'prompt' holds no segments; got [], expected text, "
        'or a list of {"role": …, "text": …}.',
    ),
    "malformed segment": (
        GOOD | {"target": [{"role": "answer"}]},
        "data.jsonl:1 (id 'a/coarse'): target segment 0 is malformed; got "
        '{"role": "answer"}, expected {"role": "…", "text": "…"}.',
    ),
    "meta of another type": (
        GOOD | {"meta": [1]},
        "data.jsonl:1 (id 'a/coarse'): field 'meta' is no object; got list, expected an object.",
    ),
    "NaN": (
        json.dumps({"meta": {"x": float("nan")}, **GOOD}),
        'data.jsonl:1: this line is not valid JSON; got {"meta": {"x": NaN}, "id": "a/coarse", '
        '"item": "a", "styl…; NaN is not JSON.',
    ),
    "lone surrogate": (
        json.dumps(GOOD)[:-1] + ', "task": "\\ud83d"}',
        "data.jsonl:1 (id 'a/coarse'): field 'task' holds a lone surrogate at character 0; "
        "expected valid Unicode; write the character itself instead of half its escape.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_with_file_line_and_id(tmp_path, name):
    line, message = BAD_LINES[name]
    assert fault(write(tmp_path, line)) == message


def test_a_duplicate_id_names_both_lines(tmp_path):
    path = write(tmp_path, GOOD, GOOD | {"item": "b"})
    assert fault(path) == (
        "data.jsonl:2: this id stands in line 1 already; got 'a/coarse'; make it unique."
    )


def test_a_duplicate_item_and_style_names_both_lines(tmp_path):
    path = write(tmp_path, GOOD, "", GOOD | {"id": "other"})
    assert fault(path) == (
        "data.jsonl:3: this item in this style stands in line 1 already; got 'a / coarse'; "
        "make it unique."
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            b"\xef\xbb\xbf{}",
            "data.jsonl:1: the file starts with a UTF-8 byte order mark; expected UTF-8 without "
            "a mark; save it as 'UTF-8' (not 'UTF-8 with BOM').",
        ),
        (
            "{}".encode("utf-16"),
            "data.jsonl:1: the file starts with a UTF-16 byte order mark; expected UTF-8 without "
            "a mark; save it as 'UTF-8' (not 'UTF-8 with BOM').",
        ),
        (
            json.dumps(GOOD).encode() + b"\n" + '{"id": "项"}'.encode("gb18030"),
            "data.jsonl:2: this line is not UTF-8 (byte 9); got 0xcf, expected UTF-8; convert the "
            "file, e.g. iconv -f GB18030 -t UTF-8.",
        ),
    ],
)
def test_a_foreign_encoding_is_named(tmp_path, raw, message):
    path = tmp_path / "data.jsonl"
    path.write_bytes(raw)
    assert fault(path) == message


def test_an_empty_file_and_a_missing_one_are_errors(tmp_path):
    empty = tmp_path / "data.jsonl"
    empty.write_text("\n \n")
    assert fault(empty) == f"{empty}: no records in this file; write one JSON a line."
    missing = tmp_path / "none.jsonl"
    assert fault(missing) == (
        f"{missing}: cannot read this file (No such file or directory); check the path."
    )


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path):
    path = tmp_path / "data.jsonl"
    with path.open("wb") as file:
        file.truncate(4 * MAX_LINE_BYTES)
    tracemalloc.start()
    message = fault(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message == (
        f"data.jsonl:1: this line is too long for a record; got over {MAX_LINE_BYTES} bytes; "
        "write one JSON object a line."
    )
    assert peak < 3 * MAX_LINE_BYTES


def test_a_large_file_is_streamed(tmp_path):
    path = tmp_path / "data.jsonl"
    filler = "x" * 20_000
    with path.open("w") as file:
        for number in range(1500):
            file.write(
                json.dumps(GOOD | {"id": str(number), "item": str(number), "prompt": filler})
            )
            file.write("\n")
    tracemalloc.start()
    count = sum(1 for _ in read_records(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 1500
    assert peak < path.stat().st_size / 10


def test_errors_survive_a_process_boundary():
    import pickle

    with pytest.raises(RecordError) as caught:
        parse_record({"id": "a"}, "f.jsonl:3")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.exit_code == 2
