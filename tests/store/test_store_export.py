"""A run as one file."""

import errno
import itertools
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from attnprobe import store
from attnprobe.errors import FormatError, MeasureError, SelectionError, StoreError
from attnprobe.store import exporting
from attnprobe.store.exporting import export
from tests.store.builders import make_captures, make_run, open_writer, write_missing


@pytest.fixture(scope="module")
def captures():
    return make_captures(tasks=2)


@pytest.fixture(scope="module")
def run(captures, tmp_path_factory):
    """Eight records in three shards."""
    path = tmp_path_factory.mktemp("export") / "run"
    write_missing(open_writer(path, captures, chunk_size=3), captures, chunk_size=3)
    return path


@pytest.fixture
def half(tmp_path, captures):
    """A run with one shard of three."""
    writer = open_writer(tmp_path / "half", captures, chunk_size=3)
    with writer.chunk(0) as sink:
        for capture in captures[:3]:
            sink.append(capture)
    return tmp_path / "half"


@pytest.fixture(scope="module")
def netcdf(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("netcdf") / "run.nc"
    export(run, path)
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        yield dataset.load()


def datasets(group):
    """Every dataset below a group by its name."""
    found = {}

    def visit(name, member):
        if isinstance(member, h5py.Dataset):
            found[name] = member

    group.visititems(visit)
    return found


def raw_chunks(dataset):
    """Every chunk as it is stored, with its filter mask."""
    steps = [range(0, n, size) for n, size in zip(dataset.shape, dataset.chunks, strict=True)]
    return {at: dataset.id.read_direct_chunk(at) for at in itertools.product(*steps)}


def test_one_hdf5_file_holds_the_chunks_of_every_shard_as_they_are(run, tmp_path):
    calls = []
    written = export(run, tmp_path / "one.h5", on_progress=lambda *done: calls.append(done))
    assert written == exporting.Exported(tmp_path / "one.h5", 8, 3, 3)
    assert written.complete
    assert calls == [(3, 8), (6, 8), (8, 8)]
    with h5py.File(tmp_path / "one.h5") as one:
        assert one.attrs["format"] == b"attnprobe run"
        assert one["manifest.json"][()].tobytes() == (run / "manifest.json").read_bytes()
        assert sorted(one["shards"]) == ["chunk-00000", "chunk-00001", "chunk-00002"]
        for chunk in range(3):
            with h5py.File(run / f"shards/chunk-{chunk:05d}.h5") as shard:
                copy = one[f"shards/chunk-{chunk:05d}"]
                assert dict(copy.attrs).keys() == dict(shard.attrs).keys()
                ours, theirs = datasets(copy), datasets(shard)
                assert ours.keys() == theirs.keys()
                assert len(ours) > 20
                for name, dataset in ours.items():
                    assert raw_chunks(dataset) == raw_chunks(theirs[name])
                    assert dict(dataset.attrs) == dict(theirs[name].attrs)


def test_an_export_is_no_run_and_that_is_said(run, tmp_path):
    export(run, tmp_path / "one.h5")
    with pytest.raises(FormatError) as error:
        store.open_run(tmp_path / "one.h5")
    assert str(error.value) == (
        f"{tmp_path / 'one.h5'}: this is a file, not a folder; expected the folder of a run; "
        "open the run that it was made from; a file of `attnprobe export` is for other tools."
    )


def test_an_unfinished_run_gives_what_is_sealed_and_says_so(half, tmp_path):
    written = export(half, tmp_path / "one.h5")
    assert (written.n_records, written.n_chunks, written.n_planned) == (3, 1, 3)
    assert not written.complete
    with h5py.File(tmp_path / "one.h5") as one:
        receipt = one["shards/chunk-00000.json"][()].tobytes()
        assert receipt == (half / "shards/chunk-00000.json").read_bytes()
        assert one["manifest.json"][()].tobytes() == (half / "manifest.json").read_bytes()
    export(half, tmp_path / "part.nc")
    with xr.open_dataset(tmp_path / "part.nc", engine="h5netcdf") as dataset:
        assert dataset.sizes["record"] == 3
        assert (dataset.attrs["chunks_exported"], dataset.attrs["chunks_planned"]) == (1, 3)


def test_a_run_without_a_sealed_shard_is_refused(tmp_path, captures):
    open_writer(tmp_path / "run", captures)
    with pytest.raises(StoreError, match="there is nothing to export yet; got no sealed chunk; gi"):
        export(tmp_path / "run", tmp_path / "one.h5")
    assert not (tmp_path / "one.h5").exists()


@pytest.mark.parametrize("ending", [".h5", ".nc"])
def test_a_file_in_the_way_stays_unless_overwritten(run, tmp_path, ending):
    out = tmp_path / f"one{ending}"
    out.write_text("mine")
    with pytest.raises(StoreError) as error:
        export(run, out)
    assert str(error.value) == (
        f"{out}: the file is already there; name another file, or overwrite it."
    )
    assert out.read_text() == "mine"
    export(run, out, overwrite=True)
    with h5py.File(out) as file:
        assert len(file) > 1
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_places_that_cannot_hold_the_file_are_named(run, tmp_path):
    with pytest.raises(SelectionError, match=r"got '.hdf'; did you mean '.h5'\? there is: .h5, .n"):
        export(run, tmp_path / "one.hdf")
    with pytest.raises(StoreError, match="no/where: there is no such folder; make it first"):
        export(run, tmp_path / "no/where/one.h5")
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(StoreError, match="this is a folder, not a file; name another file"):
        export(run, tmp_path / "folder.h5", overwrite=True)
    with pytest.raises(FormatError, match="a file of the run is missing"):
        export(tmp_path, tmp_path / "one.h5")


@pytest.mark.parametrize("ending", [".h5", ".nc"])
def test_a_damaged_shard_leaves_no_file(run, tmp_path, ending):
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", run, copy], check=True)
    shard = copy / "shards/chunk-00001.h5"
    data = bytearray(shard.read_bytes())
    data[5000] ^= 4
    shard.write_bytes(data)
    with pytest.raises(FormatError, match=r"run/shards/chunk-00001.h5: .* fetch it again"):
        export(copy, tmp_path / f"one{ending}")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("ending", [".h5", ".nc"])
def test_a_full_disk_is_named_and_leaves_no_file(monkeypatch, run, tmp_path, ending):
    from attnprobe.store.stickyfile import StickyFile

    def fail(self, data):
        self._error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)

    monkeypatch.setattr(StickyFile, "write", fail)
    with pytest.raises(StoreError, match="the disk is full; free some space"):
        export(run, tmp_path / f"one{ending}")
    assert list(tmp_path.iterdir()) == []


