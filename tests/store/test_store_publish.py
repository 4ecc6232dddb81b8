"""Files appear once and whole on every kind of disk, and a run is not lost by accident."""

import ctypes
import errno
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from attnprobe import store
from attnprobe.cli import app, files
from attnprobe.errors import StoreError
from attnprobe.store import publish
from attnprobe.store.publish import temporary_beside
from tests.store.builders import make_captures, open_writer, write_missing


@pytest.fixture(scope="module")
def captures():
    return make_captures(tasks=1)


def refusing(number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture(params=["link", "rename", "claim"])
def way(request, monkeypatch):
    """Each way of giving a name, on a disk that knows no better one."""
    if request.param != "link":
        monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    if request.param == "claim":
        monkeypatch.setattr(publish, "_rename_exclusively", refusing(errno.EINVAL))
    elif sys.platform == "linux":
        assert hasattr(ctypes.CDLL(None), "renameat2")
    return request.param


def test_a_name_is_given_once(way, tmp_path):
    final = tmp_path / "final"
    for text, first in (("one", True), ("two", False)):
        temporary = temporary_beside(final)
        temporary.write_text(text)
        assert publish.publish(temporary, final) is first
        assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert final.read_text() == "one"


def test_a_run_is_written_and_resumed_in_every_way(way, tmp_path, captures):
    writer = open_writer(tmp_path / "run", captures, chunk_size=2)
    with writer.chunk(0) as sink:
        for capture in captures[:2]:
            sink.append(capture)
    write_missing(open_writer(tmp_path / "run", captures, chunk_size=2), captures, chunk_size=2)
    assert store.verify(tmp_path / "run", full=True).good


def test_a_claim_is_never_taken_over(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    monkeypatch.setattr(publish, "_rename_exclusively", refusing(errno.ENOSYS))
    final, claim = tmp_path / "final", tmp_path / "final.claim"
    claim.touch()
    temporary = temporary_beside(final)
    temporary.write_text("mine")
    with pytest.raises(StoreError) as error:
        publish.publish(temporary, final)
    assert str(error.value) == (
        f"{claim}: another writer is publishing this file, or was killed while it did; "
        "if nobody writes here, delete the claim, and try again."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["final.claim"]


def test_a_link_whose_answer_was_lost_counts(monkeypatch, tmp_path):
    link = os.link

    def twice(old, new):
        link(old, new)
        link(old, new)

    monkeypatch.setattr(os, "link", twice)
    temporary = temporary_beside(tmp_path / "final")
    temporary.write_text("mine")
    assert publish.publish(temporary, tmp_path / "final") is True


@pytest.mark.parametrize("name", ["chunk-00000.json", "manifest.json"])
def test_a_disk_that_fills_up_at_a_json_file_loses_nothing(monkeypatch, tmp_path, captures, name):
    path, write = tmp_path / "run", type(tmp_path).write_bytes
    writer = open_writer(path, captures)

    def full(self, data):
        if self.name.startswith(name):
            write(self, data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    monkeypatch.setattr(type(tmp_path), "write_bytes", full)
    with pytest.raises(StoreError, match="the disk is full; free some space and give the same"):
        write_missing(writer, captures)
    monkeypatch.undo()
    assert not list(path.rglob("*.tmp"))
    assert (path / "shards/chunk-00000.h5").exists()
    again = open_writer(path, captures)
    assert again.missing() == ()
    again.complete()
    assert store.verify(path, full=True).good


def test_folders_that_cannot_be_are_named(monkeypatch, tmp_path, captures):
    with pytest.raises(StoreError, match="the name is too long for this disk; choose a shorter"):
        open_writer(tmp_path / ("n" * 300), captures)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="a file is where a folder should be; choose"):
        open_writer(tmp_path / "file/run", captures)
    monkeypatch.setattr(os, "mkdir", refusing(errno.EROFS))
    with pytest.raises(StoreError, match="the folder cannot be written; choose another folder"):
        open_writer(tmp_path / "run", captures)


def test_a_shard_of_another_run_is_neither_taken_nor_deleted(tmp_path, captures):
    """Two writers, one of which was told to overwrite while the other went on."""
    old = open_writer(tmp_path / "run", captures)
    new = open_writer(tmp_path / "run", captures, settings={"seed": 1}, overwrite=True)
    with old.chunk(0) as sink:
        for capture in captures:
            sink.append(capture)
    text = r"chunk-00000\.json: the receipt is of a run with other records or settings"
    with pytest.raises(StoreError, match=text):
        new.missing()
    (tmp_path / "run/shards/chunk-00000.json").unlink()
    with pytest.raises(StoreError, match="a shard with other records or settings is in the place"):
        new.missing()
    assert (tmp_path / "run/shards/chunk-00000.h5").exists()


def test_a_damaged_receipt_is_made_anew_once_it_is_deleted(tmp_path, captures):
    write_missing(open_writer(tmp_path / "run", captures), captures)
    receipt = tmp_path / "run/shards/chunk-00000.json"
    whole = receipt.read_bytes()
    receipt.write_bytes(whole.replace(b"0", b"1", 1))
    with pytest.raises(StoreError, match="delete it and give the extract command again"):
        open_writer(tmp_path / "run", captures).missing()
    receipt.unlink()
    assert open_writer(tmp_path / "run", captures).missing() == ()
    assert receipt.read_bytes() == whole


def test_process_numbers_of_another_container_say_nothing(monkeypatch, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    here = publish._host()
    left = tmp_path / f"chunk-00000.h5.{here}.{process.pid}.0123abcd-0123ab.tmp"
    left.touch()
    monkeypatch.setattr(publish, "_host", lambda: f"{here}-f0000000")
    publish.remove_leftovers(tmp_path)
    assert left.exists()
    monkeypatch.undo()
    publish.remove_leftovers(tmp_path)
    assert not left.exists()


@pytest.fixture
def run(tmp_path, captures):
    path = tmp_path / "run"
    writer = open_writer(path, captures, chunk_size=2)
    with writer.chunk(0) as sink:
        for capture in captures[:2]:
            sink.append(capture)
    return path


def extract(run, *options, **more):
    arguments = ["extract", "no-such-data.jsonl", "-m", "no-such-model", "-o", str(run), *options]
    return CliRunner().invoke(app, arguments, **more)


def test_overwriting_needs_a_person_or_yes(monkeypatch, run):
    result = extract(run, "--overwrite")
    assert result.exit_code == 2
    assert "nobody is there to be asked before it is replaced" in result.stderr
    assert "got a run with 2 of 4 records in 1 shards" in result.stderr
    assert "add --yes to replace it" in result.stderr

    monkeypatch.setattr(files, "can_ask", lambda: True)
    result = extract(run, "--overwrite", input="n\n")
    assert result.exit_code == 2
    assert "holds a run with 2 of 4 records in 1 shards" in result.stderr
    assert "nothing was replaced" in result.stderr
    for options, answer in ((("--overwrite",), "y\n"), (("--overwrite", "--yes"), None)):
        result = extract(run, *options, input=answer)
        assert "no-such-data.jsonl" in result.stderr  # the next fault: it went on
    assert store.verify(run).n_records == 2


def test_overwriting_nothing_needs_no_question(run, tmp_path):
    assert "no-such-data.jsonl" in extract(tmp_path / "new", "--overwrite").stderr


def test_a_run_that_cannot_be_read_is_still_told_of(run):
    (run / "manifest.json").write_text("{}")
    assert "got a run that cannot be read, 3 files" in extract(run, "--overwrite").stderr


def test_info_of_an_unfinished_run_says_how_far_it_is(run):
    result = CliRunner().invoke(app, ["info", str(run)])
    assert "not finished: 2 of 4 records, 1 of 2 shards" in result.stdout
    assert "0-2 (3)" in result.stdout
