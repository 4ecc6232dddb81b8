"""Attention of models outside transformers' interface: watching what their modules compute.

While such a model runs, every call of a torch function inside an attention module passes by here.
A fused attention function shows its queries, keys, values and mask. A softmax shows scores and
weights, and the product that follows it shows the values and the output. What attnprobe computes
itself is never seen: a `TorchFunctionMode` is off while it handles a call.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch.overrides import TorchFunctionMode

from attnprobe.attention.calls import Place, WeighedCall
from attnprobe.attention.carriers import Carriers
from attnprobe.attention.compat import Observer, announced, in_backward
from attnprobe.attention.functions import FUSED, MULTI_HEAD, SOFTMAX
from attnprobe.attention.fused import fused_call
from attnprobe.attention.multihead import opened
from attnprobe.attention.order import HeadOrder
from attnprobe.attention.passes import PassPlan
from attnprobe.attention.products import Product, read_product
from attnprobe.attention.rows import softmax_rows, visible_keys
from attnprobe.attention.shapes import Expected, product_shape, weights_shape
from attnprobe.attention.survey import Survey
from attnprobe.errors import ModelError


@runtime_checkable
class Watcher(Observer, Protocol):
    """Takes what was seen of a running model."""

    @property
    def survey(self) -> Survey:
        """What is known of the model."""
        ...

    @property
    def needs_every_row(self) -> bool:
        """Whether rows beyond those of the plan are asked for."""
        ...

    def wants(self, place: Place) -> bool:
        """Whether this layer is asked for, and a pass was announced for it."""
        ...

    def plan_of(self, kind: str) -> PassPlan:
        """Return the plan of the current pass."""
        ...

    def doubt(self, place: Place, why: str) -> None:
        """Take notice that something about a layer could not be proven."""
        ...


@dataclass(slots=True)
class _Pending:
    """A softmax whose product has not come yet."""

    place: Place
    carriers: Carriers
    call: WeighedCall


@contextmanager
def intercepted(watcher: Watcher) -> Iterator[None]:
    """Show what a model's attention modules compute to `watcher`; the model leaves as it came."""
    mode = _Interceptor(watcher)
    with ExitStack() as stack:
        stack.enter_context(announced(watcher))
        for module, place in watcher.survey.places.items():
            before = module.register_forward_pre_hook(mode.entering(place))
            stack.callback(before.remove)
            after = module.register_forward_hook(mode.leaving(place), always_call=True)
            stack.callback(after.remove)
        if watcher.survey.compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(mode)
        yield


