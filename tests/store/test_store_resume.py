"""Interrupted, doubled and foreign runs."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attnprobe import store
from attnprobe.errors import StoreError
from attnprobe.store import publish
from tests.store.builders import make_captures, open_writer, write_missing

ROOT = os.fspath(Path(__file__).parents[2])


@pytest.fixture(scope="module")
def captures():
    return make_captures(tasks=1)


def contents(path):
    """Every decoded value of a run."""
    values = {}
    with store.open_run(path) as run:
        for record_id in run.records.index:
            arrays = (run.weights(record_id), run.pooled(record_id), run.predictions(record_id))
            values[record_id] = (run.encoding(record_id).digest, *arrays)
    return values


def assert_same(path, two):
    one = contents(path)
    assert list(one) == list(two)
    for record_id, (digest, *arrays) in one.items():
        assert digest == two[record_id][0]
        assert all(a.identical(b) for a, b in zip(arrays, two[record_id][1:], strict=True))


@pytest.fixture(scope="module")
def whole(captures, tmp_path_factory):
    """Every decoded value of the run that was not interrupted."""
    path = tmp_path_factory.mktemp("whole") / "run"
    write_missing(open_writer(path, captures, chunk_size=2), captures, chunk_size=2)
    return contents(path)


def write_chunk(writer, index, captures, error=None):
    with writer.chunk(index) as sink:
        for capture in captures:
            sink.append(capture)
        if error:
            raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_no_trace_and_the_rest_can_follow(tmp_path, captures, whole, error):
    writer = open_writer(tmp_path / "run", captures, chunk_size=2)
    write_chunk(writer, 0, captures[:2])
    with pytest.raises(error):
        write_chunk(writer, 1, captures[2:3], error("broken off"))
    names = sorted(file.name for file in (tmp_path / "run/shards").iterdir())
    assert names == ["chunk-00000.h5", "chunk-00000.json"]

    with store.open_run(tmp_path / "run") as run:
        assert not run.complete
        assert run.records.index.tolist() == [c.encoding.record.id for c in captures[:2]]
        assert run.info()["chunks"] == {"sealed": 1, "planned": 2}

    again = open_writer(tmp_path / "run", captures, chunk_size=2)
    assert again.missing() == (1,)
    write_missing(again, captures, chunk_size=2)
    assert_same(tmp_path / "run", whole)


KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.store.builders import chunked, make_captures, open_writer
captures = make_captures(tasks=1)
writer = open_writer(Path({path!r}), captures, chunk_size=2)
for index in writer.missing():
    with writer.chunk(index) as sink:
        for position, capture in enumerate(chunked(captures, 2)[index]):
            sink.append(capture)
            if (index, position) == (1, 0):
                sink.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_run_is_finished_by_the_same_call(tmp_path, captures, whole):
    path = tmp_path / "run"
    script = KILLED.format(root=ROOT, path=os.fspath(path))
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert [f for f in (path / "shards").iterdir() if f.suffix == ".tmp"]

    writer = open_writer(path, captures, chunk_size=2)
    assert not [f for f in (path / "shards").iterdir() if f.suffix == ".tmp"]
    assert writer.missing() == (1,)
    write_missing(writer, captures, chunk_size=2)
    assert_same(path, whole)


def test_a_late_double_never_replaces_a_sealed_shard(tmp_path, captures):
    first = open_writer(tmp_path / "run", captures, chunk_size=2)
    second = open_writer(tmp_path / "run", captures, chunk_size=2)
    shard = tmp_path / "run/shards/chunk-00000.h5"
    with first.chunk(0) as one, second.chunk(0) as two:
        for capture in captures[:2]:
            one.append(capture)
            two.append(capture)
    inode = shard.stat().st_ino
    write_chunk(second, 0, captures[:2])
    assert shard.stat().st_ino == inode
    assert sorted(f.name for f in shard.parent.iterdir()) == ["chunk-00000.h5", "chunk-00000.json"]
    assert second.missing() == (1,)


def test_a_shard_without_receipt_gets_one_if_it_is_whole(tmp_path, captures, whole):
    write_missing(open_writer(tmp_path / "run", captures, chunk_size=2), captures, chunk_size=2)
    receipt = tmp_path / "run/shards/chunk-00001.json"
    before = receipt.read_text()
    receipt.unlink()
    assert open_writer(tmp_path / "run", captures, chunk_size=2).missing() == ()
    assert receipt.read_text() == before


@pytest.mark.parametrize("size", [0, 4000, -7])
def test_a_torn_shard_without_receipt_is_done_again(tmp_path, captures, whole, size):
    writer = open_writer(tmp_path / "run", captures, chunk_size=2)
    write_missing(writer, captures, chunk_size=2)
    shard = tmp_path / "run/shards/chunk-00001.h5"
    shard.with_suffix(".json").unlink()
    os.truncate(shard, size if size >= 0 else shard.stat().st_size + size)
    writer = open_writer(tmp_path / "run", captures, chunk_size=2)
    assert writer.missing() == (1,)
    write_missing(writer, captures, chunk_size=2)
    assert_same(tmp_path / "run", whole)


def test_a_receipted_shard_of_another_size_is_an_error(tmp_path, captures):
    write_missing(open_writer(tmp_path / "run", captures), captures)
    os.truncate(tmp_path / "run/shards/chunk-00000.h5", 1000)
    with pytest.raises(StoreError, match="a sealed shard is damaged; got 1000 bytes"):
        open_writer(tmp_path / "run", captures).missing()


def test_leftovers_of_the_living_and_of_other_hosts_stay(tmp_path, captures):
    open_writer(tmp_path / "run", captures)
    shards = tmp_path / "run/shards"
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    host = publish._host()
    dead = shards / f"chunk-00000.h5.{host}.{process.pid}.0123abcd-0123ab.tmp"
    reborn = shards / f"chunk-00000.h5.{host}.{os.getpid()}.0123abcd-0123ab.tmp"
    living = shards / f"chunk-00000.h5.{host}.{os.getppid()}.0123abcd-0123ab.tmp"
    foreign = shards / f"chunk-00000.h5.elsewhere.{process.pid}.0123abcd-0123ab.tmp"
    for path in (dead, reborn, living, foreign):
        path.touch()
    open_writer(tmp_path / "run", captures)
    assert [path.exists() for path in (dead, reborn, living, foreign)] == [False, False, True, True]


def test_without_hard_links_publishing_is_still_exclusive(monkeypatch, tmp_path, captures, whole):
    def refuse(*_: object):
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    writer = open_writer(tmp_path / "run", captures, chunk_size=2)
    write_missing(writer, captures, chunk_size=2)
    inode = (tmp_path / "run/shards/chunk-00000.h5").stat().st_ino
    write_chunk(writer, 0, captures[:2])
    assert (tmp_path / "run/shards/chunk-00000.h5").stat().st_ino == inode
    assert_same(tmp_path / "run", whole)


def test_other_settings_are_refused_with_what_differs(tmp_path, captures):
    open_writer(tmp_path / "run", captures, settings={"device": {"name": "cpu"}})
    with pytest.raises(StoreError) as error:
        open_writer(
            tmp_path / "run", captures, encoding="f32",
            settings={"device": {"name": "cuda"}, "batch": 4},
        )  # fmt: skip
    assert str(error.value) == (
        f"{tmp_path / 'run'}: a run with other settings is here; "
        "name another folder, or remove or overwrite this one:\n"
        "  settings.batch: run has nothing, asked for 4\n"
        "  settings.device.name: run has 'cpu', asked for 'cuda'\n"
        "  settings.encoding: run has 'u16', asked for 'f32'."
    )


def test_another_plan_is_refused_with_what_differs(tmp_path, captures):
    open_writer(tmp_path / "run", captures)
    with pytest.raises(StoreError, match="plan: run has 1 chunks, asked for 2 or another order"):
        open_writer(tmp_path / "run", captures, chunk_size=2)
    with pytest.raises(StoreError, match="records: run has 4, asked for 1") as error:
        open_writer(tmp_path / "run", captures[:1])
    assert "records only in the run: 'task0-000/stepwise', 'task0-001/coarse'" in str(error.value)
    other = make_captures(tasks=1, seed=1)
    with pytest.raises(StoreError, match=r"with another text, label, meta.* and 1 more"):
        open_writer(tmp_path / "run", other)


def test_overwrite_removes_the_run_and_nothing_else(tmp_path, captures):
    write_missing(open_writer(tmp_path / "run", captures, chunk_size=2), captures, chunk_size=2)
    (tmp_path / "run/notes.txt").write_text("mine")
    (tmp_path / "run/shards/figure.png").write_text("mine")
    writer = open_writer(tmp_path / "run", captures, encoding="f32", overwrite=True)
    assert writer.missing() == (0,)
    write_missing(writer, captures)
    assert (tmp_path / "run/notes.txt").read_text() == "mine"
    assert (tmp_path / "run/shards/figure.png").read_text() == "mine"
    assert len(list((tmp_path / "run/shards").glob("chunk-*"))) == 2


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(tmp_path, captures, overwrite):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(StoreError, match=r"the folder is not empty and holds no run; got thesis"):
        open_writer(tmp_path, captures, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(StoreError, match="this is a file, not a folder"):
        open_writer(tmp_path / "thesis.tex", captures, overwrite=overwrite)


def test_a_run_killed_before_its_manifest_begins_anew(tmp_path, captures):
    (tmp_path / "run/shards").mkdir(parents=True)
    (tmp_path / "run/manifest.json.host.1.0123abcd-0123ab.tmp").touch()
    assert open_writer(tmp_path / "run", captures).missing() == (0,)


def test_captures_must_follow_the_plan(tmp_path, captures):
    writer = open_writer(tmp_path / "run", captures, chunk_size=2)
    other = make_captures(tasks=1, seed=1)
    for chunk, given, text in (
        (0, captures[1:2], "in the order of the plan; got 'task0-000/stepwise'"),
        (0, captures[:3], "the chunk is already full"),
        (0, captures[:1], "captures are missing; got 1 records, expected 2"),
        (2, [], "there is no such chunk; got 2, expected 0 to 1"),
        (0, other, "encoded otherwise than planned"),
    ):
        with pytest.raises(StoreError, match=text):
            write_chunk(writer, chunk, given)
    assert writer.missing() == (0, 1)
    with pytest.raises(StoreError, match="not finished; got 0 of 2 chunks"):
        writer.complete()


def test_a_chunk_with_a_refused_capture_is_never_sealed(tmp_path, captures):
    capture = make_captures(tasks=1)[0]
    capture.rows.weights[1, 2, 5] = np.nan
    writer = open_writer(tmp_path / "run", captures[:1])

    def swallow():
        with writer.chunk(0) as sink:
            refused = pytest.raises(
                StoreError, match="'task0-000/coarse', /weights at layer position 1: v"
            )
            with refused:
                sink.append(capture)

    with pytest.raises(StoreError, match="must be done again"):
        swallow()
    assert writer.missing() == (0,)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"keep": []}, "settings 'keep' is not understood"),
        ({"keep": ["cells"]}, "expected some of rows, full, steps, pooled"),
        ({"encoding": "f16"}, "no encoding is called 'f16'"),
        ({"path": {1, 2}}, "settings: a value cannot be written as JSON"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path, captures, change, text):
    from attnprobe.errors import AttnprobeError

    with pytest.raises(AttnprobeError, match=text):
        open_writer(tmp_path / "run", captures, settings=change)
    assert not (tmp_path / "run").exists()


def test_plans_that_mean_nothing_are_refused(tmp_path, captures):
    with pytest.raises(StoreError, match="stands twice in the plan; got 'task0-000/coarse'"):
        open_writer(tmp_path / "run", [captures[0], captures[0]])
    with pytest.raises(StoreError, match="a chunk of the plan is empty"):
        store.RunWriter.open(
            tmp_path, {"keep": ["rows"], "encoding": "u16"}, {}, (0,), (0,), [[]]
        )  # fmt: skip


@pytest.mark.parametrize(
    ("number", "text"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "cannot be written")]
)
def test_a_full_or_read_only_disk_is_named(monkeypatch, tmp_path, captures, number, text):
    writer = open_writer(tmp_path / "run", captures)

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=text):
        write_chunk(writer, 0, captures)
    monkeypatch.undo()
    assert list((tmp_path / "run/shards").iterdir()) == []
    assert writer.missing() == (0,)


FULL = """
import resource, signal, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from attnprobe.errors import StoreError
from tests.store.builders import make_captures, open_writer, write_missing
captures = make_captures(tasks=1)
writer = open_writer(Path({path!r}), captures)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    write_missing(writer, captures)
except StoreError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_file_that_cannot_grow_leaves_the_run_as_it_was(tmp_path, captures):
    path = tmp_path / "run"
    script = FULL.format(root=ROOT, path=os.fspath(path))
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "writing failed" in done.stdout
    assert list((path / "shards").iterdir()) == []
    write_missing(open_writer(path, captures), captures)
