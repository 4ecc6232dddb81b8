"""Changing attention while a model runs, whichever way it is reached, and alongside `record`.

Where attention goes through transformers' interface, each call passes by the editing with its mask
before the kernel, and with its output after it. Elsewhere a `TorchFunctionMode` changes the mask of
a fused function, or the scores that a softmax is given, and the product that follows. A recording
sees the changed attention, and the output before a head of it is replaced: what that head really
computed.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from attnprobe.attention import compat
from attnprobe.attention.announcing import announced_passes
from attnprobe.attention.calls import SELF, Place
from attnprobe.attention.carriers import Carriers
from attnprobe.attention.edits import Editor, Window, check_rows_left, without
from attnprobe.attention.functions import FUSED, MULTI_HEAD, SOFTMAX
from attnprobe.attention.fused import fused_call
from attnprobe.attention.multihead import opened
from attnprobe.attention.passes import layout_of
from attnprobe.attention.products import read_product
from attnprobe.attention.rows import unmasked
from attnprobe.attention.shapes import Expected, Shape, product_shape, weights_shape
from attnprobe.attention.survey import INTERFACE, Survey
from attnprobe.errors import ModelError, SelectionError

_AMBIGUOUS = "run one example at a time, or change all heads and examples alike"


class Edited:
    """A model whose attention an editor changes: follows its passes and applies the changes.

    Only self-attention (of the decoder, where there are two stacks) is changed.
    """

    def __init__(self, survey: Survey, editor: Editor) -> None:
        self.survey, self.editor = survey, editor
        self.window: Window | None = None
        self._seen: set[int] = set()
        self._mixed: set[int] = set()
        self._thread = threading.get_ident()
        there = frozenset(survey.layers)
        self.layers = there if editor.layers is None else editor.layers
        if unknown := sorted(self.layers - there):
            raise SelectionError(
                "the model has no attention in this layer", where=survey.name, got=unknown[0],
                expected=f"one of {', '.join(map(str, survey.layers))}",
            )  # fmt: skip

    def begin(self, kind: str, ids: torch.Tensor, mask: Any, cache: Any) -> None:
        """Take notice of a forward pass.

        Raises:
            ModelError: If it goes on from a cache that was filled before, or runs elsewhere.
            SelectionError: If the text before it was too short for what should be changed.
        """
        if kind != SELF:
            return
        if threading.get_ident() != self._thread or compat.in_backward():
            raise ModelError(
                "an edited model runs in another thread, or again for its gradients",
                where=self.survey.name,
                fix="run it in the thread that edits it, without gradient checkpointing",
            )
        batch, n_queries = ids.shape[:2]
        known = self.window
        expected = known.n_keys if known else 0
        past = compat.cached_tokens(cache, expected)
        if past and (known is None or past != known.n_keys):
            raise ModelError(
                "an edited model goes on from a cache that was filled before",
                where=self.survey.name, got=f"{past} tokens in the cache",
                fix="run the whole text inside the block",
            )  # fmt: skip
        if past and known is not None:
            known.layout.grow(n_queries)
            offset = known.layout.width - n_queries
            self.window = Window(known.layout, offset, known.n_virtual)
            return
        self.finish()
        layout = layout_of(mask, batch, n_queries, ids.device)
        self.window = Window(layout, 0, may_have_virtual=cache is None)

    def finish(self) -> None:
        """Check that what was asked for was done, when a text has ended.

        Raises:
            ModelError: If attention that should be changed was not seen.
            SelectionError: If the text was too short.
        """
        if self.window is None:
            return
        done = self._mixed if self.editor.needs_outputs else self._seen
        if missing := sorted(self.layers - done):
            raise ModelError(
                "attention that should be changed was not seen", where=self.survey.name,
                got=f"layers {missing} missing",
                fix="these layers attend by a function of their own; nothing was changed there",
            )  # fmt: skip
        self.editor.check(self.window)
        self.window = None

    def wants(self, place: Place) -> bool:
        """Whether a layer is to be changed."""
        return place[0] == SELF and place[1] in self.layers

    def running(self) -> Window:
        """Return where the current pass lies.

        Raises:
            ModelError: If none was announced.
        """
        if self.window is None:
            raise ModelError(
                "attention before the model itself was called", where=self.survey.name,
                fix="call the model itself, with input ids in one piece",
            )  # fmt: skip
        return self.window

    def cut(self, place: Place, n_heads: int, n_keys: int) -> torch.Tensor | None:
        """Return the edges to cut in a call, [batch, head or 1, query, key]."""
        self._seen.add(place[1])
        return self.editor.cut(place, n_heads, n_keys, self.running())

    def edited_mask(
        self, place: Place, shape: tuple[int, int, int], mask: torch.Tensor | None, causal: bool
    ) -> torch.Tensor | None:
        """Return the mask that a call (heads, queries, keys) gets instead of its own."""
        if not self.wants(place):
            return mask
        n_heads, n_queries, n_keys = shape
        window = self.running()
        window.notice(n_keys)
        if n_queries != window.n_queries:
            raise ModelError(
                "this attention call is not over the inputs of the pass",
                where=f"{self.survey.name}, layer {place[1]}", got=f"{n_queries} queries",
                expected=f"{window.n_queries}",
            )  # fmt: skip
        cut = self.cut(place, n_heads, n_keys)
        if cut is None:
            return mask
        check_rows_left(mask, causal, cut, place, window)
        additive = self.dtype if self.survey.base == "eager" else None
        return without(mask, causal, cut, additive)

    def edited_output(self, place: Place, output: torch.Tensor) -> torch.Tensor:
        """Return what the model goes on with instead of an output [batch, query, head, size]."""
        if not self.wants(place):
            return output
        self._mixed.add(place[1])
        replaced = self.editor.replace(place, output, self.running())
        return output if replaced is None else replaced

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the model."""
        return next(self.survey.inner.parameters()).dtype


