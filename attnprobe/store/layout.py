"""The table of everything a shard holds: writer, reader, checker and FORMAT.md agree on it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

FORMAT = "attnprobe run"
FORMAT_VERSION = (1, 0)
"""Major and minor. A reader refuses a newer major and ignores what a newer minor adds."""

MANIFEST = "manifest.json"
SHARDS = "shards"

PAIRS_PER_CHUNK, CELLS_PER_CHUNK = 32768, 65536
"""Entries of a chunk of `/weights`, and of masses: every chunk costs 20 bytes of index."""
MAX_CHUNK_BYTES = 16 * 2**20
MAX_NAME_BYTES = 1024
FILTERS = ((2, "shuffle"), (1, "deflate"), (3, "fletcher32"))
"""HDF5 filter numbers in the order they are applied when writing."""
GZIP_LEVEL = 4

KEEPS = {
    "rows": "/weights", "full": "/weights", "steps": "/step_mass", "pooled": "/pooled",
    "value_norms": "/value_norm",
}  # fmt: skip
"""Which dataset each `keep` fills."""


@dataclass(frozen=True, slots=True)
class Column:
    """One dataset of a shard."""

    name: str
    dtype: str
    """Numpy type; `code` for encoded weights, `mass` for encoded masses, `text` for names."""
    dims: tuple[str, ...]
    """Axes; the last one is the one that grows."""
    meaning: str
    unit: str = ""
    in_crc: bool = False
    """Whether a record's part of it counts in its CRC-32, in the order of this table."""

    @property
    def axis(self) -> str:
        """The axis along which records lie one after another."""
        return "record" if "record" in self.dims else self.dims[-1]

    @property
    def part(self) -> str:
        """The dataset in `KEEPS` that it belongs to: without it, it is not there; or nothing."""
        if self.name.startswith("/row/"):
            return "/weights"
        return next((part for part in KEEPS.values() if self.name.startswith(part)), "")


RAGGED = (
    "json_byte", "generated_byte", "token", "text_byte", "span", "group", "sink", "step", "row",
    "pair", "step_mass_query", "step_mass_cell", "pooled_query", "pooled_cell",
    "visible_query", "visible_cell", "attribution_cell",
)  # fmt: skip
"""Axes of which each record owns a stretch, in the order of the columns of `/record/counts`."""


COLUMNS: tuple[Column, ...] = (
    Column("/layer", "<i4", ("layer",), "number of each stored layer in the model"),
    Column("/head", "<i4", ("head",), "number of each stored query head in the model"),
    Column("/record/id", "text", ("record",), "record id"),
    Column("/record/error", "<f4", ("record", "layer"), "worst relative error of the certificate"),
    Column("/record/numbers", "<i8", ("record", "number"), "what is counted of it, see below"),
    Column("/record/counts", "<i8", ("record", "axis"), "its entries on each ragged axis"),
    Column("/record/json", "|u1", ("json_byte",), "the whole record, UTF-8 JSON", in_crc=True),
    Column(
        "/record/generated", "|u1", ("generated_byte",), "what the model wrote, UTF-8", in_crc=True
    ),
    Column("/token/id", "<i4", ("token",), "token ids of prompt + target", in_crc=True),
    Column("/token/text", "|u1", ("text_byte",), "token texts, UTF-8, end to end", in_crc=True),
    Column("/token/text_length", "<i4", ("token",), "bytes of the token's text", in_crc=True),
    Column("/span/start", "<i4", ("span",), "first token of the span", "token", in_crc=True),
    Column("/span/stop", "<i4", ("span",), "token after the span", "token", in_crc=True),
    Column("/span/role", "text", ("span",), "role of the span"),
    Column("/group/start", "<i4", ("group",), "first key of the group", "token", in_crc=True),
    Column("/group/stop", "<i4", ("group",), "key after the group", "token", in_crc=True),
    Column("/group/span", "<i4", ("group",), "which span of the record it is in", in_crc=True),
    Column("/group/is_sink", "|u1", ("group",), "1 where the group is a sink", in_crc=True),
    Column("/sink/position", "<i4", ("sink",), "positions set apart as sinks", in_crc=True),
    Column("/step/log_prob", "<f4", ("step",), "log-probability of the token", "nat", in_crc=True),
    Column("/step/predicted", "<i4", ("step",), "most probable token id", in_crc=True),
    Column("/row/query", "<i4", ("row",), "query position of the row", "token", in_crc=True),
    Column("/row/key_start", "<i4", ("row",), "first key of the row", "token", in_crc=True),
    Column("/row/length", "<i4", ("row",), "keys in the row", "token", in_crc=True),
    Column("/weights", "code", ("layer", "head", "pair"), "attention", "probability", in_crc=True),
    Column("/step_mass_query", "<i4", ("step_mass_query",), "query position", "token", in_crc=True),
    Column(
        "/step_mass", "mass", ("layer", "head", "step_mass_cell"), "attention summed over groups",
        "probability", in_crc=True,
    ),
    Column("/pooled_query", "<i4", ("pooled_query",), "query position", "token", in_crc=True),
    Column(
        "/pooled", "mass", ("layer", "head", "pooled_cell"), "attention summed over groups",
        "probability", in_crc=True,
    ),
    Column("/visible_query", "<i4", ("visible_query",), "query position", "token", in_crc=True),
    Column(
        "/visible", "<u4", ("layer", "visible_cell"), "keys the mask left visible", "token",
        in_crc=True,
    ),
    Column(
        "/value_norm", "<f4", ("layer", "head", "token"),
        "length of the key's value, moved through the output matrix", in_crc=True,
    ),
)  # fmt: skip
"""Every dataset, in the order in which it is written."""

