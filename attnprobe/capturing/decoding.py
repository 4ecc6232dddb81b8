"""Let a model write after prompts, with its own attention and a KV cache."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from attnprobe.attention.compat import transformers_model
from attnprobe.capturing.padding import batches, padded, padded_ids
from attnprobe.capturing.virtual import write_after_prefix
from attnprobe.encode import encode_generated, turn_ends
from attnprobe.errors import EncodeError
from attnprobe.models import LoadedModel, runs_remote_code
from attnprobe.models.virtual import stated_virtual
from attnprobe.types import Encoding

TOKENS_WITHOUT_TARGET = 256
"""Most tokens of a text for which no target says how long it should be."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a model writes."""

    how: str = "greedy"
    """`greedy`: always the most probable token. `sample`: drawn by their probabilities."""
    max_new_tokens: int | None = None
    """Most tokens of a text; None for twice the record's own target and 16 more, or 256 without
    a target. The model's context is a limit as well."""
    temperature: float = 1.0
    """Of `sample`: logits are divided by it."""
    top_p: float = 1.0
    """Of `sample`: only the fewest tokens that have this probability together are drawn."""
    seed: int = 0
    """Of `sample`: with the record's id, the seed of its text."""
    batch_size: int = 8
    """Of `greedy`: most records at a time. Sampled texts are written one by one, so that none
    depends on its neighbours by as much as rounding."""


def token_limit(loaded: LoadedModel, prompt: Encoding, decoding: Decoding) -> int:
    """Return the most tokens that the model may write after a prompt.

    Raises:
        EncodeError: If the prompt fills the model's context.
    """
    limit = decoding.max_new_tokens
    if limit is None:
        target = prompt.record.target_text
        ids = loaded.tokenizer(target, add_special_tokens=False)["input_ids"] if target else ()
        limit = 2 * len(ids) + 16 if target else TOKENS_WITHOUT_TARGET
    if loaded.max_tokens is None:
        return limit
    room = loaded.max_tokens - len(prompt.given)
    if room < 1:
        raise EncodeError(
            "the prompt fills the model's context, so that nothing can be generated",
            where=f"record '{prompt.record.id}'", got=f"{len(prompt.given)} tokens",
            expected=f"at most {loaded.max_tokens - 1}", fix="shorten the prompt",
        )  # fmt: skip
    return min(limit, room)


def generate(
    loaded: LoadedModel, prompts: Sequence[Encoding], decoding: Decoding
) -> Iterator[tuple[list[int], list[Encoding]]]:
    """Let a model write after each prompt, until EOS or the limit.

    Whatever the checkpoint recommends for generation (penalties, temperatures, forced tokens) is
    set aside; only `decoding` counts, and where the checkpoint says that a text ends.

    Args:
        loaded: The model.
        prompts: From `encode_prompt`.
        decoding: How to write.

    Yields:
        Batch by batch, indices into `prompts` and the encodings of prompt and text. Each text has
        one token or more; EOS stays as its last.
    """
    limits = [token_limit(loaded, prompt, decoding) for prompt in prompts]
    stops = _stops(loaded)
    for batch in _batches(loaded, prompts, limits, decoding):
        chosen = [prompts[index] for index in batch]
        texts = _write(loaded, chosen, max(limits[index] for index in batch), stops, decoding)
        yield (
            batch,
            [
                encode_generated(prompt, _cut(text, limits[index], stops), loaded.tokenizer, stops)
                for index, prompt, text in zip(batch, chosen, texts, strict=True)
            ],
        )


def _batches(
    loaded: LoadedModel, prompts: Sequence[Encoding], limits: Sequence[int], decoding: Decoding
) -> Iterator[list[int]]:
    """Group texts that may become equally long; all must stay within the model's context."""
    for batch in batches(limits, decoding.batch_size if decoding.how == "greedy" else 1):
        longest = max(len(prompts[i].given) for i in batch) + max(limits[i] for i in batch)
        if loaded.max_tokens is None or longest <= loaded.max_tokens:
            yield batch
        else:
            yield from ([index] for index in batch)


