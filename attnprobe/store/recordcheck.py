"""Decodes one stored record and says whatever is wrong with it."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from attnprobe.errors import FormatError
from attnprobe.store.codes import Code
from attnprobe.store.jsoncheck import short
from attnprobe.store.manifest import Manifest
from attnprobe.store.plan import PlannedRecord
from attnprobe.store.receipts import Receipt
from attnprobe.store.shard import Shard, record_crc
from attnprobe.types import Encoding

ROUNDING = {"bfloat16": 1.6e-2, "float16": 4e-3}
"""How far a row's sum may be off by the rounding of a model in this precision."""
FULL_ROUNDING = 1e-3
"""The same for every other precision."""
PAIRS_AT_ONCE = 2**22
"""How many weights of one head are decoded together."""


class RecordCheck:
    """Checks the records of one shard, one after another."""

    def __init__(self, shard: Shard, manifest: Manifest, receipt: Receipt) -> None:
        self.shard, self.manifest, self.receipt = shard, manifest, receipt
        self.planned = manifest.plan[receipt.chunk]
        self.rounding = ROUNDING.get(str(manifest.model.get("dtype")), FULL_ROUNDING)
        self.sums_to_1 = not manifest.model.get("softmax_sinks")
        self.n_layers, self.n_heads = len(manifest.layers), len(manifest.heads)

    def faults(self, record: int) -> Iterator[str]:
        """Name every fault of a record; what cannot be read is one."""
        for check in (
            self._stored_bytes, self._listed, self._encoding, self._predictions, self._rows,
            partial(self._masses, "step_mass"), partial(self._masses, "pooled"), self._visible,
            self._attributions, self._value_norms,
        ):  # fmt: skip
            try:
                yield from check(record)
            except FormatError as error:
                yield worded(error)

    def _stored_bytes(self, record: int) -> Iterator[str]:
        if record_crc(self.shard, record) != self.shard.number("/record/crc32", record):
            yield "its bytes are not those of its CRC-32"

    def _listed(self, record: int) -> Iterator[str]:
        for name in ("n_prompt", "n_tokens", "batch_size"):
            stored, listed = self.shard.number(f"/record/{name}", record), self.receipt.records
            if stored != listed[name][record]:
                yield f"/record/{name} is not what is listed; got {stored}"
        errors = self.shard.column("/record/error")[record]
        good = bool(np.isfinite(errors).all()) and not (errors < 0).any()
        if (
            not good
            or short(errors.max(initial=0.0)) != self.receipt.records["worst_error"][record]
        ):
            yield "/record/error is not what is listed"

    def _encoding(self, record: int) -> Iterator[str]:
        encoding, planned = self.shard.encoding(record), self.planned[record]
        inner = encoding.record
        stored = PlannedRecord(
            inner.id, planned.digest, inner.item, inner.style, inner.task, inner.split
        )
        if stored != planned:
            yield "/record/json is of another record than the plan's"
        if encoding.digest != planned.digest:
            yield "its tokens, spans or text are not those of its digest"
        groups = zip(
            *(self.shard.part(f"/group/{n}", record).tolist() for n in _GROUP), strict=True
        )
        expected = [(g.start, g.stop, g.span, int(g.is_sink)) for g in encoding.groups]
        if list(groups) != expected:
            yield "its groups are not its spans cut at its sinks"
        if (encoding.given < 0).any():
            yield "a token id is negative"
        yield from self._virtual(record, encoding)

    def _virtual(self, record: int, encoding: Encoding) -> Iterator[str]:
        n_virtual = encoding.n_virtual
        if n_virtual >= encoding.n_prompt:
            yield "its prompt holds virtual tokens alone"
        for name in sorted(_QUERIES & self.shard.columns.keys()):
            if (self.shard.part(name, record) < n_virtual).any():
                yield f"{name} names a virtual token, which has no query"

    def _predictions(self, record: int) -> Iterator[str]:
        log_probs = self.shard.part("/step/log_prob", record)
        if np.isnan(log_probs).any() or (log_probs > self.rounding).any():
            yield "/step/log_prob holds what is no log-probability"
        if (self.shard.part("/step/predicted", record) < 0).any():
            yield "/step/predicted holds a negative token id"

    def _rows(self, record: int) -> Iterator[str]:
        lengths = self.shard.part("/row/length", record).astype(np.int64)
        if not len(lengths):
            return
        first = self.shard.extent("pair", record).start
        for rows in _blocks(lengths):
            starts = np.concatenate([[0], np.cumsum(lengths[rows])])
            before = first + int(lengths[: rows.start].sum())
            extent = slice(before, before + int(starts[-1]))
            for head, values in self._heads("/weights", extent):
                sums = np.add.reduceat(values, starts[:-1], dtype=np.float64)
                worst = self._off(sums, lengths[rows], self.shard.code("/weights"))
                if worst is not None:
                    query = self.shard.part("/row/query", record)[rows.start + worst]
                    yield f"/weights of query {query} sum to {sums[worst]:.6f} at {head}"

    def _masses(self, name: str, record: int) -> Iterator[str]:
        queries = self.shard.part(f"/{name}_query", record)
        extent = self.shard.extent(f"{name}_cell", record)
        if not len(queries):
            return
        code = self.shard.code(f"/{name}")
        for head, values in self._heads(f"/{name}", extent):
            table = values.reshape(len(queries), -1)
            sums = table.sum(1, dtype=np.float64)
            worst = self._off(sums, np.full(len(queries), table.shape[1]), code)
            if worst is not None:
                yield f"/{name} of query {queries[worst]} sums to {sums[worst]:.6f} at {head}"

    def _heads(self, name: str, extent: slice) -> Iterator[tuple[str, np.ndarray]]:
        """Decode a stretch, one head of one layer at a time."""
        for layer in range(self.n_layers):
            for head in range(self.n_heads):
                codes = self.shard.block(name, ((layer,), (head,)), extent)
                numbers = self.manifest.layers[layer], self.manifest.heads[head]
                where = f"layer {numbers[0]}, head {numbers[1]}"
                yield where, self.shard.decoded(name, codes)[0, 0]

    def _off(self, sums: np.ndarray, lengths: np.ndarray, code: Code) -> int | None:
        """Return which sum is furthest off 1, if one is further than code and model explain."""
        steps = code.levels or np.inf
        bound = np.sqrt(lengths) / steps + lengths / (4 * steps**2) + self.rounding
        excess = sums - 1 if not self.sums_to_1 else np.abs(sums - 1)
        excess = excess - bound
        worst = int(excess.argmax())
        return worst if not excess[worst] <= 0 else None  # so that NaN counts as well

    def _visible(self, record: int) -> Iterator[str]:
        groups = self.shard.part("/group/stop", record) - self.shard.part("/group/start", record)
        extent = self.shard.extent("visible_cell", record)
        for layer in range(self.n_layers):
            counts = self.shard.block("/visible", ((layer,),), extent).reshape(-1, len(groups))
            if (counts > groups).any():
                number = self.manifest.layers[layer]
                yield f"/visible counts more keys than a group has at layer {number}"

    def _attributions(self, record: int) -> Iterator[str]:
        for method in self.manifest.attribute:
            if not np.isfinite(self.shard.part(f"/attribution/{method}", record)).all():
                yield f"/attribution/{method} holds what is no finite number"
            if np.isinf(self.shard.part(f"/attribution_delta/{method}", record)).any():
                yield f"/attribution_delta/{method} holds what is no finite number"

    def _value_norms(self, record: int) -> Iterator[str]:
        if "/value_norm" not in self.shard.columns:
            return
        extent = self.shard.extent("token", record)
        leading = tuple(range(self.n_layers)), tuple(range(self.n_heads))
        norms = self.shard.block("/value_norm", leading, extent)
        if not (np.isfinite(norms) & (norms >= 0)).all():
            yield "/value_norm holds what is no length"


_GROUP = ("start", "stop", "span", "is_sink")
_QUERIES = {"/row/query", "/step_mass_query", "/pooled_query", "/visible_query"}


def _blocks(lengths: np.ndarray) -> Iterator[slice]:
    """Cut rows into stretches of at most `PAIRS_AT_ONCE` weights, or of one row."""
    start = 0
    edges = np.cumsum(lengths)
    while start < len(lengths):
        before = int(edges[start - 1]) if start else 0
        stop = int(np.searchsorted(edges, before + PAIRS_AT_ONCE, side="right"))
        yield slice(start, max(stop, start + 1))
        start = max(stop, start + 1)


def worded(error: FormatError) -> str:
    """Return an error without the file, which stands beside it, and without the advice."""
    facts = [
        f"{name} {value}"
        for name, value in (("got", error.got), ("expected", error.expected))
        if value is not None
    ]
    return "; ".join([error.what, ", ".join(facts)] if facts else [error.what])