@contextmanager
def edited(model: torch.nn.Module, editor: Editor) -> Iterator[Edited]:
    """Let an editor change a model's attention inside the block; the model leaves as it came.

    Raises:
        ModelError: If the model's attention cannot be reached, or was not seen where it should be
            changed.
        SelectionError: If the model has no such layer.
    """
    state = Edited(_survey(model), editor)
    with ExitStack() as stack:
        stack.enter_context(announced_passes(model, state))
        stack.enter_context(compat.edited_by(state))
        if state.survey.route == INTERFACE:
            stack.enter_context(compat.switched(state))
        else:
            stack.enter_context(_watched(state))
        yield state
        state.finish()


def _survey(model: torch.nn.Module) -> Survey:
    inner = compat.inner_model(model)
    for active in (compat.active_observer(), *compat.active_editings()):
        if active is None:
            continue
        survey: Any = active.survey
        if survey.inner is not inner:
            raise ModelError(
                "another model is being recorded or edited", where=type(inner).__name__,
                got=survey.name, fix="leave its block first",
            )  # fmt: skip
        return survey
    return Survey(model)


@contextmanager
def _watched(state: Edited) -> Iterator[None]:
    mode = _Mode(state, over_recording=compat.is_recording())
    with ExitStack() as stack:
        for module, place in state.survey.places.items():
            before = module.register_forward_pre_hook(mode.entering(place))
            stack.callback(before.remove)
            after = module.register_forward_hook(mode.leaving, always_call=True)
            stack.callback(after.remove)
        if state.survey.compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(mode)
        yield


@contextmanager
def edited_first() -> Iterator[None]:
    """Let active editings change calls before a recording by interception sees them."""
    with ExitStack() as stack:
        for state in compat.active_editings():
            if isinstance(state, Edited) and state.survey.route != INTERFACE:
                stack.enter_context(_watched(state))
        yield


