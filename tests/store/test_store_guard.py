"""Damaged and hostile shards are refused before any data is read."""

import re
import shutil

import h5py
import numpy as np
import pytest

from attnprobe import store
from attnprobe.errors import FormatError
from attnprobe.store.layout import RAGGED
from tests.store.builders import edit_json, make_run, reseal

RECORD = "task0-000/coarse"
FILTERS = {"shuffle": True, "compression": "gzip", "compression_opts": 4, "fletcher32": True}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("good") / "run", tasks=1)


@pytest.fixture
def run(good, tmp_path):
    return shutil.copytree(good, tmp_path / "run")


def shard_of(run):
    return run / "shards/chunk-00000.h5"


def refusal(run):
    with store.open_run(run) as opened, pytest.raises(FormatError) as error:
        opened.weights(RECORD)
    text = str(error.value)
    assert text.startswith(f"{shard_of(run)}: ")
    assert text.endswith("; the shard was damaged or not written by attnprobe; fetch it again, "
                         "or delete it and extract again.")  # fmt: skip
    return text


def test_every_flipped_byte_is_noticed(run):
    data = bytearray(shard_of(run).read_bytes())
    for position in np.linspace(0, len(data) - 1, 25).astype(int):
        data[position] ^= 1
        shard_of(run).write_bytes(data)
        assert "the content is not what was sealed; got SHA-256" in refusal(run)
        data[position] ^= 1


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


def replace(file, name, **how):
    data, dims = file[name][...], file[name].attrs["dims"]
    del file[name]
    limit = tuple(None for _ in data.shape)
    options = {"chunks": data.shape, "maxshape": limit} | FILTERS | how
    file.create_dataset(name, data=data, **options).attrs["dims"] = dims


def with_lzf(file, folder):
    replace(file, "token/id", compression="lzf", compression_opts=None)


def with_other_level(file, folder):
    replace(file, "token/id", compression_opts=9)


def without_checksum(file, folder):
    replace(file, "token/id", fletcher32=False)


def contiguous(file, folder):
    data = file["token/id"][...]
    del file["token/id"]
    file.create_dataset("token/id", data=data)


def variable_length(file, folder):
    data = file["record/id"][...]
    del file["record/id"]
    kind = h5py.string_dtype()
    file.create_dataset(
        "record/id", data=data.astype(object), dtype=kind, chunks=(64,), maxshape=(None,)
    )


def as_object_references(file, folder):
    references = np.array([file.ref], h5py.ref_dtype)
    file.create_dataset("extra", data=references, dtype=h5py.ref_dtype, chunks=(1,), **FILTERS)


def as_compound(file, folder):
    file.create_dataset("extra", (1,), [("a", "<i4"), ("b", "<f4")], chunks=(1,), **FILTERS)


def external_link(file, folder):
    with h5py.File(folder / "secret.h5", "w") as other:
        other["id"] = [1, 2, 3]
    del file["token/id"]
    file["token/id"] = h5py.ExternalLink(str(folder / "secret.h5"), "/id")


def soft_link(file, folder):
    file["extra"] = h5py.SoftLink("/token/id")


def external_storage(file, folder):
    n = len(file["token/id"])
    (folder / "secret.bin").write_bytes(bytes(4 * n))
    del file["token/id"]
    file.create_dataset("token/id", (n,), "<i4", external=[(str(folder / "secret.bin"), 0, 4 * n)])


def virtual_storage(file, folder):
    n = len(file["token/id"])
    layout = h5py.VirtualLayout((n,), "<i4")
    layout[...] = h5py.VirtualSource(str(folder / "secret.h5"), "id", (n,))
    del file["token/id"]
    file.create_virtual_dataset("token/id", layout)


def variable_length_attribute(file, folder):
    file["token"].attrs["note"] = "text of any length"


def named_type(file, folder):
    file["extra"] = np.dtype("<i4")


def large_chunks(file, folder):
    data = np.zeros(2**24 + 1, np.uint8)
    file.create_dataset("extra", data=data, chunks=data.shape, maxshape=(None,), **FILTERS)


def deep_groups(file, folder):
    file.create_group("a/b/c/d/e")


def circular_groups(file, folder):
    file["a"] = file["/"]


def missing_dataset(file, folder):
    del file["visible"]


def other_shape(file, folder):
    data = file["step/log_prob"][...]
    del file["step/log_prob"]
    data = np.concatenate([data, data])
    file.create_dataset("step/log_prob", data=data, chunks=(64,), maxshape=(None,), **FILTERS)


