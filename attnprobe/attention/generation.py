"""Following a generation: which beam came from which, and what was returned."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Int

from attnprobe.errors import CertificateError


class History:
    """The token ids of each pass, and how the cache was reordered after it."""

    def __init__(self) -> None:
        self._ids: list[torch.Tensor] = []
        self._orders: dict[int, torch.Tensor] = {}
        self._cache: Any = None
        self._is_repeated = False

    def add(self, ids: torch.Tensor, cache: Any) -> None:
        """Take the ids of a pass [batch, token], and watch its cache."""
        self._ids.append(ids)
        if cache is not None and cache is not self._cache:
            self.release()
            self._watch(cache)

    def is_repeated(self, ids: torch.Tensor) -> bool:
        """Whether a pass reads again what the one before it read, and goes on from there.

        Its examples may have changed places, as beams do.
        """
        before = self._ids[-1] if len(self._ids) == 1 else None
        if before is None or ids.dim() != 2 or before.dim() != 2:
            return False
        n_read = before.shape[1]
        if ids.shape[1] <= n_read or len(ids) % len(before):
            return False
        return all(bool((before == row).all(1).any()) for row in ids[:, :n_read])

    def clear(self) -> None:
        """Forget the passes so far, which the next one repeats."""
        self._ids.clear()
        self._is_repeated = True

    def _watch(self, cache: Any) -> None:
        original: Callable[[torch.Tensor], None] | None = getattr(cache, "reorder_cache", None)
        if original is None:
            return

        def reorder_cache(beam_idx: torch.Tensor) -> None:
            self._orders[len(self._ids) - 1] = beam_idx.detach().clone()
            original(beam_idx)

        cache.reorder_cache = reorder_cache
        self._cache = cache

    def release(self) -> None:
        """Leave the cache as it came."""
        if self._cache is not None:
            del self._cache.reorder_cache
            self._cache = None

    def lineage(
        self, sequences: Int[torch.Tensor, "sequence token"] | None
    ) -> list[Int[torch.Tensor, " sequence"]] | None:
        """Find, for each returned sequence, the row of every pass that it came through.

        Args:
            sequences: What `generate` returned; it holds every token that was read, and the last.

        Returns:
            Rows per pass; None if no beams were reordered, so that every row kept its place.

        Raises:
            CertificateError: If a sequence did not come out of the recorded passes.
        """
        if sequences is None or not (self._orders or self._is_repeated):
            return None
        texts = [self._ids[0]]
        for number, ids in enumerate(self._ids[1:]):
            order = self._orders.get(number, torch.arange(len(ids), device=ids.device))
            texts.append(torch.cat([texts[-1][order.to(ids.device)], ids], dim=1))
        rows = torch.stack([self._find(sequence, texts[-1]) for sequence in sequences])
        found = [rows]
        for number in range(len(self._ids) - 2, -1, -1):
            if (order := self._orders.get(number)) is not None:
                rows = order.to(rows.device)[rows]
            found.append(rows)
        return found[::-1]

    def _find(
        self, sequence: Int[torch.Tensor, " token"], texts: Int[torch.Tensor, "beam read"]
    ) -> torch.Tensor:
        """Find the beam whose text is the sequence without its last token.

        A sequence that ended early is found by as much of it as was read.
        """
        n_read = min(texts.shape[1], len(sequence) - 1)
        same = (texts[:, :n_read] == sequence[:n_read]).all(1)
        if not bool(same.any()):
            raise CertificateError(
                "a returned sequence did not come out of the recorded passes",
                fix="record with greedy decoding or sampling, or one pass over the finished text",
            )
        return same.int().argmax()


@contextmanager
def watched(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collect the sequences that `model.generate` returns inside the block.

    Yields:
        A list that fills with [sequence, token] tensors.
    """
    returned: list[torch.Tensor] = []
    original = getattr(model, "generate", None)
    if original is None:
        yield returned
        return

    def generate(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        returned.append(getattr(result, "sequences", result))
        return result

    own = "generate" in vars(model)
    before = vars(model).get("generate")
    model.generate = generate
    try:
        yield returned
    finally:
        del model.generate
        if own:
            model.generate = before


def pick_rows(
    tensor: torch.Tensor,
    columns: Int[torch.Tensor, "batch row"],
    real: Bool[torch.Tensor, "batch row"],
) -> torch.Tensor:
    """Pick rows of the second-last dim per example; those that are not real become NaN."""
    columns, real = columns.to(tensor.device), real.to(tensor.device)
    examples = torch.arange(len(tensor), device=tensor.device)[:, None]
    picked = tensor.movedim(-2, 1)[examples, columns]
    if picked.is_floating_point():
        picked[~real] = torch.nan
    return picked.movedim(1, -2)
