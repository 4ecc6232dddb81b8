"""Manifests of strangers: refused by their first bytes or by their checksum, never followed."""

import hashlib
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from attnprobe import store
from attnprobe.errors import FormatError
from tests.store.builders import edit_json, make_run


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("good") / "run", tasks=1)


@pytest.fixture
def run(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "run"))


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = [
    (lambda m: m.update(n_records=10**7), "'n_records' is missing or out of range; got 10000000"),
    (lambda m: m.update(layers=[0] * 400_000), "the file has too many entries; got 40"),
    (lambda m: m.update(layers=[0] * 3_000_000), "the file is too large"),
    (lambda m: m["settings"].update(deep=nested(500)), "'settings' is nested too deeply"),
    (lambda m: m["plan"].update(id=["../../etc", "b", "c"]), "'id' is damaged; expected 4 names"),
    (lambda m: m["plan"].update(id=[1, 2, 3, 4]), "'id' is damaged; expected 4 names"),
    (lambda m: m["plan"].update(id=["a" * 2000, "b", "c", "d"]), "names of at most 1024 bytes"),
    (lambda m: m["plan"].update(id=["a", "a", "b", "c"]), "a record id stands twice in the plan"),
    (lambda m: m["plan"]["item"].update(of=[0, 0, 0, 99]), "'item' points outside its names"),
    (lambda m: m["plan"].update(digest=["0" * 31] * 4), "expected 4 hashes of 32 hex digits"),
    (lambda m: m["shards"].update(sha256=["../x"]), "expected 1 hashes of 64 hex digits"),
    (lambda m: m["records"].update(worst_error=["x"] * 4), "'worst_error' is damaged"),
    (lambda m: m.update(settings_hash="0" * 64), "'settings_hash' is not that of the settings"),
    (lambda m: m["settings"].update(encoding="f8"), "'settings' ask for what this version does"),
    (lambda m: m["shards"]["counts"].update(record=[5]), "do not hold the records of the plan"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "text"), HOSTILE)
def test_hostile_manifests_are_refused_at_once(run, change, text):
    edit_json(run / "manifest.json", change)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with pytest.raises(FormatError, match=re.escape(text)):
            store.open_run(run)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1  # 5 ms without the type checks of the tests


def test_names_in_a_manifest_never_become_paths(run):
    def rename(manifest: dict[str, Any]) -> None:
        manifest["plan"]["id"][0] = "../../../etc/passwd"

    edit_json(run / "manifest.json", rename)
    with store.open_run(run) as opened, pytest.raises(FormatError, match="not those of the"):
        opened.weights("../../../etc/passwd")


def test_what_is_no_plain_file_is_not_waited_for(run):
    (run / "manifest.json").unlink()
    os.mkfifo(run / "manifest.json")
    with pytest.raises(FormatError, match="this is no plain file"):
        store.open_run(run)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            b'{"format":"attnprobe run",\n"format_version":"1.0",\n"n_records":4}',
            "does not end with",
        ),
        (b"", "this is no manifest of a run"),
        (b"\xff\xfe{", "this is no manifest of a run"),
    ],
)
def test_what_is_no_manifest_is_refused(run, data, text):
    (run / "manifest.json").write_bytes(data)
    with pytest.raises(FormatError, match=text):
        store.open_run(run)


def test_numbers_that_json_does_not_know_are_refused(run):
    path = run / "shards/chunk-00000.json"
    text = (
        path.read_bytes().rpartition(b'"checksum":"')[0].replace(b'"bytes":', b'"bytes":NaN,"x":')
    )
    text += b'"checksum":"'
    path.write_bytes(text + hashlib.sha256(text).hexdigest().encode() + b'"}\n')
    [fault] = store.verify(run).faults
    assert (fault.where, fault.what) == (
        "shards/chunk-00000.json", "the file is no JSON; got NaN is no JSON number",
    )  # fmt: skip
