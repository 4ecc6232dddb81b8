"""What a recording holds of one kind of attention."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from attnprobe.attention.certificate import Certificate
from attnprobe.attention.passes import Layout

KEEPS = ("rows", "steps", "pooled", "full")
"""What a recording can hold; see `record`."""

Tensors = dict[int, torch.Tensor]
"""By layer index."""

TakeRows = Callable[[int, int, torch.Tensor], None]
"""Takes a layer, the first row, and a block of rows [head, row, key]."""


@dataclass(slots=True)
class KindRecording:
    """What was recorded of one kind of attention, by layer index.

    Tensors are float32, detached, on the device of their layer. Columns are those of the input
    ids, keys after `Recording.n_virtual` that are no tokens; chosen queries and spans beyond an
    example's own are NaN.
    """

    certificate: Certificate
    """The proof, for this kind."""
    full: Tensors = field(default_factory=dict)
    """{layer: [batch, head, query, key]}; rows of pads are NaN."""
    rows: Tensors = field(default_factory=dict)
    """{layer: [batch, head, chosen query, key]}."""
    steps: Tensors = field(default_factory=dict)
    """{layer: [batch, head, chosen query, span]}, the same rows summed over spans."""
    pooled: Tensors = field(default_factory=dict)
    """{layer: [batch, head, query, span]}; rows of pads are NaN."""
    visible: Tensors = field(default_factory=dict)
    """{layer: [batch, chosen query, key]} boolean: what the real mask let each row see."""
    visible_counts: Tensors = field(default_factory=dict)
    """{layer: [batch, query, span]}: with `pooled`, how many keys the mask left visible."""
    layout: Layout | None = None
    """Where the query tokens of each example lie."""