class _Mode(TorchFunctionMode):
    """Changes calls of torch functions inside attention modules."""

    def __init__(self, state: Edited, *, over_recording: bool) -> None:
        super().__init__()
        self._state = state
        self._over_recording = over_recording
        self._stack: list[Place] = []
        self._weights: tuple[Carriers, Shape] | None = None

    def entering(self, place: Place) -> Callable[..., None]:
        """Return a hook for the begin of an attention module's forward pass."""

        def hook(module: torch.nn.Module, args: Any) -> None:
            self._stack.append(place)

        return hook

    def leaving(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        """End a module's forward pass."""
        if self._stack:
            self._stack.pop()
        if not self._stack:
            self._weights = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        place = self._stack[-1] if self._stack else None
        is_off = compat.is_recording() and not self._over_recording
        if place is None or is_off or not self._state.wants(place):
            return func(*args, **kwargs)
        if func is MULTI_HEAD:
            return opened(self, func, args, kwargs, self._where(place))
        if func is FUSED:
            return self._edit_fused(place, args, kwargs)
        if func in SOFTMAX:
            return self._edit_softmax(place, func, args, kwargs)
        return self._follow(place, func, args, kwargs, func(*args, **kwargs))

    def _edit_fused(self, place: Place, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run `scaled_dot_product_attention` with a changed mask, and change its output."""
        given = dict(zip(_FUSED_ARGUMENTS, args, strict=False)) | dict(kwargs)
        taken = fused_call(place, FUSED, (), given, self._expected())
        if taken is None:
            raise ModelError(
                "an attention call whose shape is not understood", where=self._where(place),
                got=f"queries of shape {tuple(given['query'].shape)}",
            )  # fmt: skip
        call, shape, rearrange = taken
        window = self._state.running()
        window.notice(call.n_keys)
        cut = self._state.cut(place, call.n_heads, call.n_keys)
        if cut is not None:
            self._check_order(place, shape, cut)
            check_rows_left(call.mask, call.causal, cut, place, window)
            mask = without(call.mask, call.causal, cut)
            query = given["query"]
            if shape.rearrange(query) is not query:  # the mask must lie as the queries do
                as_given = mask.new_empty((*query.shape[:-1], call.n_keys))
                shape.rearrange(as_given).copy_(mask.expand(-1, call.n_heads, -1, -1))
                mask = as_given
            given |= {"attn_mask": mask, "is_causal": False}
        output = FUSED(**given)
        return self._replaced(place, shape, output, rearrange(output))

    def _edit_softmax(
        self, place: Place, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run a softmax over changed scores, where they are scores of attention."""
        scores = kwargs["input"] if "input" in kwargs else args[0]
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        dim = -1 if dim is None else int(dim)
        window, n_keys = self._state.running(), scores.shape[dim]
        shape = weights_shape(scores.movedim(dim, -1).shape, self._expected())
        if shape is None or (not window.offset and n_keys < window.n_keys):
            return func(*args, **kwargs)
        cut = self._state.cut(place, shape.n_heads, n_keys)
        if cut is not None:
            if n_keys > window.n_keys:
                raise ModelError(
                    "this attention has columns that are no tokens, and it does not show where",
                    where=self._where(place), got=f"{n_keys} columns",
                    expected=f"{window.n_keys}", fix="this architecture cannot be edited",
                )  # fmt: skip
            self._check_order(place, shape, cut)
            scores = scores.clone()
            arranged = _same_memory(scores, shape.rearrange(scores.movedim(dim, -1)))
            check_rows_left(unmasked(arranged.detach()), False, cut, place, window)
            arranged.masked_fill_(cut, -torch.inf)
            if "input" in kwargs:
                kwargs = {**kwargs, "input": scores}
            else:
                args = (scores, *args[1:])
        weights = func(*args, **kwargs)
        self._weights = Carriers(weights), shape
        return weights

    def _follow(
        self,
        place: Place,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> Any:
        """Follow the weights to their product with the values, and change that."""
        if self._weights is None:
            return output
        carriers, shape = self._weights
        n_queries = self._state.running().n_queries
        product = read_product(func, args, kwargs, output, carriers.__contains__, n_queries)
        if product is None or product.values.shape[-2] != product.weights.shape[-1]:
            carriers.follow(func.__name__, args, kwargs, output)
            return output
        mixed = product_shape(product.weights.shape, self._expected(), shape.n_heads)
        if mixed is None:
            return output
        self._weights = None
        return self._replaced(place, mixed, output, mixed.rearrange(product.output))

    def _replaced(
        self, place: Place, shape: Shape, output: torch.Tensor, arranged: torch.Tensor
    ) -> torch.Tensor:
        """Write what the editor puts in the place of [batch, head, query, size]."""
        mixed = arranged.transpose(1, 2)
        new = self._state.edited_output(place, mixed)
        if new is mixed:
            return output
        self._check_order(place, shape, None)
        _same_memory(output, arranged)
        if output.requires_grad:
            strides, offset = arranged.stride(), arranged.storage_offset()
            at = offset - output.storage_offset()
            output = output.clone()
            arranged = output.as_strided(arranged.shape, strides, at)
        arranged.copy_(new.transpose(1, 2))
        return output

    def _check_order(self, place: Place, shape: Shape, cut: torch.Tensor | None) -> None:
        """Refuse what depends on the order of examples and heads where that is not known."""
        if not shape.is_fused:
            return
        if cut is None or cut.shape[1] > 1 or not torch.equal(cut, cut[:1].expand_as(cut)):
            raise ModelError(
                "examples and heads share an axis, and the model does not show in which order",
                where=self._where(place), fix=_AMBIGUOUS,
            )  # fmt: skip

    def _expected(self) -> Expected:
        window = self._state.running()
        return Expected(len(window.layout.first), window.n_queries, self._state.survey.n_heads)

    def _where(self, place: Place) -> str:
        return f"{self._state.survey.name}, layer {place[1]}"


_FUSED_ARGUMENTS = (
    "query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"
)  # fmt: skip


def _same_memory(tensor: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
    """Return a view that writes through to a tensor.

    Raises:
        ModelError: If it is a copy.
    """
    if view.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr():
        raise ModelError(
            "this attention lies in memory in a way that cannot be edited",
            got=f"shape {tuple(tensor.shape)}", fix="run one example at a time",
        )  # fmt: skip
    return view
