"""Runs put together."""

import json

import pytest

from attnprobe import store
from attnprobe.errors import FormatError, StoreError
from attnprobe.store import merging
from attnprobe.store.merging import merge
from tests.store.builders import edit_json, make_captures, open_writer, write_missing


def write(path, captures, **options):
    write_missing(open_writer(path, captures, chunk_size=2, **options), captures, chunk_size=2)
    return path


@pytest.fixture(scope="module")
def captures():
    return make_captures(tasks=2)


@pytest.fixture
def runs(tmp_path, captures):
    """Two runs of four records, each in two shards."""
    return [write(tmp_path / "a", captures[:4]), write(tmp_path / "b", captures[4:])]


def files(path):
    """Every file of a run, but for when it was begun."""
    found = {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    manifest = json.loads(found.pop("manifest.json"))
    return found | {"manifest": {k: v for k, v in manifest.items() if k not in VARYING}}


VARYING = ("created", "checksum")


def test_merged_runs_hold_all_records_in_the_order_given(tmp_path, runs, captures):
    calls = []
    out = merge(runs[::-1], tmp_path / "all", on_progress=lambda *done: calls.append(done))
    assert out == tmp_path / "all"
    assert calls == [(0, 8), (2, 8), (4, 8), (6, 8), (8, 8)]
    expected = [c.encoding.record.id for c in captures[4:] + captures[:4]]
    with store.open_run(out) as merged, store.open_run(runs[0]) as first:
        assert merged.complete
        assert merged.records.index.tolist() == expected
        assert merged.manifest.settings_hash == first.manifest.settings_hash
        for record_id in first.records.index:
            assert merged.weights(record_id).identical(first.weights(record_id))
            assert merged.pooled(record_id).identical(first.pooled(record_id))
            assert merged.encoding(record_id).digest == first.encoding(record_id).digest


def test_shards_are_carried_over_byte_for_byte_and_the_result_verifies(tmp_path, runs):
    before = [files(run) for run in runs]
    out = merge(runs, tmp_path / "all")
    shards = [(run / "shards" / f"chunk-{n:05d}.h5").read_bytes() for run in runs for n in range(2)]
    merged = [(out / "shards" / f"chunk-{n:05d}.h5").read_bytes() for n in range(4)]
    assert merged == shards
    assert [files(run) for run in runs] == before
    found = store.verify(out, full=True)
    assert found.complete
    assert not found.faults
    assert (found.n_shards, found.n_records) == (4, 8)


@pytest.mark.parametrize("sealed", [0, 1, 3, 4])
def test_an_interrupted_merge_is_continued_and_ends_the_same(monkeypatch, tmp_path, runs, sealed):
    whole = files(merge(runs, tmp_path / "whole"))
    copy, done = merging._copied, []

    def stop(source, temporary):
        if len(done) == sealed:
            temporary.write_bytes(b"half a shard")
            raise KeyboardInterrupt
        done.append(source)
        return copy(source, temporary)

    monkeypatch.setattr(merging, "_copied", stop)
    out = tmp_path / "out"
    if sealed < 4:
        with pytest.raises(KeyboardInterrupt):
            merge(runs, out)
        with store.open_run(out) as run:
            assert not run.complete
            assert len(run.records) == 2 * sealed
    monkeypatch.undo()
    merge(runs, out)
    assert files(out) == whole


def test_a_shard_published_without_its_receipt_gets_the_same_one(monkeypatch, tmp_path, runs):
    whole = files(merge(runs, tmp_path / "whole"))

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(merging, "write_receipt", stop)
    with pytest.raises(KeyboardInterrupt):
        merge(runs, tmp_path / "out")
    monkeypatch.undo()
    assert (tmp_path / "out/shards/chunk-00000.h5").exists()
    assert files(merge(runs, tmp_path / "out")) == whole


def test_runs_of_other_settings_are_refused_with_what_differs(tmp_path, captures, runs):
    other = write(tmp_path / "c", captures[4:], encoding="f32", settings={"dtype": "bfloat16"})
    with pytest.raises(StoreError) as error:
        merge([runs[0], other], tmp_path / "all")
    assert str(error.value) == (
        "the runs were not made with the same settings; merge only such that were:\n"
        f"  settings.dtype: {runs[0]} has nothing, {other} has 'bfloat16'\n"
        f"  settings.encoding: {runs[0]} has 'u16', {other} has 'f32'."
    )
    assert not (tmp_path / "all").exists()


def test_runs_of_other_heads_are_refused(tmp_path, runs):
    captures = make_captures(tasks=1, n_heads=2, seed=1)
    with pytest.raises(StoreError, match=r"heads: .*a has \[0, 1, 2\], .*c has \[0, 1\]"):
        merge([runs[0], write(tmp_path / "c", captures)], tmp_path / "all")


def test_a_record_that_stands_in_two_runs_is_named(tmp_path, captures, runs):
    other = write(tmp_path / "c", captures[3:])
    with pytest.raises(StoreError) as error:
        merge([runs[0], other], tmp_path / "all")
    assert str(error.value) == (
        f"{runs[0]} and {other}: record 'task0-001/stepwise' stands in two runs; "
        "merge runs of different records."
    )
    with pytest.raises(StoreError, match="record 'task0-000/coarse' stands in two runs"):
        merge([runs[0], runs[0]], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_an_unfinished_run_is_refused_with_what_to_do(tmp_path, captures, runs):
    open_writer(tmp_path / "c", captures)
    with pytest.raises(StoreError) as error:
        merge([*runs, tmp_path / "c"], tmp_path / "all")
    assert str(error.value) == (
        f"{tmp_path / 'c'}: the run is not finished; give its extract command again, then merge."
    )


def test_a_run_is_not_merged_into_itself(tmp_path, runs):
    before = files(runs[0])
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="a run cannot be merged into itself; name another"):
            merge(runs, tmp_path / "b/../a", overwrite=overwrite)
    assert files(runs[0]) == before


def test_what_is_no_run_is_refused(tmp_path, runs):
    with pytest.raises(StoreError, match="nothing to merge; expected at least one run"):
        merge([], tmp_path / "all")
    with pytest.raises(FormatError, match="a file of the run is missing; is this the folder"):
        merge([*runs, tmp_path / "nowhere"], tmp_path / "all")
    (tmp_path / "one.h5").touch()
    with pytest.raises(StoreError, match="this is a file, not a folder; expected the folder of"):
        merge([tmp_path / "one.h5"], tmp_path / "all")


def test_another_run_in_the_way_stays_unless_overwritten(tmp_path, captures, runs):
    out = write(tmp_path / "all", captures[:2])
    before = files(out)
    with pytest.raises(StoreError, match="records: run has 2, asked for 8"):
        merge(runs, out)
    assert files(out) == before
    merge(runs, out, overwrite=True)
    assert files(out) == files(merge(runs, tmp_path / "other"))


@pytest.mark.parametrize("size", [1000, None])
def test_a_damaged_shard_is_named_and_not_carried_over(tmp_path, runs, size):
    shard = runs[1] / "shards/chunk-00001.h5"
    data = bytearray(shard.read_bytes())
    data[4000] ^= 1
    shard.write_bytes(data[:size])
    with pytest.raises(FormatError, match=r"b/shards/chunk-00001.h5: the content is not what was"):
        merge(runs, tmp_path / "all")
    assert not (tmp_path / "all/shards/chunk-00003.h5").exists()
    assert not list((tmp_path / "all").rglob("*.tmp"))
    shard.unlink()
    with pytest.raises(FormatError, match=r"the shard cannot be read; got No such file.*extract"):
        merge(runs, tmp_path / "all")


def test_a_newer_minor_version_is_not_stripped_of_what_it_adds(tmp_path, runs):
    manifest = runs[1] / "manifest.json"
    edit_json(manifest, lambda value: value.update(format_version="1.999", novelty=1))
    with pytest.raises(StoreError, match=r"got format version 1\.999, expected at most 1"):
        merge(runs, tmp_path / "all")
