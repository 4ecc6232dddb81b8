"""Datasets as records: read from JSON lines, CSV and `datasets` folders, written as JSON lines.

`read_records` streams a dataset and checks every record as it passes. Prompts that are plain text
are cut into segments by `apply_rules`, with the rules of a TOML file (`read_rules`).
"""

from attnprobe.records.fields import parse_record, record_to_json
from attnprobe.records.jsonl import write_records
from attnprobe.records.lines import MAX_LINE_BYTES
from attnprobe.records.reading import read_records

__all__ = ["MAX_LINE_BYTES", "parse_record", "read_records", "record_to_json", "write_records"]
