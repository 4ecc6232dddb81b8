"""What is taken of each attention call while a model runs, and put together afterwards."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from attnprobe.attention import generation
from attnprobe.attention.calls import CROSS, ENCODER, SELF, Call, Place
from attnprobe.attention.certificate import (
    UNPROVEN,
    Certificate,
    pool_errors,
    row_errors,
    tolerance,
)
from attnprobe.attention.compat import cached_tokens, in_backward
from attnprobe.attention.kinds import KindRecording, TakeRows, Tensors
from attnprobe.attention.passes import (
    Layout,
    PassPlan,
    Positions,
    Ranges,
    layout_of,
    plan_pass,
    without_virtual,
)
from attnprobe.attention.pieces import Pieces
from attnprobe.attention.rows import (
    BLOCK_WEIGHTS,
    pick_queries,
    pooled_masses,
    softmax_rows,
    sum_over_spans,
)
from attnprobe.attention.survey import INTERFACE, Survey
from attnprobe.errors import CertificateError, ModelError, SelectionError, nearest
from attnprobe.models.virtual import stated_virtual

_SAME = 1e-5
"""Difference of weights that rounding explains, where the same rows are computed twice."""
_NOT_SEEN = (
    "these modules attend by a function of their own, or not at all; name those that attend by a "
    "softmax: --attention-module 'transformer.layers.{}.attn'"
)


class Recording:
    """What a forward pass, or a generation, showed; complete when the `record` block ends."""

    def __init__(
        self,
        model: torch.nn.Module,
        survey: Survey,
        keep: Sequence[str],
        queries: Positions | None,
        spans: Ranges | None,
        layers: Sequence[int] | None,
    ) -> None:
        self.survey = survey
        self.model = self.survey.name
        self.keep, self.queries, self.spans = frozenset(keep), queries, spans
        self.only_layers = None if layers is None else frozenset(layers)
        self.take_rows: TakeRows | None = None
        self.take_call: Callable[[Call, torch.Tensor | None], None] | None = None
        """Called with each attention call of the recorded layers, and its output, once taken."""
        self.tolerance = tolerance(next(model.parameters()).dtype)
        self.history = generation.History()
        self._kinds: dict[str, KindRecording] = {}
        self._pieces: dict[str, Pieces] = {}
        self._layouts: dict[str, Layout] = {}
        self._plans: dict[str, PassPlan] = {}
        self._last: tuple[Place, torch.Tensor] | None = None
        self._unproven: dict[Place, str] = {}
        self._seen: set[tuple[str, int]] = set()
        self._thread = threading.get_ident()
        self._may_have_prefix = False
        self._stated_virtual = stated_virtual(model)
        self.n_virtual = 0
        """Keys before all others that are no tokens (P-Tuning v2): the first columns of every row.
        Spans reach them by negative positions."""

    def of(self, kind: str) -> KindRecording:
        """Return what was recorded of one kind of attention.

        Args:
            kind: `self` (of the decoder, or of a model's only stack), `encoder` or `cross`.

        Raises:
            SelectionError: If the model has no such attention.
        """
        if kind not in self._kinds:
            raise SelectionError(
                f"no attention of kind '{kind}' was recorded", where=self.model,
                fix=nearest(kind, self._kinds),
            )  # fmt: skip
        return self._kinds[kind]

    @property
    def full(self) -> Tensors:
        """{layer: [batch, head, query, key]} of the self-attention; rows of pads are NaN."""
        return self.of(SELF).full

    @property
    def rows(self) -> Tensors:
        """{layer: [batch, head, chosen query, key]} of the self-attention."""
        return self.of(SELF).rows

    @property
    def steps(self) -> Tensors:
        """{layer: [batch, head, chosen query, span]} of the self-attention."""
        return self.of(SELF).steps

    @property
    def pooled(self) -> Tensors:
        """{layer: [batch, head, query, span]} of the self-attention."""
        return self.of(SELF).pooled

    @property
    def visible(self) -> Tensors:
        """{layer: [batch, chosen query, key]}: what the mask let each row see."""
        return self.of(SELF).visible

    @property
    def visible_counts(self) -> Tensors:
        """{layer: [batch, query, span]}: with `pooled`, how many keys were visible."""
        return self.of(SELF).visible_counts

    @property
    def certificate(self) -> Certificate:
        """The proof of the self-attention."""
        return self.of(SELF).certificate

    @property
    def batch_layout(self) -> Layout:
        """Where the tokens of each example lie."""
        layout = self.of(SELF).layout
        if layout is None:
            raise CertificateError("no forward pass was recorded", where=self.model)
        return layout

    # --- while the model runs ----------------------------------------------------------------

    def begin(self, kind: str, ids: torch.Tensor, mask: Any, cache: Any) -> None:
        """Prepare for a forward pass of one stack over these inputs.

        Raises:
            ModelError: If the pass does not continue what was recorded so far.
            SelectionError: If a query or span lies outside its example.
        """
        if threading.get_ident() != self._thread:
            raise ModelError(
                "the model runs in another thread than the one that records it", where=self.model,
                fix="open `record` in the thread that runs the model, one model for each",
            )  # fmt: skip
        batch, n_queries = ids.shape[:2]
        known = self._layouts.get(kind)
        if known is None and kind == SELF:
            self._expect_prefix(cache)
        if self.n_virtual:
            mask = without_virtual(mask, self.n_virtual, n_queries)
        past = cached_tokens(cache, self.n_virtual + (known.width if known else 0))
        past = max(0, past - self.n_virtual)
        if known is None and past:
            raise ModelError(
                "attention over a cache that was filled before the recording", where=self.model,
                got=f"{past} tokens in the cache",
                fix="record from the first token on, or record one pass over the whole text",
            )  # fmt: skip
        if known is None:
            known = layout_of(mask, batch, n_queries, ids.device)
            self._check_request(known, kind)
        elif past == known.width and kind == SELF:
            known.grow(n_queries)
        elif not past and kind == SELF and self.history.is_repeated(ids):
            known = layout_of(mask, batch, n_queries, ids.device)
            self._start_again()
        else:
            raise ModelError(
                "one recording holds one forward pass or one generation, and another came",
                where=self.model, fix="open a new `record` block for each",
            )  # fmt: skip
        self._layouts[kind] = known
        running = {kind, CROSS} if kind == SELF else {kind}
        self._seen = {place for place in self._seen if place[0] not in running}
        if kind == SELF:
            self.history.add(ids, cache)
        self._plans[kind] = self._plan(kind, kind, past)
        if kind == SELF:
            self._may_have_prefix = cache is None and not past and not self.n_virtual
            self._plans[kind].add_virtual(self.n_virtual)
        if kind == SELF and ENCODER in self._layouts:
            self._plans[CROSS] = self._plan(SELF, ENCODER, past)

    def _expect_prefix(self, cache: Any) -> None:
        """Take the keys that an adapter states for those in the cache of a first pass."""
        stated = self._stated_virtual
        self.n_virtual = stated if stated and cached_tokens(cache, stated) == stated else 0

    def _start_again(self) -> None:
        """Forget earlier passes: generating without a cache, each pass is over the whole text."""
        self._pieces.clear()
        self.history.clear()

    def _plan(self, queries: str, keys: str, offset: int) -> PassPlan:
        whole = "full" in self.keep or (queries, keys) != (SELF, SELF)
        return plan_pass(
            self._layouts[queries],
            self._layouts[keys],
            offset,
            None if whole else self.queries or [[]] * len(self._layouts[queries].first),
            self.spans if (queries, keys) == (SELF, SELF) else None,
        )

    @property
    def needs_every_row(self) -> bool:
        """Whether rows beyond those of the plan are asked for."""
        return "pooled" in self.keep or self.take_rows is not None

    def wants(self, place: Place) -> bool:
        """Whether a layer is asked for."""
        return self.only_layers is None or place[1] in self.only_layers

    def plan_of(self, kind: str) -> PassPlan:
        """Return the plan of the current pass.

        Raises:
            ModelError: If none was announced.
        """
        if kind not in self._plans:
            raise ModelError(
                "attention before the model itself was called", where=f"{self.model}, {kind}",
                fix="call the model itself, with input ids in one piece",
            )  # fmt: skip
        return self._plans[kind]

    def doubt(self, place: Place, why: str) -> None:
        """Take notice that something about a layer could not be proven."""
        self._unproven[place] = why

    @torch.no_grad()
    def observe(self, call: Call, output: torch.Tensor | None) -> None:
        """Take one attention call: keep what was asked for, and prove it."""
        if not self.wants((call.kind, call.layer)) or in_backward():
            return
        plan = self._checked_plan(call)
        self._notice_prefix(call, plan)
        if (call.kind, call.layer) in self._seen:
            self._certify_again(call, plan, output)
            return
        self._seen.add((call.kind, call.layer))
        pieces = self._pieces.setdefault(call.kind, Pieces())
        extent = plan.first_key(call), plan.n_keys
        pieces.add("visible", call.layer, plan, plan.visible(call), extent)
        edges = plan.local_edges(call)
        if self.take_rows is None or call.kind != SELF:
            weights = softmax_rows(call, plan.columns)
            at_probes = pick_queries(weights, plan.probes)
            chosen = weights[:, :, : plan.n_chosen]
            if self.keep & {"rows", "full"} or call.kind != SELF:
                pieces.add("rows", call.layer, plan, chosen, extent)
            steps = sum_over_spans(chosen, edges) if "steps" in self.keep else None
        else:
            at_probes, steps = self._stream(call, plan, edges, self.take_rows)
        self._last = (call.kind, call.layer), at_probes
        columns = plan.columns.gather(1, plan.probes)
        error = self._row_errors(at_probes, call, output, columns)
        if call.kind == SELF and self.keep & {"steps", "pooled"}:
            if steps is not None:
                pieces.add("steps", call.layer, plan, steps)
            if "pooled" in self.keep:
                pooled = pooled_masses(call, edges)
                summed = sum_over_spans(at_probes, edges)
                error = error.maximum(pool_errors(pick_queries(pooled, columns), summed))
                pieces.add("pooled", call.layer, plan, pooled)
                pieces.add("visible_counts", call.layer, plan, plan.counts(call))
        pieces.certify(call.layer, error)
        if self.take_call is not None:
            self.take_call(call, output)

    def _notice_prefix(self, call: Call, plan: PassPlan) -> None:
        """Notice keys that are no tokens, at the first call of the first pass without a cache."""
        if call.kind == SELF and self._may_have_prefix:
            self._may_have_prefix = False
            self.n_virtual = max(0, call.n_keys - plan.n_keys)
            plan.add_virtual(self.n_virtual)

    def _row_errors(
        self, rows: torch.Tensor, call: Call, output: torch.Tensor | None, columns: torch.Tensor
    ) -> torch.Tensor:
        if output is not None:
            return row_errors(rows, call, output, columns)
        self.doubt((call.kind, call.layer), "the product of weights and values was not seen")
        return rows.new_zeros(len(rows))

    def _stream(
        self, call: Call, plan: PassPlan, edges: torch.Tensor, take_rows: TakeRows
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hand rows out block by block; return those of the probes, and the sums over spans."""
        size = max(1, BLOCK_WEIGHTS // (call.n_heads * call.n_keys))
        probes = plan.probes[0].tolist()
        at_probes: dict[int, torch.Tensor] = {}
        steps: list[torch.Tensor] = []
        for start in range(0, plan.columns.shape[1], size):
            weights = softmax_rows(call, plan.columns[:, start : start + size])
            at_probes |= {
                probe: weights[:, :, probe - start].clone()
                for probe in probes
                if start <= probe < start + size
            }
            chosen = weights[:, :, : max(0, plan.n_chosen - start)]
            if chosen.shape[2]:
                take_rows(call.layer, start, chosen[0])
                if "steps" in self.keep:
                    steps.append(sum_over_spans(chosen, edges))
        together = torch.stack([at_probes[probe] for probe in probes], dim=2)
        return together, torch.cat(steps, dim=2) if steps else None

    def _checked_plan(self, call: Call) -> PassPlan:
        plan = self._plans.get(call.kind)
        if plan is None or call.n_queries != plan.n_queries:
            raise ModelError(
                "this attention call is not over the inputs of the pass",
                where=f"{self.model}, {call.kind} attention of layer {call.layer}",
                got=f"{call.n_queries} queries",
                expected=f"{plan.n_queries if plan else 'a pass that was announced'}",
                fix="call the model itself, with input ids in one piece",
            )  # fmt: skip
        return plan

    def _certify_again(self, call: Call, plan: PassPlan, output: torch.Tensor | None) -> None:
        """Take a second call in one layer: the same attention on other values (DiffLlama)."""
        columns = plan.columns.gather(1, plan.probes)
        weights = softmax_rows(call, columns)
        place, before = self._last or (("", -1), weights)
        same = place == (call.kind, call.layer) and weights.shape == before.shape
        if not same or not torch.allclose(weights, before, rtol=0, atol=_SAME, equal_nan=True):
            raise CertificateError(
                "two different attentions in one layer", where=f"{self.model}, layer {call.layer}",
                fix="this architecture is not supported",
            )  # fmt: skip
        error = self._row_errors(weights, call, output, columns)
        self._pieces[call.kind].certify(call.layer, error)

    # --- afterwards --------------------------------------------------------------------------

    def finish(self, sequences: torch.Tensor | None) -> None:
        """Check the proof and put the result into its final layout.

        Args:
            sequences: What `generate` returned, if it ran.

        Raises:
            CertificateError: If a layer fails, or was not seen at all.
        """
        if not self._pieces:
            raise CertificateError(
                "no attention was seen during the forward pass", where=self.model,
                fix="run the model inside the block; where it attends in modules of other names, "
                "name them: --attention-module 'transformer.layers.{}.attn'",
            )  # fmt: skip
        lineage = self.history.lineage(sequences)
        for kind, pieces in self._pieces.items():
            certificate = self._certified(kind, pieces)
            self._check_all_seen(kind, pieces)
            queries = self._layouts[ENCODER if kind == ENCODER else SELF]
            keys = self._layouts[SELF if kind == SELF else ENCODER]
            if kind != ENCODER and lineage is not None:
                pieces.follow(lineage)
            self._kinds[kind] = self._assembled(kind, pieces, certificate, queries, keys)

    def _certified(self, kind: str, pieces: Pieces) -> Certificate:
        """Check the proof of one kind of attention; what is unproven needs the user's leave."""
        errors = dict(pieces.errors)
        Certificate(self.survey.route, self.tolerance, errors).check(self.model)
        unproven = {layer: why for (of, layer), why in self._unproven.items() if of == kind}
        for layer, why in unproven.items():
            if not self.survey.uncertified:
                raise CertificateError(
                    f"nothing proves the captured attention: {why}",
                    where=f"{self.model}, layer {layer}",
                    fix="nothing was stored; --uncertified records it all the same, and says so",
                )  # fmt: skip
            errors[layer] = torch.full_like(errors[layer], UNPROVEN)
        return Certificate(self.survey.route, self.tolerance, errors, unproven)

    def _assembled(
        self, kind: str, pieces: Pieces, certificate: Certificate, queries: Layout, keys: Layout
    ) -> KindRecording:
        found = KindRecording(certificate, layout=queries)
        whole = "full" in self.keep or kind != SELF
        n_rows = queries.width if whole else max(map(len, self.queries or [[]]), default=0)
        n_keys = keys.width + (self.n_virtual if kind == SELF else 0)
        rows = pieces.over_keys("rows", n_rows, n_keys)
        found.visible = pieces.over_keys("visible", n_rows, n_keys)
        if whole and ("full" in self.keep):
            found.full = rows
        if "rows" in self.keep:
            found.rows = self._chosen(rows, queries) if whole and kind == SELF else rows
            if whole and kind == SELF:
                found.visible = self._chosen(found.visible, queries)
        blank = self._blank_spans() if kind == SELF else None
        found.steps = pieces.over_spans("steps", n_rows, blank)
        if whole and kind == SELF and found.steps:
            found.steps = self._chosen(found.steps, queries)
        found.pooled = pieces.over_columns("pooled", blank)
        found.visible_counts = pieces.over_columns("visible_counts", None)
        return found

    def _chosen(self, tensors: Tensors, layout: Layout) -> Tensors:
        """Pick the rows asked for out of rows of every column."""
        firsts = layout.first.tolist()
        wanted = self.queries or []
        most = max(map(len, wanted))
        columns = torch.tensor(
            [[first + p for p in row] + [0] * (most - len(row))
             for row, first in zip(wanted, firsts, strict=True)]
        )  # fmt: skip
        real = torch.tensor([[True] * len(row) + [False] * (most - len(row)) for row in wanted])
        return {
            layer: generation.pick_rows(tensor, columns, real) for layer, tensor in tensors.items()
        }

    def _blank_spans(self) -> torch.Tensor | None:
        """Mark the spans that an example does not have; None if all have the same number."""
        lengths = [len(row) for row in self.spans or []]
        if len(set(lengths)) < 2:
            return None
        device = self._layouts[SELF].first.device
        at = torch.arange(max(lengths), device=device)
        return at >= torch.tensor(lengths, device=device)[:, None]

    def _check_all_seen(self, kind: str, pieces: Pieces) -> None:
        there = {layer for of_kind, layer in self.survey.places.values() if of_kind == kind}
        if missing := sorted((there & (self.only_layers or there)) - set(pieces.errors)):
            raise CertificateError(
                "attention layers were not seen", where=self.model, got=f"layers {missing} missing",
                fix=None if self.survey.route == INTERFACE else _NOT_SEEN,
            )  # fmt: skip

    def _check_request(self, layout: Layout, kind: str) -> None:
        if kind == ENCODER or (self.queries is None and self.spans is None):
            return
        lengths = layout.lengths()
        for what, given in (("queries", self.queries), ("spans", self.spans)):
            if given is not None and len(given) != len(lengths):
                raise SelectionError(
                    f"{what} are given per example", expected=f"{len(lengths)} of them",
                    got=len(given),
                )  # fmt: skip

    def check_inside(self) -> None:
        """Refuse queries and spans outside their example, once its final length is known.

        Raises:
            SelectionError: Naming the example.
        """
        if (layout := self._layouts.get(SELF)) is None:
            return
        for index, length in enumerate(layout.lengths()):
            for query in self.queries[index] if self.queries is not None else ():
                if not 0 <= query < length:
                    raise SelectionError(
                        "a query lies outside its example", where=f"example {index}", got=query,
                        expected=f"0 to {length - 1}",
                    )  # fmt: skip
            for span in self.spans[index] if self.spans is not None else ():
                if not -self.n_virtual <= span[0] < span[1] <= length:
                    raise SelectionError(
                        "a span is empty or lies outside its example", where=f"example {index}",
                        got=str(tuple(span)),
                        expected=f"[start, stop) within {-self.n_virtual} to {length}",
                    )  # fmt: skip