@torch.inference_mode()
def _write(
    loaded: LoadedModel,
    prompts: Sequence[Encoding],
    limit: int,
    stops: Sequence[int],
    decoding: Decoding,
) -> list[list[int]]:
    """Generate one batch; return the new tokens of each row, padding and all."""
    processors = LogitsProcessorList()
    if decoding.how == "sample":
        processors.append(_Draw(decoding, prompts[0].record.id))
    if runs_remote_code(transformers_model(loaded.model)):
        return _write_by_passes(loaded, prompts, limit, stops, processors)
    if stated_virtual(loaded.model):
        return write_after_prefix(loaded, padded(loaded, prompts), limit, stops, processors)
    inputs = padded(loaded, prompts)
    width = inputs["input_ids"].shape[1]
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
    config = GenerationConfig(
        do_sample=False, num_beams=1, use_cache=True, max_new_tokens=limit,
        eos_token_id=list(stops) or None, pad_token_id=loaded.pad_id,
    )  # fmt: skip
    model: Any = transformers_model(loaded.model)
    with _configured(model, config):
        out = model.generate(
            inputs=inputs["input_ids"], attention_mask=mask, generation_config=config,
            logits_processor=processors,
        )  # fmt: skip
    return out[:, width:].tolist()


def _write_by_passes(
    loaded: LoadedModel,
    prompts: Sequence[Encoding],
    limit: int,
    stops: Sequence[int],
    processors: LogitsProcessorList,
) -> list[list[int]]:
    """Write one token after the other by passes over the whole texts, without a cache.

    Code that came with a checkpoint knows the caches of the transformers it was written for, and
    may take today's for one and go wrong without a word. A pass over the text is what is captured.
    """
    texts = [prompt.given.tolist() for prompt in prompts]
    options = {"use_cache": False} if loaded.accepts("use_cache") else {}
    going = list(range(len(texts)))
    for _ in range(limit):
        inputs = padded_ids(loaded, [texts[place] for place in going])
        scores = loaded.model(**inputs, **options).logits[:, -1].float()
        chosen = processors(inputs["input_ids"], scores).argmax(-1)  # pyright: ignore
        for place, token in zip(going, chosen.tolist(), strict=True):
            texts[place].append(token)
        going = [place for place in going if texts[place][-1] not in stops]
        if not going:
            break
    return [text[len(prompt.given) :] for text, prompt in zip(texts, prompts, strict=True)]


@contextmanager
def _configured(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Take the checkpoint's own generation settings away for a while: transformers merges them."""
    before = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = before


class _Draw(LogitsProcessor):
    """Turns greedy decoding of one record into sampling, by noise from the record's own seed.

    The most probable token after Gumbel noise is a draw from the softmax (Gumbel 1954). The noise
    comes from a generator of its own on the CPU, so a text is the same on every device, up to
    rounding, and the random numbers of others are left alone.
    """

    def __init__(self, decoding: Decoding, record_id: str) -> None:
        digest = hashlib.sha256(f"{decoding.seed}/{record_id}".encode()).digest()
        self.noise = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
        self.warpers = LogitsProcessorList()
        if decoding.temperature != 1:
            self.warpers.append(TemperatureLogitsWarper(decoding.temperature))
        if decoding.top_p < 1:
            self.warpers.append(TopPLogitsWarper(decoding.top_p))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return logits whose largest one is the draw."""
        warped = self.warpers(input_ids, scores.float())  # pyright: ignore
        waits = torch.empty(warped.shape).exponential_(generator=self.noise)
        return warped - waits.log().to(warped.device)


def _stops(loaded: LoadedModel) -> tuple[int, ...]:
    """Collect every token that ends a text: the tokenizer's EOS, those of the checkpoint, and the
    marks of somebody else's turn."""
    inner = transformers_model(loaded.model)
    configs = (getattr(inner, "generation_config", None), loaded.config)
    named = [getattr(config, "eos_token_id", None) for config in configs]
    stops: set[int] = set()
    for entry in (*named, loaded.tokenizer.eos_token_id):
        stops |= set() if entry is None else {entry} if isinstance(entry, int) else set(entry)
    return tuple(sorted(stops | turn_ends(loaded.tokenizer)))


def _cut(ids: Sequence[int], limit: int, stops: Sequence[int]) -> list[int]:
    """End a text at its first EOS or its limit, where its batch went on."""
    ends = [position for position, token in enumerate(ids[:limit]) if token in stops]
    return list(ids[: ends[0] + 1 if ends else limit])
