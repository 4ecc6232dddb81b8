"""Damaged and hostile shards are refused before any data is read."""

import os
import re
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from attnprobe import store
from attnprobe.errors import FormatError
from attnprobe.store import shard
from attnprobe.store.guard import check_sealed
from tests.store.attacks import DATA, FILTERS, STRUCTURE
from tests.store.builders import (
    edit_json,
    make_captures,
    make_run,
    open_writer,
    reseal,
    write_missing,
)

RECORD = "task0-000/coarse"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("good") / "run", tasks=1)


@pytest.fixture
def run(good, tmp_path):
    return shutil.copytree(good, tmp_path / "run")


def shard_of(run):
    return run / "shards/chunk-00000.h5"


def refusal(run, read="weights"):
    with store.open_run(run) as opened, pytest.raises(FormatError) as error:
        getattr(opened, read)(RECORD)
    text = str(error.value)
    assert text.startswith(f"{shard_of(run)}: ")
    assert text.endswith("; the shard was damaged or not written by attnprobe; fetch it again, "
                         "or delete it and extract again.")  # fmt: skip
    return text


def everything(run):
    with store.open_run(run) as opened:
        names = ("weights", "pooled", "step_mass", "predictions", "encoding")
        return [repr(getattr(opened, name)(RECORD)) for name in names] + [
            opened.weights(RECORD).values.tobytes(), opened.pooled(RECORD).values.tobytes(),
        ]  # fmt: skip


def test_no_flipped_bit_is_read_silently(run):
    good, data = everything(run), bytearray(shard_of(run).read_bytes())
    n_refused = 0
    for number, position in enumerate(np.linspace(0, len(data) - 1, 150).astype(int)):
        data[position] ^= 1 << number % 8
        shard_of(run).write_bytes(data)
        try:
            assert everything(run) == good  # a byte that nothing depends on
        except FormatError:
            n_refused += 1
        data[position] ^= 1 << number % 8
    assert n_refused > 75


def test_a_flipped_byte_is_noticed_by_the_hash(run):
    data = bytearray(shard_of(run).read_bytes())
    data[-1] ^= 1
    shard_of(run).write_bytes(data)
    opened = store.open_run(run)
    with pytest.raises(FormatError, match="the content is not what was sealed; got SHA-256"):
        check_sealed(shard_of(run), opened.receipts[0])


def test_a_flipped_byte_of_data_is_noticed_even_if_the_receipt_vouches_for_it(run):
    with h5py.File(shard_of(run)) as file:
        chunk = file["weights"].id.get_chunk_info(0)
    data = bytearray(shard_of(run).read_bytes())
    data[chunk.byte_offset + 10] ^= 1
    shard_of(run).write_bytes(data)
    reseal(run)
    assert "/weights cannot be read" in refusal(run)


def test_a_truncated_shard_is_refused(run):
    shard_of(run).write_bytes(shard_of(run).read_bytes()[:-1])
    assert re.search(r"the size is not the receipt's; got \d+ bytes, expected \d+", refusal(run))


def test_what_is_no_hdf5_is_refused(run):
    shard_of(run).write_bytes(b"PK not HDF5")
    reseal(run)
    assert "this is no readable HDF5 file" in refusal(run)


def test_a_missing_shard_is_refused(run):
    shard_of(run).unlink()
    assert "the shard cannot be read" in refusal(run)


@pytest.fixture
def no_attention_is_read(monkeypatch):
    monkeypatch.setattr(shard, "read_stretch", None)


@pytest.fixture
def nothing_is_read(monkeypatch, no_attention_is_read):
    monkeypatch.setattr(shard, "read_whole", None)


@pytest.mark.parametrize("name", STRUCTURE)
@pytest.mark.usefixtures("nothing_is_read")
def test_hostile_structures_are_refused(run, name):
    STRUCTURE[name].apply(run)
    assert STRUCTURE[name].text in refusal(run, STRUCTURE[name].read)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.usefixtures("no_attention_is_read")
def test_hostile_indices_are_refused(run, name):
    DATA[name].apply(run)
    for _ in range(2):  # what was refused once stays refused
        assert DATA[name].text in refusal(run, DATA[name].read)


@pytest.mark.parametrize("name", ["virtual storage in a pipe", "external link to a pipe"])
def test_nobody_waits_for_another_file(run, name):
    STRUCTURE[name].apply(run)
    assert STRUCTURE[name].text in refusal_elsewhere(run)


