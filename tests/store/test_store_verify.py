"""`verify` finds what is damaged and what was never right, and goes on after it."""

import json
import re
import shutil
from dataclasses import replace
from typing import cast

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

import attnprobe
from attnprobe import store
from attnprobe.cli import app
from attnprobe.errors import FormatError
from attnprobe.store.layout import NUMBERS
from attnprobe.store.shard import Shard, record_crc
from tests.store import builders
from tests.store.builders import edit_json, make_captures, open_writer, reseal, write_missing

RECORD = "task0-000/coarse"
SHARD = "shards/chunk-00000.h5"


@pytest.fixture(scope="module")
def captures():
    return make_captures(tasks=1)


@pytest.fixture(scope="module")
def good(captures, tmp_path_factory):
    path = tmp_path_factory.mktemp("verify") / "run"
    keep = ("rows", "steps", "pooled")
    writer = open_writer(path, captures, keep=keep, chunk_size=2)
    write_missing(writer, captures, chunk_size=2)
    return path


@pytest.fixture
def run(good, tmp_path):
    return shutil.copytree(good, tmp_path / "run")


def faults(run, *, full=True):
    return [(f.where, f.record, f.what) for f in store.verify(run, full=full).faults]


@pytest.mark.parametrize("full", [False, True])
def test_a_good_run_has_no_fault(good, full):
    calls = []
    found = attnprobe.verify(good, full=full, on_progress=lambda *done: calls.append(done))
    assert found == store.Verification(good, full, True, 2, 4, ())
    assert found.good
    assert calls == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize("encoding", ["u8", "f32"])
def test_every_encoding_passes(tmp_path, captures, encoding):
    keep = ("rows", "steps", "pooled")
    writer = open_writer(tmp_path / "run", captures, keep=keep, encoding=encoding)
    write_missing(writer, captures)
    assert faults(tmp_path / "run") == []


