"""`ablate_heads`: what a head gives, replaced; `head_outputs`: what it gives usually."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from attnprobe.attention.calls import Place
from attnprobe.attention.editing import edited
from attnprobe.attention.edits import Reach, Window
from attnprobe.errors import SelectionError, nearest

MODES = ("mean", "resample", "zero")
"""What takes the place of a head's output: its mean over reference tokens, its output at a random
one of them, or nothing."""

_POSITIONS = 2**16
"""Positions of a text for which draws are made."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadOutputs:
    """What each head gave at the tokens of some texts, before the output projection mixed it."""

    mean: Mapping[int, Float[torch.Tensor, "head size"]]
    """By layer: the mean over all tokens."""
    samples: Mapping[int, Float[torch.Tensor, "sample head size"]]
    """By layer: the outputs at some tokens, the same ones in every layer."""
    n_tokens: int
    """How many tokens the mean is over."""


@torch.no_grad()
def head_outputs(
    model: torch.nn.Module,
    texts: Iterable[Any],
    *,
    layers: Sequence[int] | None = None,
    n_samples: int = 256,
    seed: int = 0,
) -> HeadOutputs:
    """Run a model over reference texts, and keep what its heads give.

    Args:
        model: A model that `record` can record, in eval mode.
        texts: Token ids, one sequence each, such as `encoding.ids` of records: of the same kind as
            those that the ablation will be held against.
        layers: Only these; all if None.
        n_samples: How many tokens to keep whole, drawn evenly from all (reservoir sampling,
            Vitter 1985).
        seed: Of the draw.

    Returns:
        Means and samples, in float32 on the CPU.

    Raises:
        SelectionError: If there are no texts.
        ModelError: If the model's attention cannot be reached.
    """
    if n_samples < 1:
        raise SelectionError("too few samples", where="n_samples", got=n_samples, expected="≥ 1")
    collector = _Collector(None if layers is None else frozenset(layers), n_samples, seed)
    device = next(model.parameters()).device
    for text in texts:
        ids = torch.as_tensor(np.asarray(text), dtype=torch.long)
        collector.draw(ids.numel())
        with edited(model, collector):
            model(input_ids=ids.reshape(1, -1).to(device))
    if not collector.n_tokens:
        raise SelectionError(
            "there are no reference texts", where="head_outputs",
            fix="pass token ids of some records, such as [encoding.ids, …]",
        )  # fmt: skip
    return collector.result()


@contextmanager
def ablate_heads(
    model: torch.nn.Module,
    heads: Iterable[tuple[int, int]],
    reference: HeadOutputs | None = None,
    *,
    mode: str = "mean",
    queries: Reach = (0, None),
    seed: int = 0,
) -> Iterator[None]:
    """Replace what some heads give inside the block.

    `mean` takes away what a head says about this text and leaves what it says about any (Wang et
    al. 2023, "Interpretability in the wild"). `resample` gives what it said at a token of another
    text, so that the layers above see nothing unusual, and the effect is one draw: repeat it with
    several seeds. `zero` is no neutral value, since the layers above are tuned to the head's mean;
    it is there to compare with what others report. Heads can stand in for each other, so that an
    ablation without an effect does not show that a head does nothing.

    Works wherever `record` does, in passes, batches and `generate`. A recording inside or around
    the block shows where the ablated heads look and proves it by what they really gave; only then
    is that replaced. The model leaves as it came, also after an exception.

    Args:
        model: A model that `record` can record.
        heads: `(layer, head)` of each.
        reference: From `head_outputs`; `zero` needs none.
        mode: `mean`, `resample` or `zero`.
        queries: Half-open range of the positions where they are replaced, without padding; a stop
            of None is the end of the text.
        seed: Of `resample`: with layer, example and position, which token is drawn. All ablated
            heads of a layer take the same one.

    Raises:
        SelectionError: If there is no such mode, layer or head, or the reference lacks one.
        ModelError: If the model's attention cannot be reached.
    """
    chosen: dict[int, list[int]] = {}
    for layer, head in heads:
        chosen.setdefault(int(layer), []).append(int(head))
    _check(chosen, reference, mode, queries)
    if not chosen:
        yield
        return
    with edited(model, _Ablation(chosen, reference, mode, queries, seed)):
        yield


def _check(
    heads: Mapping[int, Sequence[int]], reference: HeadOutputs | None, mode: str, queries: Reach
) -> None:
    if mode not in MODES:
        raise SelectionError(
            "unknown kind of ablation", where="mode", got=mode, fix=nearest(mode, MODES)
        )
    start, stop = queries
    if start < 0 or (stop is not None and stop <= start):
        raise SelectionError(
            "the queries are no range", where="ablate_heads", got=f"{start} to {stop}",
            expected="[start, stop) with 0 ≤ start < stop, or a stop of None",
        )  # fmt: skip
    if mode == "zero" or not heads:
        return
    if reference is None:
        raise SelectionError(
            f"ablation by '{mode}' needs to know what the heads give usually",
            where="ablate_heads", fix="pass reference=head_outputs(model, texts)",
        )  # fmt: skip
    if missing := sorted(set(heads) - set(reference.mean)):
        raise SelectionError(
            "the reference does not hold this layer", where="ablate_heads", got=missing[0],
            expected=f"one of {', '.join(map(str, sorted(reference.mean)))}",
            fix="make it with head_outputs(model, texts, layers=None)",
        )  # fmt: skip


