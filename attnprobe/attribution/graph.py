"""One forward pass for all rows: backwards once per row, or forwards once per span."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnprobe.attribution.prediction import Prediction
from attnprobe.models import transformers_model


class Graph:
    """A forward pass over token vectors, and its gradients row by row.

    The pass is cut before the output layer: what the target's gradient is there comes from one
    step backwards for all rows, and each row then walks back through the layers from the few
    positions where it is not 0, never through the vocabulary.

    Args:
        prediction: What is explained.
        vectors: [batch, source, size]: what to run over in place of the token embeddings.
    """

    def __init__(self, prediction: Prediction, vectors: torch.Tensor) -> None:
        self.prediction = prediction
        self.inputs = vectors.detach().requires_grad_()
        before: list[torch.Tensor] = []
        after: list[torch.Tensor] = []
        with _cut(prediction.model, before, after):
            values = prediction.values_of(self.inputs)
        self.values = values.detach()
        """[batch, step]"""
        if len(before) == 1:
            self._head = before[0]
            (self._at_head,) = torch.autograd.grad(values.sum(), after[0])
            last = self._head.shape[1]
            self._positions = range(last - prediction.n_steps, last)
        else:
            self._head, self._at_head = values, torch.ones_like(values)
            self._positions = range(prediction.n_steps)

    def gradients(
        self, row: int, of: Sequence[torch.Tensor] | None = None, more: bool = True
    ) -> tuple[torch.Tensor, ...]:
        """Differentiate one row of the scores, of each example of the batch.

        Args:
            row: Which.
            of: What by; the vectors if None.
            more: Whether another row will be asked for.

        Returns:
            A gradient for each.
        """
        start, stop = self.prediction.rows[row]
        there = slice(self._positions[start], self._positions[stop - 1] + 1)
        begin = torch.zeros_like(self._at_head)
        begin[:, there] = self._at_head[:, there]
        return torch.autograd.grad(self._head, of or [self.inputs], begin, retain_graph=more)

    def at_head(self, row: int) -> torch.Tensor:
        """Return the gradient of one row by what enters the output layer: [batch, step, size]."""
        start, stop = self.prediction.rows[row]
        begin = torch.zeros_like(self._at_head)
        there = slice(self._positions[start], self._positions[stop - 1] + 1)
        begin[:, there] = self._at_head[:, there]
        return begin[:, self._positions.start :]

    def is_head(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is what entered the output layer, or the sequence it was cut from."""
        last = self._head.shape[1]
        return bool(tensor.shape[-1] == self._head.shape[-1]) and torch.equal(
            tensor[:, -last:].detach(), self._head.detach()
        )

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield the gradient by the vectors, [batch, source, size], row by row."""
        n_rows = len(self.prediction.rows)
        for row in range(n_rows):
            yield self.gradients(row, more=row < n_rows - 1)[0]


def row_gradients(prediction: Prediction, vectors: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the gradient of each row by the vectors: [batch, source, size], 0 after the row's step.

    A walk back costs as much as there are tokens in the pass, also those after the step. So a long
    target is cut into parts, each with a pass over the tokens up to its end; with n steps and t
    tokens, n / √(2t) parts cost the least.
    """
    n_steps, n_tokens = prediction.n_steps, prediction.n_tokens
    if prediction.steps is not None:
        yield from Graph(prediction, vectors)
        return
    n_parts = max(1, round(n_steps / (2 * n_tokens) ** 0.5))
    edges = [round(part * n_steps / n_parts) for part in range(n_parts + 1)]
    for start, stop in pairwise(edges):
        part = _steps_of(prediction, start, stop)
        for gradient in Graph(part, vectors[:, : part.n_tokens - 1]):
            n_after = vectors.shape[1] - gradient.shape[1]
            yield torch.nn.functional.pad(gradient, (0, 0, 0, n_after))


def _steps_of(prediction: Prediction, start: int, stop: int) -> Prediction:
    """Return the prediction of some of the steps, from the tokens before them alone."""
    n_prompt = prediction.n_prompt
    return replace(
        prediction,
        ids=prediction.ids[:, : n_prompt + stop],
        n_prompt=n_prompt + start,
        foils=None if prediction.foils is None else prediction.foils[start:stop],
        spans=None,
    )


@contextmanager
def _cut(
    model: torch.nn.Module, before: list[torch.Tensor], after: list[torch.Tensor]
) -> Iterator[None]:
    """Cut the graph of a forward pass where the output layer begins, and keep both ends."""
    head = transformers_model(model).get_output_embeddings()
    if head is None:
        yield
        return

    def hook(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        before.append(args[0])
        after.append(args[0].detach().requires_grad_())
        return (after[-1], *args[1:])

    handle = head.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def directional(
    prediction: Prediction, vectors: torch.Tensor, directions: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Differentiate every step along directions, by forward-mode differentiation.

    A pass per direction gives all steps at once. It keeps no graph: beside a plain forward pass
    it takes a second number for each activation of one layer, and the attention weights of one
    layer (heads × tokens² numbers), since only the plain kernel has derivatives of this kind.

    Args:
        prediction: What is explained.
        vectors: [batch, source, size].
        directions: Each of the shape of `vectors`.

    Returns:
        [direction, batch, row], float32, on the CPU.

    Raises:
        NotImplementedError: If an operation of the model has no such derivative.
    """
    found = []
    with torch.no_grad(), _quiet(), sdpa_kernel(SDPBackend.MATH):
        for direction in directions:
            with forward_ad.dual_level():
                dual = forward_ad.make_dual(vectors.detach(), direction.to(vectors.dtype))
                tangent = forward_ad.unpack_dual(prediction.values_of(dual)).tangent
                found.append(prediction.by_row(_number(tangent, prediction)).float().cpu())
    return torch.stack(found)


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading its rules for forward mode, torch warns of a deprecation of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        yield


def _number(tangent: torch.Tensor | None, prediction: Prediction) -> torch.Tensor:
    return torch.zeros(1, prediction.n_steps) if tangent is None else tangent
