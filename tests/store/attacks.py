"""Shards that a stranger might send: each attack builds one out of a good shard."""

import os
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t  # pyright: ignore[reportAttributeAccessIssue]

from attnprobe.store.layout import NUMBERS, RAGGED
from tests.store.builders import reseal

FILTERS = {"shuffle": True, "compression": "gzip", "compression_opts": 4, "fletcher32": True}


@dataclass(frozen=True, slots=True)
class Attack:
    """One hostile shard."""

    build: Callable[[h5py.File, Path], object]
    """Changes an open shard; the folder is for other files."""
    text: str
    """What the refusal says."""
    read: str = "weights"
    """Which method of the run comes across it."""

    def apply(self, run: Path) -> None:
        """Change the first shard of a run, and make the hashes vouch for it."""
        with h5py.File(run / "shards/chunk-00000.h5", "r+", libver=("v110", "v110")) as file:
            self.build(file, run.parent)
        reseal(run)


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
    file["row/length"][1] += 1


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
    file["record/numbers"][0, NUMBERS.index("is_generated")] = 2


def huge_query(file, folder):
    file["pooled_query"][0] = 2**30


def external_link_on_the_way(file, folder):
    with h5py.File(folder / "secret.h5", "w") as other:
        file.copy("token", other)
    del file["token"]
    file["token"] = h5py.ExternalLink(str(folder / "secret.h5"), "/token")


def external_link_to_a_pipe(file, folder):
    os.mkfifo(folder / "pipe.h5")
    del file["token/id"]
    file["token/id"] = h5py.ExternalLink(str(folder / "pipe.h5"), "/id")


def virtual_storage_in_a_pipe(file, folder):
    os.mkfifo(folder / "pipe.h5")
    layout = h5py.VirtualLayout((10,), "<i4", maxshape=(None,))
    source = h5py.VirtualSource(str(folder / "pipe.h5"), "id", (10,), maxshape=(None,))
    layout[: h5s.UNLIMITED] = source[: h5s.UNLIMITED]
    file.create_virtual_dataset("extra", layout)


def soft_link_loop(file, folder):
    file["one"], file["two"] = h5py.SoftLink("/two"), h5py.SoftLink("/one")


def soft_link_to_itself(file, folder):
    del file["token"]
    file["token"] = h5py.SoftLink("/token")


def two_names(file, folder):
    file["token/again"] = file["token/id"]


def groups_in_a_circle(file, folder):
    file["token/inner"] = file["token"]


def ten_thousand_levels(file, folder):
    group = file
    for _ in range(10_000):
        group = group.create_group("a")


def many_objects(file, folder):
    for number in range(500):
        file.create_group(f"extra/{number}")


def many_attributes(file, folder):
    for number in range(65):
        file["token"].attrs[f"note {number}"] = number


def large_attribute(file, folder):
    file["token/id"].attrs["note"] = np.bytes_(b"x" * 100_000)


def large_attribute_that_is_never_read(file, folder):
    del file["token/id"].attrs["dims"]
    file["token/id"].attrs["dims"] = np.bytes_(b"x" * 100_000)


def pickled_attribute(file, folder):
    file["token/id"].attrs["note"] = np.void(pickle.dumps({"run": "me"}))


def pickled_data(file, folder):
    data = np.array([np.void(pickle.dumps({"run": "me"}))])
    file.create_dataset("extra", data=data, chunks=(1,), **FILTERS)


def reference_attribute(file, folder):
    file["token/id"].attrs["note"] = file.ref


def object_of_any_length(file, folder):
    kind = h5py.vlen_dtype(np.int32)
    file.create_dataset("extra", (1,), kind, chunks=(1,))


def as_enum(file, folder):
    file.create_dataset("extra", data=np.array([True]), chunks=(1,), **FILTERS)


def as_array_type(file, folder):
    file.create_dataset("extra", (1,), np.dtype(("<i4", (3,))), chunks=(1,), **FILTERS)


def as_bits(file, folder):
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk((1,))
    h5d.create(file.id, b"extra", h5t.STD_B8LE, h5s.create_simple((1,)), plist)


def big_endian(file, folder):
    replace(file, "token/id", dtype=">i4")


def integers_with_spare_bits(file, folder):
    shape = file["token/id"].shape
    kind = h5t.STD_I32LE.copy()
    kind.set_precision(20)
    plist = file["token/id"].id.get_create_plist()
    del file["token/id"]
    h5d.create(file["token"].id, b"id", kind, h5s.create_simple(shape), plist)