def test_a_file_written_meanwhile_is_not_replaced(monkeypatch, run, tmp_path):
    out, write = tmp_path / "one.h5", exporting.write_hdf5

    def slow(*args):
        write(*args)
        out.write_text("another's")

    monkeypatch.setitem(exporting.WRITERS, ".h5", slow)
    with pytest.raises(StoreError, match="the file is already there"):
        export(run, out)
    assert out.read_text() == "another's"
    assert len(list(tmp_path.iterdir())) == 1


def test_netcdf_holds_every_step_mass_as_the_run_gives_it(run, netcdf):
    assert netcdf.step_mass.dims == ("layer", "head", "cell")
    assert netcdf.step_mass.dtype == np.float32
    assert int(netcdf.n_cells.sum()) == netcdf.sizes["cell"]
    with store.open_run(run) as opened:
        for number, (record_id, mass) in enumerate(opened.iter_step_mass()):
            flat = mass.stack(cell=("step", "group"))
            mine = netcdf.isel(cell=(netcdf.cell_record == number).to_numpy())
            np.testing.assert_array_equal(mine.step_mass, flat)
            np.testing.assert_array_equal(
                mine.cell_visible, flat.visible.transpose("layer", "cell")
            )
            for label, of in (
                ("cell_step", "step"), ("cell_step_role", "step_role"), ("cell_key_role", "role"),
                ("cell_key_start", "group_start"), ("cell_key_stop", "group_stop"),
                ("cell_is_sink", "is_sink"),
            ):  # fmt: skip
                assert mine[label].to_numpy().tolist() == flat[of].to_numpy().tolist()
            assert netcdf.record[number] == record_id


def test_netcdf_holds_pooled_masses_predictions_and_tokens(run, netcdf):
    with store.open_run(run) as opened:
        for number, record_id in enumerate(opened.records.index):
            flat = opened.pooled(record_id).stack(cell=("query", "group"))
            mine = netcdf.isel(pooled_cell=(netcdf.pooled_cell_record == number).to_numpy())
            np.testing.assert_array_equal(mine.pooled, flat)
            assert mine.pooled_cell_query.to_numpy().tolist() == flat["query"].values.tolist()
            predictions = opened.predictions(record_id)
            steps = netcdf.isel(step=(netcdf.step_record == number).to_numpy())
            for name in ("log_prob", "predicted", "target", "step_text", "step_role"):
                assert steps[name].values.tolist() == predictions[name].values.tolist()
            encoding = opened.encoding(record_id)
            tokens = netcdf.isel(token=(netcdf.token_record == number).to_numpy())
            assert tuple(tokens.token_text.values) == encoding.texts
            assert tokens.token_id.values.tolist() == encoding.ids.tolist()
            roles = [span.role for span in encoding.spans for _ in range(len(span))]
            assert tokens.token_role.values.tolist() == roles
        table = netcdf[["item", "style", "task", "split", "n_prompt", "n_tokens", "n_steps"]]
        listed = opened.records[list(table)]
        assert table.to_dataframe()[list(table)].to_numpy().tolist() == listed.to_numpy().tolist()
        np.testing.assert_array_equal(netcdf.worst_error, opened.records.worst_error)