NUMBERS = ("n_prompt", "n_tokens", "batch_size", "is_generated", "crc32")
"""Columns of `/record/numbers`: tokens of the prompt; tokens of prompt + target; records that
shared the forward pass; 1 where the model wrote the target; CRC-32 of the record's stored bytes."""

BY_NAME = {column.name: column for column in COLUMNS}
BIG = ("/weights", "/step_mass", "/pooled", "/visible", "/value_norm")
"""Datasets read in stretches; all others are light and read whole, but for attributions."""

METHOD_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""What the name of an attribution method must match, being part of the names of its datasets."""


MAX_METHODS = 64
"""Most attribution methods in one run."""


@cache
def kept_columns(keep: tuple[str, ...]) -> Mapping[str, Column]:
    """Return the datasets of a run with this `keep`, by name, without attributions."""
    kept = {KEEPS[name] for name in keep} | {""}
    return MappingProxyType({c.name: c for c in COLUMNS if c.part in kept})


def attribution_columns(units: Mapping[str, str]) -> tuple[Column, ...]:
    """Return the two datasets of each attribution method.

    Args:
        units: Unit of each method's scores, by its name, in the order in which they are stored.
    """
    return tuple(
        Column(f"/{name}/{method}", "<f4", (axis,), meaning, unit, in_crc=True)
        for method, unit in units.items()
        for name, axis, meaning in (
            ("attribution", "attribution_cell", "credit of a source token for a step"),
            ("attribution_delta", "step", "sum of the step's scores minus what it should be"),
        )
    )


def chunk_shape(column: Column, itemsize: int, n_layers: int) -> tuple[int, ...]:
    """Return the HDF5 chunk of a column."""
    if len(column.dims) > 1 and column.axis != "record":
        length = PAIRS_PER_CHUNK if column.axis == "pair" else CELLS_PER_CHUNK
        return (1,) * (len(column.dims) - 1) + (length,)
    if column.axis == "record":
        widths = {"layer": max(n_layers, 1), "axis": len(RAGGED), "number": len(NUMBERS)}
        return (64, *(widths[dim] for dim in column.dims[1:]))
    return (PAIRS_PER_CHUNK,) if itemsize == 1 else (4096,) if itemsize <= 8 else (256,)


def shard_name(chunk: int) -> str:
    """Name of the sealed shard of a chunk."""
    return f"chunk-{chunk:05d}.h5"


def receipt_name(chunk: int) -> str:
    """Name of the receipt of a chunk."""
    return f"chunk-{chunk:05d}.json"
