"""Proving which example and head an axis is that holds both."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from attnprobe.attention.calls import Place
from attnprobe.attention.carriers import Carriers

_COMPARED = 4
"""Queries that are compared."""


class HeadOrder:
    """Follows an output [examples and heads, query, size] until the model merges its heads.

    Weights, values and output of such an attention fit together in any order of the shared axis.
    Where the model goes on with [batch, query, heads · size], that order shows.
    """

    doubt = (
        "examples and heads share an axis, and the model does not show in which order; "
        "run one record at a time: --batch-size 1"
    )

    def __init__(self, place: Place, arranged: torch.Tensor, output: torch.Tensor) -> None:
        self.place = place
        self.is_proven = False
        self._carriers = Carriers(output)
        batch, heads, queries, size = arranged.shape
        self._shapes = (batch, queries, heads * size), (queries, batch, heads * size)
        self._at = torch.linspace(0, queries - 1, min(_COMPARED, queries)).round().long()
        picked = arranged.detach()[:, :, self._at.to(arranged.device)]
        self._merged = picked.transpose(1, 2).flatten(2)

    def follow(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Follow a function call, and look whether it shows the merged heads."""
        if self.is_proven:
            return
        for tensor in self._carriers.follow(name, args, kwargs, result):
            self.is_proven |= self._shows(tensor)

    def _shows(self, tensor: torch.Tensor) -> bool:
        batch_first, query_first = self._shapes
        shapes = [tensor]
        if tensor.dim() == 2 and tensor.shape[0] == batch_first[0] * batch_first[1]:
            shapes = [tensor.unflatten(0, shape[:2]) for shape in self._shapes]
        at = self._at.to(tensor.device)
        merged = [one[:, at] for one in shapes if one.shape == batch_first]
        merged += [one[at].transpose(0, 1) for one in shapes if one.shape == query_first]
        return any(torch.equal(one, self._merged) for one in merged)