def test_netcdf_answers_what_a_reader_would_ask(run, netcdf):
    answer = netcdf.step_mass[:, :, (netcdf.cell_step_role == "answer").to_numpy()]
    by_role = answer.groupby("cell_key_role").sum()
    n_steps = int((netcdf.step_role == "answer").sum())
    np.testing.assert_allclose(by_role.sum("cell_key_role"), n_steps, rtol=1e-3)
    assert netcdf.sel(record="task1-000/stepwise")["style"].item() == "stepwise"
    assert netcdf.sel(layer=1, head=2).step_mass.dims == ("cell",)
    assert netcdf.cell_is_sink.dtype == bool


def test_netcdf_has_real_dimensions_units_and_no_fill_value(run, tmp_path):
    export(run, tmp_path / "run.nc")
    with h5py.File(tmp_path / "run.nc") as file:
        scales = [axis[0].name for axis in file["step_mass"].dims]
        assert scales == ["/layer", "/head", "/cell"]
        assert file["step_mass"].attrs["units"] == "1"
        assert file["n_steps"].attrs["sample_dimension"] == "step"
        assert file["n_cells"].attrs["sample_dimension"] == "cell"
        for dataset in datasets(file).values():
            assert "_FillValue" not in dataset.attrs
            assert h5py.check_vlen_dtype(dataset.dtype) is None
            if "long_name" in dataset.attrs and dataset.chunks:
                assert dataset.fletcher32


def test_netcdf_keeps_texts_of_any_script(tmp_path):
    captures = make_captures(tasks=1, items_per_task=1)
    for capture in captures:
        object.__setattr__(
            capture.encoding, "texts", ("数列", "", *capture.encoding.texts[2:-1], "é\n")
        )
    write_missing(open_writer(tmp_path / "run", captures), captures)
    export(tmp_path / "run", tmp_path / "run.nc")
    with xr.open_dataset(tmp_path / "run.nc", engine="h5netcdf") as dataset:
        texts = dataset.token_text.values[: captures[0].encoding.n_tokens]
        assert tuple(texts) == captures[0].encoding.texts


def test_netcdf_fills_whole_chunks_where_records_straddle_them(monkeypatch, run, netcdf, tmp_path):
    from attnprobe.store import netcdf as module

    monkeypatch.setattr(module, "LONGEST_CHUNK", 7)
    export(run, tmp_path / "small.nc")
    with h5py.File(tmp_path / "small.nc") as file:
        assert file["step_mass"].chunks == (1, 1, 7)
    with xr.open_dataset(tmp_path / "small.nc", engine="h5netcdf") as dataset:
        xr.testing.assert_identical(dataset.load().drop_encoding(), netcdf.drop_encoding())


def test_netcdf_says_what_a_run_does_not_hold(tmp_path):
    captures = make_captures(tasks=1)
    for capture in captures:
        rows = capture.rows
        object.__setattr__(rows, "queries", rows.queries - 1)
        object.__setattr__(rows, "length", rows.length - 1)
        n_pairs = int(rows.length.sum())
        object.__setattr__(rows, "weights", rows.weights[..., :n_pairs].copy())
    write_missing(open_writer(tmp_path / "run", captures, keep=("rows",)), captures)
    with pytest.raises(MeasureError, match="the run does not hold the attention of every step"):
        export(tmp_path / "run", tmp_path / "run.nc")
    assert not (tmp_path / "run.nc").exists()


MEMORY = """
import sys, tracemalloc
sys.path.insert(0, {root!r})
from pathlib import Path
from attnprobe.store.exporting import export
import h5netcdf
export({run!r}, {out!r} + "-first" + {ending!r})
tracemalloc.start()
export({run!r}, {out!r} + {ending!r})
print(tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.parametrize("ending", [".h5", ".nc"])
def test_memory_does_not_grow_with_the_run(tmp_path, ending):
    peaks = []
    for items in (1, 8):
        run = make_run(tmp_path / f"run-{items}", items_per_task=items, tasks=3)
        script = MEMORY.format(
            root=os.fspath(Path(__file__).parents[2]), run=os.fspath(run),
            out=os.fspath(tmp_path / f"one-{items}"), ending=ending,
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] < 2 * peaks[0] + 4e6
