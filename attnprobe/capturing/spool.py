"""Full attention of a long record, on its way to the sink through a file."""

import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from attnprobe.errors import CertificateError
from attnprobe.types import Rows


def n_pairs(queries: range) -> int:
    """Return how many (query, key) pairs causal rows have: each sees the keys up to itself."""
    return (queries.stop * (queries.stop + 1) - queries.start * (queries.start + 1)) // 2


class Spool:
    """Takes rows block by block, layer by layer, and gives them as one array that lies on disk.

    The file is a temporary one without a name; it goes with the array.
    """

    def __init__(
        self, layers: Sequence[int], heads: Sequence[int] | None, n_heads: int, queries: range
    ) -> None:
        self._places = {layer: place for place, layer in enumerate(layers)}
        self._heads = slice(None) if heads is None else list(heads)
        self._queries = queries
        shape = len(layers), n_heads, n_pairs(queries)
        with tempfile.TemporaryFile() as file:  # the mapping outlives the closed file
            self._weights = np.memmap(file, np.float32, "w+", shape=shape)

    def take(self, layer: int, first: int, block: Float[torch.Tensor, "head row key"]) -> None:
        """Take rows `first` and following of one layer.

        Raises:
            CertificateError: If a row reaches beyond its own position.
        """
        rows = self._queries.start + first + np.arange(block.shape[1])
        inside = np.arange(block.shape[2]) <= rows[:, None]
        weights = block[self._heads].cpu().numpy()
        if weights[:, ~inside].any():
            raise CertificateError(
                "a query sees keys after it, and the record is too long for memory",
                where=f"layer {layer}", fix="keep 'rows' or 'pooled' of such a model",
            )  # fmt: skip
        begin = self._queries.start
        stretch = slice(n_pairs(range(begin, rows[0])), n_pairs(range(begin, rows[-1] + 1)))
        self._weights[self._places[layer], :, stretch] = weights[:, inside]

    def rows(self) -> Rows:
        """Return the rows of every query, over the keys up to itself."""
        queries = np.asarray(self._queries, np.int32)
        return Rows(queries, np.zeros_like(queries), queries + 1, self._weights)
