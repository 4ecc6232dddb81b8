"""Demonstrations for a dataset: chosen by their questions, with rationales given or written."""

from collections.abc import Callable, Iterable, Iterator

import torch

from attnprobe.models import LoadedModel, load_model
from attnprobe.tasks.demonstrations import DemonstrationSettings, with_demonstrations
from attnprobe.types import Record

RATIONALE_TOKENS = 200
"""Most tokens of a rationale that a model writes."""


def demonstrated(
    records: Iterable[Record],
    pool: Iterable[Record],
    settings: DemonstrationSettings,
    rationale: str = "gold",
) -> Iterator[Record]:
    """Put demonstrations before the question of every record.

    Args:
        records: What is asked.
        pool: Solved records to choose from, such as the split `train`.
        settings: Which and how many.
        rationale: `gold`, or the name of a model that thinks step by step (zero-shot).

    Yields:
        The records with segments `demo_1.question`, `demo_1.rationale`, `demo_1.answer` …

    Raises:
        DatasetError: If the pool is too small, has no answers, or lacks a style.
        ModelError: If the model cannot be loaded.
    """
    if rationale == "gold":
        return with_demonstrations(records, pool, settings)
    return with_demonstrations(records, pool, settings, rationale=writer(load_model(rationale)))


def writer(loaded: LoadedModel) -> Callable[[str], str]:
    """Return a function from a prompt to what the model writes after it, greedily."""

    @torch.inference_mode()
    def write(prompt: str) -> str:
        inputs = loaded.tokenizer(prompt, return_tensors="pt").to(loaded.device)
        written = loaded.model.generate(
            **inputs, max_new_tokens=RATIONALE_TOKENS, do_sample=False, temperature=None,
            top_p=None, top_k=None, pad_token_id=loaded.pad_id,
        )  # fmt: skip
        return loaded.tokenizer.decode(
            written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )

    return write