def deflated_twice(file, folder):
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk((64,))
    plist.set_shuffle()
    plist.set_deflate(4)
    plist.set_deflate(4)
    plist.set_fletcher32()
    h5d.create(file.id, b"extra", h5t.STD_I32LE, h5s.create_simple((64,)), plist)


def scaled(file, folder):
    replace(file, "token/id", shuffle=False, scaleoffset=0, compression=None, compression_opts=None,
            fletcher32=False)  # fmt: skip


def endless(file, folder):
    file.create_dataset("extra", (2**62,), "u1", chunks=(2**20,), maxshape=(None,), **FILTERS)


def endless_in_two_axes(file, folder):
    shape = (2**31, 2**31)
    file.create_dataset("extra", shape, "u1", chunks=(2**12, 2**12), maxshape=shape, **FILTERS)


def more_than_deflate_could_hold(file, folder):
    size = 4 * 1032 * 2**20
    file.create_dataset("extra", (size,), "u1", chunks=(2**20,), maxshape=(None,), **FILTERS)


def many_axes(file, folder):
    file.create_dataset("extra", (1,) * 32, "u1", chunks=(1,) * 32, **FILTERS)


def without_axes(file, folder):
    file["extra"] = np.int32(5)


def names_of_great_length(file, folder):
    data = file["record/id"][...].astype("S2000")
    dims = file["record/id"].attrs["dims"]
    del file["record/id"]
    longer = file.create_dataset("record/id", data=data, chunks=data.shape, **FILTERS)
    longer.attrs["dims"] = dims


def no_encoding(file, folder):
    del file["weights"].attrs["encoding"]


def encoding_of_any_length(file, folder):
    file["weights"].attrs["encoding"] = "u16"


def other_levels(file, folder):
    file["weights"].attrs["levels"] = np.int32(255)


def levels_not_a_number(file, folder):
    file["weights"].attrs["levels"] = np.float32("nan")


def levels_infinite(file, folder):
    file["weights"].attrs["levels"] = np.float64("inf")


def levels_of_many(file, folder):
    file["weights"].attrs["levels"] = np.full(10_000, 65535, np.int32)


def inflating(file, folder):
    """A chunk that inflates to a hundred times its declared size."""
    from attnprobe.store.filters import fletcher32

    packed = zlib.compress(bytes(2**17))
    checksum = fletcher32(packed).to_bytes(4, "little")
    file["token/id"].id.write_direct_chunk((0,), packed + checksum)


def larger_than_its_chunk(file, folder):
    from attnprobe.store.filters import fletcher32

    packed = os.urandom(2**20)
    file["token/id"].id.write_direct_chunk(
        (0,), packed + fletcher32(packed).to_bytes(4, "little"), filter_mask=0b010
    )


def shorter_than_its_chunk(file, folder):
    from attnprobe.store.filters import fletcher32

    packed = zlib.compress(b"")
    checksum = fletcher32(packed).to_bytes(4, "little")
    file["token/id"].id.write_direct_chunk((0,), packed + checksum)


def wrong_checksum(file, folder):
    chunk = bytearray(file["token/id"].id.read_direct_chunk((0,))[1])
    chunk[-1] ^= 1
    file["token/id"].id.write_direct_chunk((0,), bytes(chunk))


def without_its_checksum(file, folder):
    chunk = file["token/id"].id.read_direct_chunk((0,))[1]
    file["token/id"].id.write_direct_chunk((0,), chunk[:-4], filter_mask=0b100)


def rows_out_of_order(file, folder):
    file["row/query"][:2] = file["row/query"][:2][::-1]


def rows_twice(file, folder):
    file["row/query"][1] = file["row/query"][0]


def rows_before_the_record(file, folder):
    file["row/query"][0] = -1


def rows_of_no_keys(file, folder):
    length = file["row/length"][...]
    length[:2] = 0, length[0] + length[1]
    file["row/length"][...] = length


def rows_of_another_record(file, folder):
    """A row longer by what a row of the next record is shorter: the sum over all is right."""
    n_rows = int(file["record/counts"][0, RAGGED.index("row")])
    length = file["row/length"][...]
    length[n_rows - 1] -= 1
    length[n_rows] += 1
    file["row/length"][...] = length


