"""FORMAT.md says what the code does."""

import re
from pathlib import Path

import numpy as np

from attnprobe import store
from attnprobe.store.layout import COLUMNS, RAGGED, attribution_columns
from tests.store.builders import make_captures, open_writer, write_missing

FORMAT = Path(store.__file__).with_name("FORMAT.md").read_text(encoding="utf-8")
TYPES = {"text": "S", "<i4": "i32", "<i8": "i64", "<u4": "u32", "<f4": "f32", "|u1": "u8"}


def test_the_page_lists_every_dataset_in_order():
    table = FORMAT.split("<!-- datasets -->")[1].split("<!-- end -->")[0]
    lines = table.strip().splitlines()[2:]
    expected = [
        f"| `{c.name}`{' •' if c.in_crc else ''} | {TYPES.get(c.dtype, c.dtype)} "
        f"| {', '.join(c.dims)} | {c.meaning} | {c.unit} |"
        for c in (*COLUMNS, *attribution_columns({"<method>": ""}))
    ]
    assert lines == expected
    assert all(f"`{axis}`" in FORMAT for axis in RAGGED)


def test_the_reader_on_the_page_reads_the_same(tmp_path):
    [code] = re.findall(r"```python\n(.*?)```", FORMAT, flags=re.DOTALL)
    names: dict = {}
    exec(compile(code, "FORMAT.md", "exec"), names)
    captures = make_captures(tasks=1)
    for encoding in ("u16", "u8", "f32"):
        path = tmp_path / encoding
        write_missing(open_writer(path, captures, encoding=encoding), captures)
        ids = [capture.encoding.record.id for capture in captures]
        read = {record_id: names["read_weights"](path, record_id) for record_id in ids}
        with store.open_run(path) as run:
            for record_id, (weights, queries) in read.items():
                array = run.weights(record_id)
                assert np.array_equal(weights, array.values)
                assert queries.tolist() == array["query"].values.tolist()
