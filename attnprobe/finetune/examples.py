"""Encodings as a trainer takes them: token ids, labels on the target only, batches by length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.utils.data import Dataset

from attnprobe.capturing.padding import padded_ids
from attnprobe.errors import EncodeError
from attnprobe.finetune.settings import FinetuneSettings
from attnprobe.models import LoadedModel, pads_by_itself
from attnprobe.types import Encoding

IGNORED = -100
"""Label of tokens that are not learned (PyTorch's own)."""
SORTED_BATCHES = 50
"""Batches whose records are sorted by length together."""


@dataclass(frozen=True, slots=True)
class Example:
    """One record in tokens, with EOS after the target where the tokenizer has one."""

    ids: tuple[int, ...]
    n_prompt: int

    @property
    def labels(self) -> list[int]:
        """The ids, those of the prompt left out."""
        return [IGNORED] * self.n_prompt + list(self.ids[self.n_prompt :])


def example_of(encoding: Encoding, loaded: LoadedModel) -> Example:
    """Take a record as it was encoded, and add the token that ends the text.

    Raises:
        EncodeError: If it leaves no room for that token.
    """
    ids, end = encoding.ids.tolist(), loaded.tokenizer.eos_token_id
    if end is not None and ids[-1] != end:
        ids.append(end)
    if loaded.max_tokens is not None and len(ids) > loaded.max_tokens:
        record = encoding.record
        raise EncodeError(
            "prompt, target and the end-of-text token are longer than the model's context",
            where=f"{record.where or 'record'} (id '{record.id}')", got=f"{len(ids)} tokens",
            expected=f"at most {loaded.max_tokens}", fix="shorten the record",
        )  # fmt: skip
    return Example(tuple(ids), encoding.n_prompt)


class Examples(Dataset[Example]):
    """Examples by index."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


@dataclass(frozen=True, slots=True)
class Collator:
    """Pads on the right, and masks what it padded; a tokenizer that pads by itself does instead."""

    loaded: LoadedModel

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Lay out examples as a batch: `input_ids` and `labels`, and what padding needs."""
        width = max(len(example.ids) for example in examples)
        is_padded = any(len(example.ids) < width for example in examples)
        if is_padded and pads_by_itself(self.loaded.tokenizer):
            given = padded_ids(self.loaded, [example.ids for example in examples])
            labels = [[IGNORED] * (width - len(e.ids)) + e.labels for e in examples]
            return {**given, "labels": torch.tensor(labels, device=self.loaded.device)}
        ids = np.full((len(examples), width), self.loaded.pad_id, np.int64)
        mask, labels = np.zeros_like(ids), np.full_like(ids, IGNORED)
        for row, example in enumerate(examples):
            n_tokens = len(example.ids)
            ids[row, :n_tokens], mask[row, :n_tokens] = example.ids, 1
            labels[row, :n_tokens] = example.labels
        arrays: dict[str, Any] = {"input_ids": ids, "labels": labels}
        if is_padded:
            arrays["attention_mask"] = mask
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def target_loss(
    logits: Float[torch.Tensor, "batch token word"], labels: Int[torch.Tensor, "batch token"]
) -> tuple[Float[torch.Tensor, ""], int]:
    """Sum the cross-entropy of the labelled tokens, each predicted one row before it.

    Returns:
        Nats in all, and how many tokens they are of.
    """
    asked = labels[:, 1:].to(logits.device)
    total = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), asked.flatten(), ignore_index=IGNORED,
        reduction="sum",
    )  # fmt: skip
    return total, int((asked != IGNORED).sum())


def plan_batches(lengths: Sequence[int], settings: FinetuneSettings) -> list[list[int]]:
    """Say which records each step computes, for the whole training.

    Every pass has an order of its own. Within a stretch of it, records of similar length share a
    step, so that little is padded; then the steps are mixed.

    Args:
        lengths: Tokens of each record.
        settings: Sizes, limits and the seed; a limit in tokens is kept by the steps that fit.

    Returns:
        Indices into `lengths`, step by step: at least one step.
    """
    size = settings.batch_size
    n_steps = settings.max_steps or round(settings.epochs * -(-len(lengths) // size)) or 1
    steps: list[list[int]] = []
    tokens, epoch = 0, 0
    while True:
        for step in _epoch(lengths, size, settings.seed, epoch):
            tokens += sum(lengths[index] for index in step)
            full = len(steps) == n_steps if settings.max_tokens is None else (
                tokens > settings.max_tokens
            )  # fmt: skip
            if steps and full:
                return steps
            steps.append(step)
        epoch += 1


def _epoch(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths)).tolist()
    steps: list[list[int]] = []
    for start in range(0, len(order), size * SORTED_BATCHES):
        stretch = sorted(order[start : start + size * SORTED_BATCHES], key=lengths.__getitem__)
        steps += [stretch[k : k + size] for k in range(0, len(stretch), size)]
    return [steps[k] for k in rng.permutation(len(steps))]