def texts_of_another_record(file, folder):
    n_tokens = int(file["record/numbers"][0, NUMBERS.index("n_tokens")])
    length = file["token/text_length"][...]
    length[n_tokens - 1 : n_tokens + 1] += [1, -1]
    file["token/text_length"][...] = length


def sink_beyond_the_record(file, folder):
    file["sink/position"][0] = 10_000


def sink_of_another_kind(file, folder):
    file["group/is_sink"][0] = 7


def queries_out_of_order(file, folder):
    file["pooled_query"][:2] = [1, 0]


STRUCTURE = {
    "another filter": Attack(
        with_lzf, "/token/id has other filters; got ['shuffle', 'lzf', 'fletcher32']"
    ),
    "another level": Attack(with_other_level, "expected shuffle, deflate 4, fletcher32"),
    "no checksum": Attack(
        without_checksum, "/token/id has other filters; got ['shuffle', 'deflate']"
    ),
    "deflated twice": Attack(
        deflated_twice, "has other filters; got ['shuffle', 'deflate', 'deflate', 'fletcher32']"
    ),
    "scale and offset": Attack(scaled, "/token/id has other filters; got ['scaleoffset']"),
    "contiguous": Attack(contiguous, "/token/id is stored outside or not in chunks"),
    "without axes": Attack(without_axes, "/extra is stored outside or not in chunks"),
    "text of any length": Attack(
        variable_length, "/record/id has a forbidden type; got TypeStringID"
    ),
    "lists of any length": Attack(object_of_any_length, "/extra has a forbidden type; got"),
    "object references": Attack(
        as_object_references, "/extra has a forbidden type; got TypeReferenceID"
    ),
    "compound": Attack(as_compound, "/extra has a forbidden type; got TypeCompoundID"),
    "opaque, pickled": Attack(pickled_data, "/extra has a forbidden type; got TypeOpaqueID"),
    "enumeration": Attack(as_enum, "/extra has a forbidden type; got"),
    "arrays": Attack(as_array_type, "/extra has a forbidden type; got TypeArrayID"),
    "bits": Attack(as_bits, "/extra has a forbidden type; got TypeBitfieldID"),
    "external link": Attack(external_link, "/token/id is a soft or external link; expected hard"),
    "external link on the way": Attack(
        external_link_on_the_way, "/token is a soft or external link; expected hard links"
    ),
    "external link to a pipe": Attack(
        external_link_to_a_pipe, "/token/id is a soft or external link"
    ),
    "soft link": Attack(soft_link, "/extra is a soft or external link"),
    "soft link loop": Attack(soft_link_loop, "/one is a soft or external link"),
    "soft link to itself": Attack(soft_link_to_itself, "/token is a soft or external link"),
    "external storage": Attack(external_storage, "/token/id is stored outside or not in chunks"),
    "virtual storage": Attack(virtual_storage, "/token/id is stored outside or not in chunks"),
    "virtual storage in a pipe": Attack(
        virtual_storage_in_a_pipe, "/extra is stored outside or not in chunks"
    ),
    "attribute of any length": Attack(
        variable_length_attribute, "attribute 'note' of /token has a forbidden type"
    ),
    "pickled attribute": Attack(
        pickled_attribute, "attribute 'note' of /token/id has a forbidden type; got TypeOpaqueID"
    ),
    "reference attribute": Attack(
        reference_attribute, "attribute 'note' of /token/id has a forbidden type"
    ),
    "large attribute": Attack(
        large_attribute, "an attribute of /token/id is too large; got 100000, expected 65536"
    ),
    "large attribute, never read": Attack(
        large_attribute_that_is_never_read, "an attribute of /token/id is too large; got 100000"
    ),
    "many attributes": Attack(
        many_attributes, "/token has too many attributes; got 65, expected 64"
    ),
    "named type": Attack(named_type, "/extra is neither group nor dataset"),
    "large chunks": Attack(
        large_chunks, "/extra has too large chunks; got 16777217, expected 16777216"
    ),
    "deep groups": Attack(deep_groups, "there are too many objects"),
    "ten thousand levels": Attack(ten_thousand_levels, "there are too many objects"),
    "many objects": Attack(many_objects, "there are too many objects"),
    "circular groups": Attack(circular_groups, "/a is another name of something else"),
    "groups in a circle": Attack(
        groups_in_a_circle, "/token/inner is another name of something else"
    ),
    "two names": Attack(two_names, "is another name of something else"),
    "4 EiB": Attack(endless, "/extra claims more than the file can hold; got 4611686018427387904"),
    "4 EiB in two axes": Attack(
        endless_in_two_axes, "/extra claims more than the file can hold; got 4611686018427387904"
    ),
    "more than deflate could hold": Attack(
        more_than_deflate_could_hold, "/extra claims more than the file can hold; got 4328521728"
    ),
    "many axes": Attack(many_axes, "/extra has too many axes; got 32, expected 8"),
    "missing dataset": Attack(missing_dataset, "dataset /visible is missing"),
    "other shape": Attack(other_shape, "/step/log_prob has another shape"),
    "other type": Attack(other_type, "/step/log_prob has another type; got float64, expected <f4"),
    "big-endian": Attack(big_endian, "/token/id has another type; got >i4, expected <i4"),
    "spare bits": Attack(integers_with_spare_bits, "/token/id has another type"),
    "long names": Attack(names_of_great_length, "/record/id has another type; got |S2000"),
    "unknown encoding": Attack(
        unknown_encoding, "the encoding of /weights is not the run's; got b'f8', expected u16"
    ),
    "no encoding": Attack(no_encoding, "the encoding of /weights is not the run's; expected u16"),
    "encoding of any length": Attack(
        encoding_of_any_length, "attribute 'encoding' of /weights has a forbidden type"
    ),
    "other levels": Attack(other_levels, "/weights has other levels; got 255, expected 65535"),
    "levels NaN": Attack(levels_not_a_number, "/weights has other levels; got nan"),
    "levels infinite": Attack(levels_infinite, "/weights has other levels; got inf"),
    "levels, many": Attack(levels_of_many, "/weights has other levels; expected 65535"),
}
"""Refused before any data is read, by their names."""

