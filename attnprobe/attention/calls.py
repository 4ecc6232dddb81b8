"""What a recording sees: a call of a fused function, or a softmax with the product after it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

SELF, ENCODER, CROSS = "self", "encoder", "cross"
"""Kinds of attention. In a model with one stack, all attention is `self`."""

Place = tuple[str, int]
"""Kind and layer index."""


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One call of an attention function, as the model made it."""

    kind: str
    """`self`, `encoder` or `cross`."""
    layer: int
    """Index of the layer in its stack."""
    query: torch.Tensor
    """[batch, head, query, head size]"""
    key: torch.Tensor
    """[batch, KV head, key, head size]"""
    value: torch.Tensor
    """[batch, KV head, key, value size]"""
    mask: torch.Tensor | None
    """Boolean (True = visible) or additive, [batch or 1, head or 1, query, key]; None: `causal`."""
    scaling: float
    causal: bool
    """Whether, without a mask, a query sees only the keys up to itself."""
    run: Callable[[torch.Tensor], torch.Tensor]
    """The model's own kernel on other values [batch, KV head, key, value size]
    → [batch, query, head, value size], without dropout."""
    softcap: float | None = None
    """Scores are bent to `softcap · tanh(score / softcap)` before the mask (Gemma 2)."""
    sinks: torch.Tensor | None = None
    """[head]: logit of one more column in the softmax, which is dropped after it (gpt-oss)."""
    bias: torch.Tensor | None = None
    """[batch or 1, head, query, key] added to the scores (T5)."""
    fused: bool = True
    """Whether `run` never holds the weights as a whole."""

    @property
    def n_heads(self) -> int:
        """Query heads."""
        return self.query.shape[1]

    @property
    def n_queries(self) -> int:
        """Queries of the pass."""
        return self.query.shape[2]

    @property
    def n_keys(self) -> int:
        """Keys, as many as the cache returned."""
        return self.key.shape[2]


@dataclass(frozen=True, slots=True)
class WeighedCall:
    """Attention that a model's own code computed: its softmax, and the values it was multiplied by.

    The model's tensors are held no longer than the model needs them; where a few rows are enough,
    it is those rows.
    """

    kind: str
    layer: int
    n_queries: int
    """Queries of the pass."""
    weights: torch.Tensor
    """[batch, head, row, key]: what the softmax gave."""
    scores: torch.Tensor | None
    """[batch, head, query, key]: what it was given; None where the rows are `columns` only."""
    columns: torch.Tensor | None = None
    """[batch, row]: which queries the rows are; None for all of them."""
    seen: torch.Tensor | None = None
    """[batch, row, key]: with `columns`, which keys those rows see."""
    value: torch.Tensor | None = None
    """[batch, head or 1, key, value size]; None where it was not seen."""
    keys: slice = field(default_factory=lambda: slice(None))
    """Which columns went into the product: a sink column does not."""
    mask: None = None
    causal: bool = False

    @property
    def n_heads(self) -> int:
        """Query heads."""
        return self.weights.shape[1]

    @property
    def n_keys(self) -> int:
        """Keys, as many as the cache returned."""
        return len(range(*self.keys.indices(self.weights.shape[3])))


Call = AttentionCall | WeighedCall