def test_every_flipped_bit_is_reported(run):
    rng = np.random.default_rng(0)
    for file in sorted(path for path in run.rglob("*") if path.is_file()):
        data = bytearray(file.read_bytes())
        for bit in rng.integers(0, 8 * len(data), 12):
            data[bit // 8] ^= 1 << bit % 8
            file.write_bytes(data)
            where = file.relative_to(run).as_posix()
            assert where in {fault[0] for fault in faults(run, full=False)}, (where, bit)
            data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
    assert faults(run) == []


def test_a_flip_that_leaves_the_value_the_same_is_reported(run):
    """In JSON, `3e-05` and `3E-05` are one number."""
    manifest = run / "manifest.json"
    data = manifest.read_bytes()
    assert data.count(b"3e-05") == 4
    manifest.write_bytes(data.replace(b"3e-05", b"3E-05", 1))
    [(where, record, what)] = faults(run)
    assert (where, record) == ("manifest.json", None)
    assert what.startswith("the file is not what was written; got checksum ")
    with pytest.raises(FormatError, match="the file is not what was written"):
        store.open_run(run)


def test_damaged_data_is_pinned_to_its_record_and_the_rest_goes_on(run):
    with h5py.File(run / SHARD) as file:
        chunk = file["weights"].id.get_chunk_info(0)
    data = bytearray((run / SHARD).read_bytes())
    data[chunk.byte_offset + 10] ^= 1
    (run / SHARD).write_bytes(data)
    (run / "shards/chunk-00001.json").unlink()
    found = faults(run)
    assert ("shards/chunk-00001.json", None, "the receipt is missing") in found
    assert any(f[0] == SHARD and f[1] is None and "not what was sealed" in f[2] for f in found)
    damaged = {record for where, record, what in found if "/weights cannot be read" in what}
    assert damaged == {RECORD, "task0-000/stepwise"}


def test_what_does_not_belong_there_is_named(run):
    for name in ("chunk-00002.h5", "chunk-0.h5", "notes.txt"):
        (run / "shards" / name).touch()
    (run / "shards/chunk-00000.h5.host.1.0123abcd-0123ab.tmp").touch()
    (run / "notes.txt").touch()
    what = "the file does not belong to the run"
    names = ("chunk-0.h5", "chunk-00002.h5", "notes.txt")
    assert faults(run) == [(f"shards/{name}", None, what) for name in names]


def test_missing_files_are_faults(run):
    (run / SHARD).unlink()
    [(where, record, what)] = faults(run, full=False)
    assert (where, record) == (SHARD, None)
    assert what.startswith("the shard cannot be read; got ")
    (run / "manifest.json").unlink()
    [(where, _, what)] = faults(run)
    assert (where, what) == ("manifest.json", "a file of the run is missing")
    shutil.rmtree(run)
    with pytest.raises(FormatError, match=r"there is no run; expected a folder with man"):
        store.verify(run)


def test_a_receipt_that_says_other_than_the_manifest_is_a_fault(run):
    edit_json(run / "shards/chunk-00000.json", lambda r: r["records"].update(n_tokens=[1, 1]))
    where = "shards/chunk-00000.json"
    assert faults(run, full=False) == [(where, None, "says other than the manifest")]


def rewrite(run, name, change):
    """Change a column, and make CRC, receipt and manifest vouch for it."""
    path = run / SHARD
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        dataset = cast(h5py.Dataset, file[name])
        data = dataset[...]
        change(data)
        dataset[...] = data
    reseal(run)
    with store.open_run(run) as opened:
        receipt = opened.receipts[0]
        shard = Shard.open(path, receipt, opened.manifest, sealed=True)
        sums = [record_crc(shard, record) for record in range(2)]
        shard.close()
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        numbers = cast(h5py.Dataset, file["record/numbers"])
        numbers[:, NUMBERS.index("crc32")] = sums
    reseal(run)


def halve(data):
    data[1, 2] //= 2


def nine_at_once(data):
    data[0, NUMBERS.index("batch_size")] = 9


def first(value):
    def change(data):
        data[0] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("weights", halve, r"/weights of query \d+ sum to 0\.\d+ at layer 1, head 2"),
        ("step_mass", halve, r"/step_mass of query \d+ sums to 0\.\d+ at layer 1, head 2"),
        ("pooled", halve, r"/pooled of query \d+ sums to 0\.\d+ at layer 1, head 2"),
        ("step/log_prob", first(np.nan), "/step/log_prob holds what is no log-probability"),
        ("step/log_prob", first(1.0), "/step/log_prob holds what is no log-probability"),
        ("step/predicted", first(-1), "/step/predicted holds a negative token id"),
        ("token/id", first(7), "its tokens, spans or text are not those of its digest"),
        ("record/numbers", nine_at_once, "/record/batch_size is not what is listed; got 9"),
        ("record/error", first(0.5), "/record/error is not what is listed"),
        ("group/is_sink", first(0), "its groups are not its spans cut at its sinks"),
        ("visible", lambda data: data.__iadd__(1000), "/visible counts more keys than a group"),
    ],
)
def test_what_was_never_right_is_found_though_all_checksums_hold(run, name, change, text):
    rewrite(run, name, change)
    found = store.verify(run, full=True).faults
    assert {fault.where for fault in found} == {SHARD}
    assert {fault.record for fault in found} <= {RECORD, "task0-000/stepwise"}
    assert any(re.match(text, fault.what) for fault in found), found


def test_rows_of_a_model_with_softmax_sinks_may_sum_to_less(tmp_path, captures, monkeypatch):
    thin = [replace(c, rows=replace(c.rows, weights=c.rows.weights * 0.5)) for c in captures]
    write_missing(open_writer(tmp_path / "a", thin, keep=("rows",)), thin)
    assert len(faults(tmp_path / "a")) == 4 * 2 * 3  # every record, layer and head
    monkeypatch.setattr(builders, "MODEL", builders.MODEL | {"softmax_sinks": True})
    write_missing(open_writer(tmp_path / "b", thin, keep=("rows",)), thin)
    assert faults(tmp_path / "b") == []


def test_an_unfinished_run_is_looked_at_as_far_as_it_is(tmp_path, captures):
    writer = open_writer(tmp_path / "run", captures, chunk_size=2)
    with writer.chunk(1) as sink:
        for capture in captures[2:]:
            sink.append(capture)
    found = store.verify(tmp_path / "run", full=True)
    assert (found.good, found.complete, found.n_shards, found.n_records) == (True, False, 1, 2)


def test_the_command_names_shard_record_and_fault(run):
    arguments = ["verify", str(run), "--full"]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "4 records in 2 shards, every record decoded, no fault" in result.stderr
    rewrite(run, "step/predicted", first(-1))
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    line = f"{SHARD}: record '{RECORD}': /step/predicted holds a negative token id"
    assert result.stdout.splitlines() == [line]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    facts = json.loads(result.stdout)
    assert (result.exit_code, facts["good"], facts["n_records"]) == (1, False, 4)
    assert facts["faults"][0]["record"] == RECORD
    result = CliRunner().invoke(app, ["verify", str(run.parent / "nothing")])
    assert result.exit_code == 2
    assert "there is no run" in result.stderr
