"""`record`: attention out of a running model, exact, beside the model's own fast kernel."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from attnprobe.attention.certificate import (
    N_PROBES,
    Certificate,
    pool_errors,
    row_errors,
    tolerance,
)
from attnprobe.attention.compat import (
    AttentionCall,
    attention_layers,
    implementation_of,
    observed,
    transformers_model,
)
from attnprobe.attention.rows import (
    Layout,
    count_visible,
    pick_queries,
    pooled_masses,
    softmax_rows,
    sum_over_spans,
    visible_keys,
)
from attnprobe.errors import CertificateError, ModelError, SelectionError, nearest

KEEPS = ("rows", "steps", "pooled", "full")
"""What a recording can hold; see `record`."""

Positions = Sequence[Sequence[int]]
Ranges = Sequence[Sequence[tuple[int, int]]]


@dataclass(slots=True)
class Recording:
    """What a forward pass showed; filled while the `record` block runs.

    Tensors are float32, detached, on the device of their layer. Columns are those of the input
    ids; chosen queries and spans beyond an example's own are NaN.
    """

    keep: frozenset[str]
    base: str
    """The model's own attention implementation, which goes on computing its output."""
    model: str
    queries: Positions | None
    spans: Ranges | None
    only_layers: frozenset[int] | None
    certificate: Certificate
    full: dict[int, torch.Tensor] = field(default_factory=dict)
    """{layer: [batch, head, query, key]}; rows of pads are NaN."""
    rows: dict[int, torch.Tensor] = field(default_factory=dict)
    """{layer: [batch, head, chosen query, key]}."""
    steps: dict[int, torch.Tensor] = field(default_factory=dict)
    """{layer: [batch, head, chosen query, span]}, the same rows summed over spans."""
    pooled: dict[int, torch.Tensor] = field(default_factory=dict)
    """{layer: [batch, head, query, span]}; rows of pads are NaN."""
    visible: dict[int, torch.Tensor] = field(default_factory=dict)
    """{layer: [batch, chosen query, key]} boolean: what the real mask let each row see."""
    visible_counts: dict[int, torch.Tensor] = field(default_factory=dict)
    """{layer: [batch, query, span]}: with `pooled`, how many keys the mask left visible."""
    layout: Layout | None = None
    """Where the tokens of each example lie."""
    _batch: "_Batch | None" = None

    def start(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
        """Prepare for a forward pass over these inputs.

        Raises:
            ModelError: If a pass was recorded already, or the padding is not at one side.
            SelectionError: If a query or span lies outside its example.
        """
        if self._batch is not None:
            raise ModelError(
                "one recording holds one forward pass, and a second one came",
                fix="open a new `record` block for each pass",
            )
        self.layout = _layout(input_ids, attention_mask)
        self._batch = _plan(self, self.layout)

    @torch.no_grad()
    def observe(self, call: AttentionCall, output: torch.Tensor) -> None:
        """Take one attention call: keep what was asked for, and prove it."""
        if self.only_layers is not None and call.layer not in self.only_layers:
            return
        batch = self._checked_batch(call)
        visible = batch.visible(call)
        weights = softmax_rows(call, batch.columns, visible)
        at_probes = pick_queries(weights, batch.probes)
        probe_columns = batch.columns.gather(1, batch.probes)
        error = row_errors(at_probes, call, output, probe_columns)
        chosen = weights[:, :, : batch.n_chosen]
        if batch.unreal is not None:
            chosen = chosen.masked_fill(batch.unreal[:, None, :, None], torch.nan)
        if self.keep & {"rows", "full"}:
            self.rows[call.layer] = chosen
        if "steps" in self.keep:
            self.steps[call.layer] = batch.blank_spans(sum_over_spans(chosen, batch.edges))
        if "pooled" in self.keep:
            pooled = pooled_masses(call, batch.edges)
            summed = sum_over_spans(at_probes, batch.edges)
            error = error.maximum(pool_errors(pick_queries(pooled, probe_columns), summed))
            self.visible_counts[call.layer] = batch.counts(call)
            self.pooled[call.layer] = batch.blank_pads(batch.blank_spans(pooled))
        self.visible[call.layer] = visible[:, 0, : batch.n_chosen]
        self.certificate.errors[call.layer] = error

    def _checked_batch(self, call: AttentionCall) -> "_Batch":
        if self._batch is None or call.query.shape[2] != self._batch.width:
            raise ModelError(
                "this attention call is not over the inputs of the pass",
                where=f"{self.model}, layer {call.layer}",
                got=f"{call.query.shape[2]} queries",
                expected=f"{self._batch.width if self._batch else 'a pass that was announced'}",
                fix="record plain forward passes: input ids in one piece, without a cache",
            )
        if call.key.shape[2] != call.query.shape[2]:
            raise ModelError(
                "attention over a cache cannot be recorded",
                where=f"{self.model}, layer {call.layer}",
                got=f"{call.query.shape[2]} queries, {call.key.shape[2]} keys",
                fix="generate first, then record one pass over prompt and answer",
            )
        if call.layer in self.certificate.errors:
            raise CertificateError(
                "two attention calls in one layer", where=f"{self.model}, layer {call.layer}",
                fix="this architecture is not supported yet",
            )  # fmt: skip
        return self._batch

    def finish(self, expected_layers: Sequence[int]) -> None:
        """Check the proof and put the result into its final layout.

        Raises:
            CertificateError: If a layer fails, or was not seen at all.
        """
        self.certificate.check(self.model)
        wanted = set(expected_layers) & (self.only_layers or set(expected_layers))
        if missing := sorted(wanted - set(self.certificate.errors)):
            raise CertificateError(
                "attention layers were not seen", where=self.model, got=f"layers {missing} missing"
            )
        if "full" in self.keep:
            self.full = {layer: self._square(rows) for layer, rows in self.rows.items()}

    @property
    def batch_layout(self) -> Layout:
        """Where the tokens of each example lie.

        Raises:
            CertificateError: If no forward pass was recorded.
        """
        if self.layout is None:
            raise CertificateError("no forward pass was recorded", where=self.model)
        return self.layout

    def _square(self, rows: torch.Tensor) -> torch.Tensor:
        """Lay chosen rows (all tokens of each example) out over the columns of the batch."""
        layout = self.batch_layout
        examples, heads, _, width = rows.shape
        square = rows.new_full((examples, heads, width, width), torch.nan)
        places = zip(layout.first.tolist(), layout.length.tolist(), strict=True)
        for index, (first, length) in enumerate(places):
            square[index, :, first : first + length] = rows[index, :, :length]
        return square


@contextmanager
def record(
    model: torch.nn.Module,
    keep: Sequence[str] = ("full",),
    *,
    queries: Positions | None = None,
    spans: Ranges | None = None,
    layers: Sequence[int] | None = None,
) -> Iterator[Recording]:
    """Record the attention of the one forward pass inside the block.

    The model computes with its own kernel; beside it, only what is asked for is computed from the
    same queries, keys and mask, and held against the model's own output (the certificate).

    Args:
        model: A causal LM of transformers whose attention goes through its attention interface.
        keep: Any of `full` (every row), `rows` (of `queries`), `steps` (the same rows summed over
            `spans`), `pooled` (mass on `spans` for every query, from one more kernel pass).
        queries: Per example, the positions of the queries to keep, counted without padding.
        spans: Per example, half-open key ranges, counted without padding.
        layers: Only these; all if None.

    Yields:
        The recording, complete and proven when the block ends.

    Raises:
        SelectionError: If `keep` names something else, or `queries` or `spans` are missing.
        ModelError: If the model cannot be recorded.
        CertificateError: If the capture is not what the model used.
    """
    name = type(transformers_model(model)).__name__
    _check_request(keep, queries, spans)
    recording = Recording(
        keep=frozenset(keep),
        base=_checked_base(model, name),
        model=name,
        queries=queries,
        spans=spans,
        only_layers=None if layers is None else frozenset(layers),
        certificate=Certificate("interface", tolerance(next(model.parameters()).dtype)),
    )
    layers_of_model = attention_layers(model)
    handle = transformers_model(model).register_forward_pre_hook(
        _announce(recording), with_kwargs=True
    )
    try:
        with observed(model, recording):
            yield recording
    finally:
        handle.remove()
    recording.finish(layers_of_model)


def _announce(recording: Recording) -> Callable[..., None]:
    def before_forward(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            ids = kwargs["inputs_embeds"][..., 0]
        recording.start(ids, kwargs.get("attention_mask"))

    return before_forward


def _checked_base(model: torch.nn.Module, name: str) -> str:
    base = implementation_of(model)
    if base not in ("sdpa", "eager"):
        raise ModelError(
            "this attention implementation cannot be recorded", where=name, got=base,
            expected="sdpa", fix="load the model with attn_implementation='sdpa'",
        )  # fmt: skip
    return base


def _check_request(keep: Sequence[str], queries: Positions | None, spans: Ranges | None) -> None:
    for what in keep:
        if what not in KEEPS:
            raise SelectionError(f"cannot keep '{what}'", fix=nearest(what, KEEPS))
    if not keep:
        raise SelectionError("nothing to keep", expected=f"any of {', '.join(KEEPS)}")
    if queries is None and set(keep) & {"rows", "steps"}:
        raise SelectionError("'rows' and 'steps' need the queries to keep", fix="pass queries=[…]")
    if spans is None and set(keep) & {"steps", "pooled"}:
        raise SelectionError("'steps' and 'pooled' need spans to sum over", fix="pass spans=[…]")


@dataclass(slots=True)
class _Batch:
    """One forward pass, planned: the same for all layers."""

    width: int
    columns: torch.Tensor
    """[batch, query]: the chosen queries, then the probes that are not among them."""
    n_chosen: int
    probes: torch.Tensor
    """[batch, probe]: which of the columns are held against the model's output."""
    unreal: torch.Tensor | None
    """[batch, chosen] True where an example has no such query; None if all are real."""
    edges: torch.Tensor
    """[batch, 2 · span] start and stop columns."""
    unreal_spans: torch.Tensor | None
    pads: torch.Tensor | None
    _seen: list[tuple[torch.Tensor | None, bool, torch.Tensor]] = field(default_factory=list)
    _counted: list[tuple[torch.Tensor | None, bool, torch.Tensor]] = field(default_factory=list)

    def visible(self, call: AttentionCall) -> torch.Tensor:
        """Return which keys the rows see; layers that share a mask share the answer."""
        for mask, causal, visible in self._seen:
            if mask is call.mask and causal == call.causal:
                return visible
        visible = visible_keys(call, self.columns)
        self._seen.append((call.mask, call.causal, visible))
        return visible

    def counts(self, call: AttentionCall) -> torch.Tensor:
        """Return how many keys of each span every query sees, shared like `visible`."""
        for mask, causal, counts in self._counted:
            if mask is call.mask and causal == call.causal:
                return counts
        counts = count_visible(call, self.edges)
        self._counted.append((call.mask, call.causal, counts))
        return counts

    def blank_spans(self, masses: torch.Tensor) -> torch.Tensor:
        """Set the spans that an example does not have to NaN."""
        if self.unreal_spans is None:
            return masses
        return masses.masked_fill(self.unreal_spans[:, None, None], torch.nan)

    def blank_pads(self, masses: torch.Tensor) -> torch.Tensor:
        """Set the query rows of padding to NaN."""
        if self.pads is None:
            return masses
        return masses.masked_fill(self.pads[:, None, :, None], torch.nan)


def _plan(recording: Recording, layout: Layout) -> _Batch:
    lengths = layout.length.tolist()
    queries = recording.queries
    if "full" in recording.keep:
        queries = [range(length) for length in lengths]
    queries = queries if queries is not None else [[] for _ in lengths]
    spans = recording.spans if recording.spans is not None else [[] for _ in lengths]
    _check_inside(queries, spans, lengths)
    n_chosen = max(len(row) for row in queries)
    filled = [[*row, *[0] * (n_chosen - len(row))] for row in queries]
    if min(len(row) for row in queries) < N_PROBES:
        columns, _ = layout.columns(
            [[*row, *_spread(length)] for row, length in zip(filled, lengths, strict=True)]
        )
        probes = [list(range(n_chosen, n_chosen + N_PROBES))] * len(lengths)
    else:
        columns, _ = layout.columns(filled)
        probes = [_spread(len(row)) for row in queries]
    _, real = layout.columns(queries)
    edges, real_edges = layout.columns([[edge for span in row for edge in span] for row in spans])
    at = torch.arange(layout.width, device=layout.first.device)
    last = (layout.first + layout.length)[:, None]
    pads = (at < layout.first[:, None]) | (at >= last)
    return _Batch(
        width=layout.width,
        columns=columns,
        n_chosen=n_chosen,
        probes=torch.tensor(probes, device=columns.device),
        unreal=None if bool(real.all()) else ~real,
        edges=edges,
        unreal_spans=None if bool(real_edges.all()) else ~real_edges[:, ::2],
        pads=pads if bool(pads.any()) else None,
    )


def _spread(length: int) -> list[int]:
    """Spread the probes over a range, the last of it among them, its start not."""
    return [round(length - 1 - i * (length - 1) / N_PROBES) for i in range(N_PROBES)]


def _check_inside(queries: Positions, spans: Ranges, lengths: Sequence[int]) -> None:
    if not len(queries) == len(spans) == len(lengths):
        raise SelectionError(
            "queries and spans are given per example", expected=f"{len(lengths)} of each",
            got=f"{len(queries)} and {len(spans)}",
        )  # fmt: skip
    for index, (row, ranges, length) in enumerate(zip(queries, spans, lengths, strict=True)):
        if outside := [query for query in row if not 0 <= query < length]:
            raise SelectionError(
                "a query lies outside its example", where=f"example {index}",
                got=str(outside[0]), expected=f"0 to {length - 1}",
            )  # fmt: skip
        if bad := [span for span in ranges if not 0 <= span[0] < span[1] <= length]:
            raise SelectionError(
                "a span is empty or lies outside its example", where=f"example {index}",
                got=str(tuple(bad[0])), expected=f"[start, stop) within 0 to {length}",
            )  # fmt: skip


def _layout(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> Layout:
    batch, width = input_ids.shape
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids, dtype=torch.long)
    if attention_mask.shape != input_ids.shape:
        raise ModelError(
            "the attention mask does not match the input ids", got=str(tuple(attention_mask.shape)),
            expected=str((batch, width)),
        )  # fmt: skip
    real = attention_mask.bool()
    length = real.sum(1)
    first = real.int().argmax(1)
    at = torch.arange(width, device=real.device)
    contiguous = (at >= first[:, None]) & (at < (first + length)[:, None])
    if not torch.equal(contiguous, real) or not bool(length.all()):
        raise ModelError(
            "an example has padding in its midst, or no tokens at all",
            expected="real tokens in one piece, padding at one side",
        )
    return Layout(first, length, width)
