"""`attnprobe export` and `attnprobe merge`, from the outside."""

import h5py
import pytest
import xarray as xr
from typer.testing import CliRunner

from attnprobe.cli import app, files
from attnprobe.store import open_run
from tests.store.builders import make_captures, open_writer, write_missing

RUNNER = CliRunner()


def invoke(*arguments, answer=None):
    return RUNNER.invoke(app, [str(argument) for argument in arguments], input=answer)


def write(path, captures):
    write_missing(open_writer(path, captures, chunk_size=2), captures, chunk_size=2)
    return path


@pytest.fixture
def runs(tmp_path):
    captures = make_captures(tasks=2)
    return [write(tmp_path / "a", captures[:4]), write(tmp_path / "b", captures[4:])]


def test_a_run_becomes_one_file(runs, tmp_path):
    for out in (tmp_path / "one.h5", tmp_path / "one.nc"):
        done = invoke("export", runs[0], "-o", out)
        assert (done.exit_code, done.stdout) == (0, ""), done.output
        assert f"{out}: 4 records, " in done.stderr
        assert "not finished" not in done.stderr
    with h5py.File(tmp_path / "one.h5") as one:
        assert len(one["shards"]) == 2
    with xr.open_dataset(tmp_path / "one.nc", engine="h5netcdf") as dataset:
        assert dataset.sizes["record"] == 4


def test_what_an_unfinished_run_gives_is_said(tmp_path):
    captures = make_captures(tasks=1)
    writer = open_writer(tmp_path / "run", captures, chunk_size=2)
    with writer.chunk(1) as sink:
        for capture in captures[2:]:
            sink.append(capture)
    done = invoke("export", tmp_path / "run", "-o", tmp_path / "one.h5")
    assert done.exit_code == 0
    assert (
        f"{tmp_path / 'run'} is not finished: 1 of 2 chunks are sealed, and only they are in the "
        "file" in done.stderr
    )


def test_runs_are_merged(runs, tmp_path):
    done = invoke("merge", *runs, "-o", tmp_path / "all")
    assert (done.exit_code, done.stdout) == (0, ""), done.output
    assert f"{tmp_path / 'all'}: 8 records of 2 runs" in done.stderr
    with open_run(tmp_path / "all") as merged:
        assert len(merged.records) == 8
    done = invoke("merge", runs[0], runs[0], "-o", tmp_path / "twice")
    assert done.exit_code == 2
    assert "error: " in done.stderr
    assert "record 'task0-000/coarse' stands in two runs" in done.stderr


@pytest.fixture
def somebody(monkeypatch):
    """A person at a terminal."""
    monkeypatch.setattr(files, "can_ask", lambda: True)


@pytest.mark.parametrize(
    ("answer", "flags", "replaced"),
    [("n\n", ["--overwrite"], False), ("y\n", ["--overwrite"], True),
     ("", ["--overwrite", "--yes"], True), ("y\n", ["--yes"], False)],
)  # fmt: skip
@pytest.mark.usefixtures("somebody")
def test_what_is_there_is_replaced_only_if_one_says_so(runs, tmp_path, answer, flags, replaced):
    out = tmp_path / "one.h5"
    out.write_text("mine")
    done = invoke("export", runs[0], "-o", out, *flags, answer=answer)
    assert done.exit_code == (0 if replaced else 2)
    assert (out.read_bytes() == b"mine") is not replaced
    if not replaced:
        fix = "nothing was replaced" if "--overwrite" in flags else "or overwrite it"
        assert fix in done.stderr


@pytest.mark.usefixtures("somebody")
def test_a_merge_replaces_a_run_only_if_one_says_so(runs, tmp_path):
    out = write(tmp_path / "all", make_captures(tasks=1, seed=1))
    done = invoke("merge", *runs, "-o", out, "--overwrite", answer="n\n")
    assert (done.exit_code, "nothing was replaced" in done.stderr) == (2, True)
    with open_run(out) as run:
        assert len(run.records) == 4
    assert invoke("merge", *runs, "-o", out, "--overwrite", "--yes").exit_code == 0
    with open_run(out) as run:
        assert len(run.records) == 8


def test_where_nobody_can_be_asked_nothing_is_replaced(runs, tmp_path):
    (tmp_path / "one.h5").write_text("mine")
    done = invoke("export", runs[0], "-o", tmp_path / "one.h5", "--overwrite", answer="y\n")
    assert done.exit_code == 2
    assert "nobody is there to be asked before it is replaced" in done.stderr
    assert "add --yes to replace it" in done.stderr
    assert (tmp_path / "one.h5").read_text() == "mine"
