"""Records in batches: which share one, and how they are laid out in it."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from attnprobe.models import LoadedModel
from attnprobe.types import Encoding


def batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Group records of similar length.

    Args:
        lengths: Tokens per record.
        batch_size: Most records in a batch.

    Yields:
        Indices into `lengths`; each once.
    """
    if batch_size == 1:
        yield from ([index] for index in range(len(lengths)))
        return
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def padded(loaded: LoadedModel, encodings: Sequence[Encoding]) -> dict[str, torch.Tensor]:
    """Pad on the left; a single record needs neither mask nor positions.

    Returns:
        Inputs of the model, on its device.
    """
    width = max(encoding.n_tokens for encoding in encodings)
    ids = np.full((len(encodings), width), loaded.pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, encoding in enumerate(encodings):
        ids[row, width - encoding.n_tokens :] = encoding.ids
        mask[row, width - encoding.n_tokens :] = 1
    tensors = {"input_ids": torch.from_numpy(ids)}
    if not mask.all():
        tensors["attention_mask"] = torch.from_numpy(mask)
        if loaded.accepts("position_ids"):
            tensors["position_ids"] = torch.from_numpy((mask.cumsum(1) - 1).clip(0))
    return {name: tensor.to(loaded.device) for name, tensor in tensors.items()}