class _Watching:
    """An editor that cuts nothing."""

    needs_outputs = True
    layers: frozenset[int] | None

    def check(self, window: Window) -> None:
        """Accept every text."""

    def cut(self, place: Place, n_heads: int, n_keys: int, window: Window) -> torch.Tensor | None:
        """Cut nothing."""


class _Ablation(_Watching):
    """Replaces outputs of heads."""

    def __init__(
        self,
        heads: Mapping[int, Sequence[int]],
        reference: HeadOutputs | None,
        mode: str,
        queries: Reach,
        seed: int,
    ) -> None:
        self.layers = frozenset(heads)
        self._heads, self._reference, self._mode = heads, reference, mode
        self._queries, self._seed = queries, seed

    def check(self, window: Window) -> None:
        """Refuse queries outside of a text whose length is known.

        Raises:
            SelectionError: Naming the example.
        """
        start, stop = self._queries
        for example, length in enumerate(window.layout.lengths()):
            if start >= length or (stop is not None and stop > length):
                raise SelectionError(
                    "the queries to ablate lie outside the text", where=f"example {example}",
                    got=f"{start} to {stop}", expected=f"[start, stop) within 0 to {length}",
                )  # fmt: skip

    def replace(self, place: Place, output: torch.Tensor, window: Window) -> torch.Tensor | None:
        """Return an output [batch, query, head, size] with some heads' replaced."""
        heads = self._heads[place[1]]
        if max(heads) >= output.shape[2] or min(heads) < 0:
            raise SelectionError(
                "the model has no such head", where=f"layer {place[1]}",
                got=max(heads) if max(heads) >= output.shape[2] else min(heads),
                expected=f"0 to {output.shape[2] - 1}",
            )  # fmt: skip
        replaced = output.clone()
        for example in range(len(output)):
            rows = window.rows(self._queries, example)
            first = int(window.layout.first[example])
            at = torch.arange(rows.start, rows.stop) + window.offset - first
            new = self._values(place[1], example, at)
            if new.shape[-1] != output.shape[-1] and self._mode != "zero":
                raise SelectionError(
                    "the reference is of another model", where=f"layer {place[1]}",
                    got=f"outputs of size {new.shape[-1]}", expected=output.shape[-1],
                )  # fmt: skip
            replaced[example, rows, heads] = new.to(output.device, output.dtype)
        return replaced

    def _values(
        self, layer: int, example: int, positions: torch.Tensor
    ) -> Float[torch.Tensor, "query head size"]:
        """Return what takes the place of the heads' outputs at some positions."""
        heads = list(self._heads[layer])
        if self._reference is None or self._mode == "zero":
            return torch.zeros(1, len(heads), 1)
        if self._mode == "mean":
            return self._reference.mean[layer][heads][None]
        samples = self._reference.samples[layer]
        draws = np.random.default_rng([self._seed, layer, example]).random(_POSITIONS)
        index = (draws[positions.numpy() % _POSITIONS] * len(samples)).astype(np.int64)
        return samples[torch.from_numpy(index)][:, heads]


class _Collector(_Watching):
    """Collects outputs of heads."""

    def __init__(self, layers: frozenset[int] | None, n_samples: int, seed: int) -> None:
        self.layers = layers
        self.n_tokens = 0
        self._n_samples, self._rng = n_samples, np.random.default_rng(seed)
        self._sums: dict[int, torch.Tensor] = {}
        self._samples: dict[int, torch.Tensor] = {}
        self._slots: list[tuple[int, int]] = []

    def draw(self, n_tokens: int) -> None:
        """Decide which tokens of the next text to keep, and where: (token, slot)."""
        slots: dict[int, int] = {}
        for token in range(n_tokens):
            seen = self.n_tokens + token
            slot = seen if seen < self._n_samples else int(self._rng.integers(seen + 1))
            if slot < self._n_samples:
                slots[slot] = token
        self._slots = [(token, slot) for slot, token in slots.items()]
        self.n_tokens += n_tokens

    def replace(self, place: Place, output: torch.Tensor, window: Window) -> torch.Tensor | None:
        """Take an output [1, query, head, size]."""
        layer, given = place[1], output[0].detach().float().cpu()
        total = given.double().sum(0)
        self._sums[layer] = self._sums[layer] + total if layer in self._sums else total
        if layer not in self._samples:
            self._samples[layer] = given.new_zeros(self._n_samples, *given.shape[1:])
        for token, slot in self._slots:
            self._samples[layer][slot] = given[token]

    def result(self) -> HeadOutputs:
        """Return means and samples."""
        kept = min(self.n_tokens, self._n_samples)
        return HeadOutputs(
            {layer: (total / self.n_tokens).float() for layer, total in self._sums.items()},
            {layer: samples[:kept] for layer, samples in self._samples.items()},
            self.n_tokens,
        )