DATA = {
    "missing chunks": Attack(missing_chunks, "/step/log_prob cannot be read", "predictions"),
    "deflate bomb": Attack(inflating, "the chunk at (0,) does not inflate to", "encoding"),
    "chunk too large": Attack(larger_than_its_chunk, "/token/id cannot be read", "encoding"),
    "chunk too short": Attack(shorter_than_its_chunk, "/token/id cannot be read", "encoding"),
    "wrong checksum": Attack(wrong_checksum, "the checksum of the chunk at (0,) does", "encoding"),
    "chunk without its checksum": Attack(
        without_its_checksum, "the chunk at (0,) goes without its filters", "encoding"
    ),
    "another layer": Attack(another_layer, "/layer is not what the manifest says"),
    "another record": Attack(another_record, "the records are not those of the receipt"),
    "rows beyond the record": Attack(rows_beyond_the_record, "/row/length does not fit the record"),
    "rows elsewhere": Attack(
        rows_elsewhere, "/row/length does not fill the record's stretch of `pair`"
    ),
    "rows out of order": Attack(rows_out_of_order, "/row/query does not ascend within the record"),
    "rows twice": Attack(rows_twice, "/row/query does not ascend within the record"),
    "rows before the record": Attack(rows_before_the_record, "/row/query does not fit the record"),
    "rows of no keys": Attack(rows_of_no_keys, "/row/length does not fit the record"),
    "rows of another record": Attack(
        rows_of_another_record, "/row/length does not fill the record's stretch of `pair`"
    ),
    "texts of another record": Attack(
        texts_of_another_record, "/token/text_length does not fill the record's stretch"
    ),
    "stretches elsewhere": Attack(stretches_elsewhere, "stretches of `pair` do not fill it"),
    "stretches negative": Attack(stretches_negative, "stretches of `pair` do not fill it"),
    "group of no span": Attack(group_of_no_span, "/group/span does not fit the record", "pooled"),
    "sink of another kind": Attack(
        sink_of_another_kind, "/group/is_sink does not fit the record", "pooled"
    ),
    "sink beyond the record": Attack(
        sink_beyond_the_record, "/sink/position does not fit the record", "encoding"
    ),
    "spans with a gap": Attack(spans_with_a_gap, "/span/start does not fit the record"),
    "generated by nobody": Attack(
        generated_by_nobody, "/record/is_generated does not fit the record"
    ),
    "huge query": Attack(huge_query, "/pooled_query does not fit the record", "pooled"),
    "queries out of order": Attack(
        queries_out_of_order, "/pooled_query does not ascend within the record", "pooled"
    ),
}
"""Refused before any attention is read: wrong or hostile index columns, and chunks."""
