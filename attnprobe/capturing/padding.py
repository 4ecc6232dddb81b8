"""Records in batches: which share one, and how they are laid out in it."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from attnprobe.errors import ModelError
from attnprobe.models import LoadedModel, pads_by_itself
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

    Raises:
        ModelError: If the model's own tokenizer should pad and cannot.
    """
    return padded_ids(loaded, [encoding.given.tolist() for encoding in encodings])


def padded_ids(loaded: LoadedModel, texts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Pad token ids likewise.

    A tokenizer that came with a checkpoint may pad in a way of its own: ChatGLM-6B's makes the
    mask and the two rows of positions that its model expects.
    """
    width = max(map(len, texts))
    ids = np.full((len(texts), width), loaded.pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, width - len(text) :] = text
        mask[row, width - len(text) :] = 1
    tensors = {"input_ids": torch.from_numpy(ids)}
    if not mask.all():
        if pads_by_itself(loaded.tokenizer):
            tensors = _padded_by_tokenizer(loaded, texts)
        else:
            tensors["attention_mask"] = torch.from_numpy(mask)
            if loaded.accepts("position_ids"):
                tensors["position_ids"] = torch.from_numpy((mask.cumsum(1) - 1).clip(0))
    return {name: tensor.to(loaded.device) for name, tensor in tensors.items()}


def can_pad(loaded: LoadedModel) -> bool:
    """Whether texts of different length can share a forward pass."""
    try:
        padded_ids(loaded, [[loaded.pad_id] * length for length in (1, 2)])
    except ModelError:
        return False
    return True


def _padded_by_tokenizer(
    loaded: LoadedModel, texts: Sequence[Sequence[int]]
) -> dict[str, torch.Tensor]:
    where, fix = type(loaded.tokenizer).__name__, "run one record at a time: --batch-size 1"
    try:
        made = loaded.tokenizer.pad(
            {"input_ids": [list(text) for text in texts]}, padding=True, return_tensors="pt"
        )
    except Exception as error:  # code that came with a checkpoint may raise anything
        raise ModelError(
            "the tokenizer that came with this model cannot pad", where=where,
            got=" ".join(str(error).split())[:200], fix=fix,
        ) from error  # fmt: skip
    for row, text in zip(made["input_ids"].tolist(), texts, strict=True):
        if row[len(row) - len(text) :] != list(text):
            raise ModelError(
                "the tokenizer that came with this model changes texts when it pads them",
                where=where, expected="pads on the left of the same tokens", fix=fix,
            )  # fmt: skip
    return {name: tensor for name, tensor in made.items() if loaded.accepts(name)}