class _Interceptor(TorchFunctionMode):
    """Sees every call of a torch function, and where in the model it is."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self._watcher = watcher
        self._thread = threading.get_ident()
        self._stack: list[Place] = []
        self._pending: list[_Pending] = []
        self._orders: list[HeadOrder] = []
        self._proven: set[Place] = set()
        self._is_busy = False

    # --- where in the model --------------------------------------------------------------------

    def entering(self, place: Place) -> Callable[..., None]:
        """Return a hook for the begin of a module's forward pass."""

        def hook(module: torch.nn.Module, args: Any) -> None:
            if in_backward() or threading.get_ident() != self._thread:
                return
            if place not in self._stack:
                self._proven.discard(place)
            self._stack.append(place)

        return hook

    def leaving(self, place: Place) -> Callable[..., None]:
        """Return a hook for its end."""

        def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
            if in_backward() or threading.get_ident() != self._thread or not self._stack:
                return
            self._stack.pop()
            if place not in self._stack:
                self._settle(place)

        return hook

    def _settle(self, place: Place) -> None:
        """Judge what is left of a layer's attention when its module has ended."""
        left = [pending for pending in self._pending if pending.place == place]
        self._pending = [pending for pending in self._pending if pending.place != place]
        if place not in self._proven and left:
            self._proven.add(place)
            with self._unseen():
                self._watcher.observe(left[-1].call, None)
        for order in self._orders:
            if order.place == place and not order.is_proven:
                self._watcher.doubt(place, order.doubt)
        self._orders = [order for order in self._orders if order.place != place]

    # --- what it computes ----------------------------------------------------------------------

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        place = self._stack[-1] if self._stack else None
        if self._is_busy or place is None or not self._watcher.wants(place):
            if func is FUSED and not self._stack and not self._is_busy and not in_backward():
                self._refuse_outside()
            return func(*args, **kwargs)
        if func is MULTI_HEAD:
            return opened(self, func, args, kwargs, self._where())
        output = func(*args, **kwargs)
        if func is FUSED:
            self._take_fused(place, func, args, kwargs, output)
        elif func in SOFTMAX:
            self._take_softmax(place, args, kwargs, output)
        elif self._pending or self._orders:
            self._follow(func, args, kwargs, output)
        return output

    def _take_fused(
        self,
        place: Place,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        output: torch.Tensor,
    ) -> None:
        expected = self._expected(place)
        taken = fused_call(place, func, args, kwargs, expected)
        if taken is None:
            raise ModelError(
                "an attention call whose shape is not understood", where=self._where(),
                got=f"queries of shape {tuple(args[0].shape) if args else '?'}",
                expected=f"{expected.batch} examples and {expected.n_queries} queries in it",
            )  # fmt: skip
        call, shape, rearrange = taken
        self._proven.add(place)
        arranged = rearrange(output)
        self._watcher.observe(call, arranged.transpose(1, 2))
        if shape.is_fused:
            self._orders.append(HeadOrder(place, arranged, output))

    def _take_softmax(
        self, place: Place, args: Sequence[Any], kwargs: Mapping[str, Any], output: torch.Tensor
    ) -> None:
        scores = kwargs["input"] if "input" in kwargs else args[0]
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        dim = -1 if dim is None else int(dim)
        weights, scores = output.movedim(dim, -1), scores.movedim(dim, -1)
        expected = self._expected(place)
        shape = weights_shape(weights.shape, expected)
        plan = self._watcher.plan_of(place[0])
        if shape is None or not self._spans_the_keys(plan, weights.shape[-1]):
            return
        call = WeighedCall(
            *place, plan.n_queries, shape.rearrange(weights).detach(),
            shape.rearrange(scores).detach(),
        )  # fmt: skip
        if not self._watcher.needs_every_row:
            call = _only(call, plan.columns)
        self._pending.append(_Pending(place, Carriers(output), call))

    def _follow(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        for order in self._orders:
            order.follow(func.__name__, args, kwargs, output)
        for pending in self._pending:
            product = read_product(
                func, args, kwargs, output, pending.carriers.__contains__, pending.call.n_queries
            )
            if product is not None and self._take_product(pending, product, args, output):
                self._pending.remove(pending)
                return
            pending.carriers.follow(func.__name__, args, kwargs, output)

    def _take_product(
        self, pending: _Pending, product: Product, args: Sequence[Any], output: torch.Tensor
    ) -> bool:
        """Take the product of a softmax; tell whether it is one of weights and values."""
        expected = self._expected(pending.place)
        call = pending.call
        if product.values.shape[-2] != product.weights.shape[-1]:
            return False
        carrier = next(arg for arg in _flat(args) if arg in pending.carriers)
        call = replace(call, keys=pending.carriers.keys_of(carrier))
        if product.values.shape[-2] != call.n_keys:
            return False
        shape = product_shape(product.weights.shape, expected, call.n_heads)
        if shape is None:
            self._watcher.doubt(pending.place, "a product of weights and values was not understood")
            return False
        value = shape.rearrange(product.full_values.detach())
        arranged = shape.rearrange(product.output)
        self._proven.add(pending.place)
        self._watcher.observe(replace(call, value=value), arranged.transpose(1, 2))
        if shape.is_fused:
            self._orders.append(HeadOrder(pending.place, arranged, output))
        return True

    # --- what is known --------------------------------------------------------------------------

    def _expected(self, place: Place) -> Expected:
        plan = self._watcher.plan_of(place[0])
        return Expected(len(plan.pads), plan.n_queries, self._watcher.survey.n_heads)

    def _spans_the_keys(self, plan: PassPlan, n_keys: int) -> bool:
        """Whether a softmax runs over keys: at first over all of them, later over those kept."""
        return n_keys >= plan.n_keys if plan.offset == 0 else n_keys > 0

    def _where(self) -> str:
        kind, layer = self._stack[-1]
        return f"{self._watcher.survey.name}, {kind} attention of layer {layer}"

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    def _refuse_outside(self) -> None:
        raise ModelError(
            "attention outside of the modules that are known to attend",
            where=self._watcher.survey.name,
            fix="name them: --attention-module 'transformer.layers.{}.attn' with the model's own "
            "path, {} for the layer's number",
        )


def _only(call: WeighedCall, columns: torch.Tensor) -> WeighedCall:
    """Keep a few rows of a softmax, so that the rest can be freed."""
    return replace(
        call, weights=softmax_rows(call, columns), scores=None, columns=columns,
        seen=visible_keys(call, columns),
    )  # fmt: skip


def _flat(args: Sequence[Any]) -> Iterator[Any]:
    for arg in args:
        if isinstance(arg, list | tuple):
            yield from arg
        else:
            yield arg