def other_type(file, folder):
    data = file["step/log_prob"][...].astype("<f8")
    del file["step/log_prob"]
    file.create_dataset("step/log_prob", data=data, chunks=(64,), maxshape=(None,), **FILTERS)


def missing_chunks(file, folder):
    n = len(file["step/log_prob"])
    del file["step/log_prob"]
    file.create_dataset("step/log_prob", (n,), "<f4", chunks=(2,), maxshape=(None,), **FILTERS)


def unknown_encoding(file, folder):
    file["weights"].attrs["encoding"] = np.bytes_("f8")


def another_layer(file, folder):
    file["layer"][0] = 7


def another_record(file, folder):
    file["record/id"][0] = b"task9"


def rows_beyond_the_record(file, folder):
    file["row/key_start"][1] = 1000


def rows_elsewhere(file, folder):
    file["row/start"][1] += 1


def stretches_elsewhere(file, folder):
    counts = file["record/counts"][...]
    counts[:2, RAGGED.index("pair")] += [5, 0]
    file["record/counts"][...] = counts


def stretches_negative(file, folder):
    file["record/counts"][0, RAGGED.index("pair")] = -5


def group_of_no_span(file, folder):
    file["group/span"][0] = 99


def spans_with_a_gap(file, folder):
    file["span/start"][1] += 1


def generated_by_nobody(file, folder):
    file["record/is_generated"][0] = 2


def huge_query(file, folder):
    file["pooled_query"][0] = 2**30


@pytest.mark.parametrize(
    ("tamper", "text"),
    [
        (with_lzf, "/token/id has other filters; got ['shuffle', 'lzf', 'fletcher32']"),
        (with_other_level, "expected shuffle, deflate 4, fletcher32"),
        (without_checksum, "/token/id has other filters; got ['shuffle', 'deflate']"),
        (contiguous, "/token/id is stored outside or not in chunks"),
        (variable_length, "/record/id has a forbidden type; got TypeStringID"),
        (as_object_references, "/extra has a forbidden type; got TypeReferenceID"),
        (as_compound, "/extra has a forbidden type; got TypeCompoundID"),
        (external_link, "/token/id is a soft or external link; expected hard links"),
        (soft_link, "/extra is a soft or external link"),
        (external_storage, "/token/id is stored outside or not in chunks"),
        (virtual_storage, "/token/id is stored outside or not in chunks"),
        (variable_length_attribute, "attribute 'note' of /token has a forbidden type"),
        (named_type, "/extra is neither group nor dataset"),
        (large_chunks, "/extra has too large chunks; got 16777217, expected 16777216"),
        (deep_groups, "there are too many objects"),
        (circular_groups, "there are too many objects"),
        (missing_dataset, "dataset /visible is missing"),
        (other_shape, "/step/log_prob has another shape"),
        (other_type, "/step/log_prob has another type; got float64, expected <f4"),
        (missing_chunks, "chunks of /step/log_prob are missing; got 0"),
        (unknown_encoding, "the encoding of /weights is not known"),
        (another_layer, "/layer is not what the manifest says"),
        (another_record, "the records are not those of the receipt"),
        (rows_beyond_the_record, "/row/length does not fit the record"),
        (rows_elsewhere, "/row/start does not run on from entry to entry"),
        (stretches_elsewhere, "stretches of `pair` do not fill it"),
        (stretches_negative, "stretches of `pair` do not fill it"),
        (group_of_no_span, "/group/span does not fit the record"),
        (spans_with_a_gap, "/span/start does not fit the record"),
        (generated_by_nobody, "/record/is_generated does not fit the record"),
        (huge_query, "/pooled_query does not fit the record"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_hostile_shards_are_refused(run, tmp_path, tamper, text):
    with h5py.File(shard_of(run), "r+", libver=("v110", "v110")) as file:
        tamper(file, tmp_path)
    reseal(run)
    assert text in refusal(run)


def test_a_chunk_that_skips_its_checksum_is_refused(run):
    with h5py.File(shard_of(run), "r+", libver=("v110", "v110")) as file:
        chunk = file["token/id"].id.read_direct_chunk((0,))[1]
        file["token/id"].id.write_direct_chunk((0,), chunk[:-4], filter_mask=0b100)
    reseal(run)
    assert "a chunk of /token/id goes without its filters" in refusal(run)


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