def refusal_elsewhere(run):
    """Read a run in a process of its own, so that neither a hang nor a crash takes us along."""
    code = (
        "import sys, attnprobe.store as store\n"
        "from attnprobe.errors import FormatError\n"
        "try:\n"
        f"    store.open_run(sys.argv[1]).weights({RECORD!r})\n"
        "except FormatError as error:\n"
        "    print(error)"
    )
    command = [sys.executable, "-c", code, str(run)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_shard_that_is_no_file_of_its_own_is_refused(run, tmp_path):
    path = shard_of(run)
    path.rename(tmp_path / "elsewhere.h5")
    path.symlink_to(tmp_path / "elsewhere.h5")
    assert "the shard is no file of its own; got l" in refusal(run)
    path.unlink()
    os.mkfifo(path)
    assert "the shard is no file of its own; got p" in refusal_elsewhere(run)
    path.unlink()
    path.mkdir()
    assert "the shard is no file of its own; got d" in refusal(run)
    path.rmdir()
    path.symlink_to("/dev/zero")
    assert "the shard is no file of its own; got l" in refusal(run)


def test_shards_in_another_folder_are_refused(run, tmp_path):
    (run / "shards").rename(tmp_path / "elsewhere")
    (run / "shards").symlink_to(tmp_path / "elsewhere")
    assert "the folder of the shards is no folder, but leads elsewhere" in refusal(run)


def test_a_user_block_is_refused(run):
    shard_of(run).write_bytes(bytes(512) + shard_of(run).read_bytes())
    reseal(run)
    assert "expected a superblock of version 2 or 3" in refusal(run)


def test_files_of_older_make_are_refused(run):
    with h5py.File(shard_of(run)) as good, h5py.File(run / "old.h5", "w", libver="earliest") as old:
        for name in good:
            good.copy(name, old)
    (run / "old.h5").replace(shard_of(run))
    reseal(run)
    assert "expected a superblock of version 2 or 3" in refusal(run)


def test_sizes_that_the_receipt_agrees_to_must_still_fit_into_the_file(run):
    STRUCTURE["4 EiB"].apply(run)
    with h5py.File(shard_of(run), "r+", libver=("v110", "v110")) as file:
        del file["token/id"], file["extra"]
        file.create_dataset("token/id", (2**60,), "<i4", chunks=(2**20,), **FILTERS)
    reseal(run)
    edit_json(run / "manifest.json", lambda m: m["shards"]["counts"].update(token=[2**60]))
    assert "/token/id claims more than the file can hold; got 4611686018427387904" in refusal(run)


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0, -0.5])
def test_weights_that_are_no_probabilities_are_refused(tmp_path, value):
    captures = make_captures(tasks=1)
    run = tmp_path / "run"
    write_missing(open_writer(run, captures, encoding="f32"), captures)
    with h5py.File(shard_of(run), "r+", libver=("v110", "v110")) as file:
        file["weights"][0, 0, 3] = value
    reseal(run)
    assert "/weights holds values that are no probabilities" in refusal(run)


def test_a_shard_that_changes_while_the_run_is_open_is_refused(run):
    with store.open_run(run) as opened:
        opened.weights(RECORD)
        opened._shards[0].close()
        os.utime(shard_of(run), ns=(1, 1))
        with pytest.raises(FormatError, match="the shard was changed while the run was open"):
            opened._shards[0].reopen()


def test_a_record_that_cannot_be_rebuilt_is_refused(run):
    with h5py.File(shard_of(run), "r+", libver=("v110", "v110")) as file:
        file["record/json"][0] = ord("[")
    reseal(run)
    with (
        store.open_run(run) as opened,
        pytest.raises(FormatError, match="record 0 cannot be rebuilt"),
    ):
        opened.encoding(RECORD)


def test_unknown_additions_of_a_minor_version_are_ignored(run):
    with h5py.File(shard_of(run), "r+", libver=("v110", "v110")) as file:
        file.create_dataset("attribution/ig", data=np.arange(5), chunks=(5,), **FILTERS)
        file["weights"].attrs["later"] = 3
    reseal(run)

    def change(manifest):
        manifest["format_version"] = "1.7"
        manifest["later"] = {"any": 1}
        manifest["shards"]["later"] = [1]
        manifest["shards"]["counts"]["later"] = [5]

    edit_json(run / "manifest.json", change)
    with store.open_run(run) as opened:
        assert opened.weights(RECORD).size


def test_a_newer_major_version_is_refused(run):
    edit_json(run / "manifest.json", lambda manifest: manifest.update(format_version="2.0"))
    with pytest.raises(FormatError) as error:
        store.open_run(run)
    assert str(error.value) == (
        f"{run / 'manifest.json'}: this run was written by a newer attnprobe; "
        "got format version 2.0, expected at most 1.x; upgrade attnprobe."
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda m: m.update(format="else"),
            "no manifest of a run; expected format 'attnprobe run'",
        ),
        (lambda m: m.pop("plan"), "'plan' is missing or of the wrong kind; expected dict"),
        (lambda m: m.update(complete="yes"), "'complete' is missing or of the wrong kind"),
        (lambda m: m.update(layers=["0"]), "'layers' is damaged; expected whole numbers"),
        (lambda m: m.update(format_version="one"), "the format version cannot be read; got 'one'"),
        (lambda m: m["shards"].clear(), "'bytes' is missing or of the wrong kind; expected list"),
        (lambda m: m["shards"].update(bytes=[-1]), "'bytes' is damaged; expected 1 whole numbers"),
        (lambda m: m["plan"]["item"]["of"].pop(), "'item': 'of' is damaged; expected 4 whole"),
        (lambda m: m["records"]["n_tokens"].pop(), "'n_tokens' is damaged; expected 4 whole"),
        (lambda m: m["plan"]["id"].pop(), "'plan': 'id' is damaged; expected 4 names"),
        (lambda m: m["plan"]["sizes"].append(1), "do not hold its records; got 5, expected 4"),
    ],
)
def test_damaged_manifests_are_refused(run, change, text):
    edit_json(run / "manifest.json", change)
    with pytest.raises(FormatError, match=re.escape(text)):
        store.open_run(run)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(FormatError, match=r"is missing; is this the folder of a run\?"):
        store.open_run(tmp_path)
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(FormatError, match="this is no manifest of a run"):
        store.open_run(tmp_path)
