"""What a model makes of token ids that are known to the end."""

import inspect
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32

from attnprobe.errors import ModelError
from attnprobe.models import LoadedModel, transformers_model
from attnprobe.types import Encoding, Span


@torch.inference_mode()
def log_probs(
    loaded: LoadedModel,
    texts: Sequence[Sequence[int]],
    embeddings: torch.Tensor | None = None,
    first: int = 1,
) -> Float32[np.ndarray, "text step"]:
    """Return the log-probability (nats) of every token but the first of equally long texts.

    Args:
        loaded: The model.
        texts: Token ids.
        embeddings: What the model is given instead, [text, token, size].
        first: Position of the first token that is asked for; logits over a whole vocabulary are
            worked out from there on only.

    Returns:
        One row per text; NaN before the tokens that are asked for.
    """
    ids = torch.tensor([list(text) for text in texts], device=loaded.device)
    inputs = {"input_ids": ids} if embeddings is None else {"inputs_embeds": embeddings}
    accepted = inspect.signature(transformers_model(loaded.model).forward).parameters
    if "use_cache" in accepted:
        inputs |= {"use_cache": False}
    n_asked = ids.shape[1] - first
    if "logits_to_keep" in accepted:
        inputs |= {"logits_to_keep": n_asked + 1}
    logits = loaded.model(**inputs).logits[:, -n_asked - 1 : -1].float()
    chosen = logits.log_softmax(-1).gather(-1, ids[:, first:, None].to(logits.device))
    found = np.full((len(texts), ids.shape[1] - 1), np.nan, np.float32)
    found[:, first - 1 :] = chosen[..., 0].cpu().numpy()
    return found


def refuse_virtual(encoding: Encoding) -> None:
    """Refuse a record before which a learned prefix stands, which cannot be changed yet.

    Raises:
        ModelError: If there is one.
    """
    if encoding.n_virtual:
        raise ModelError(
            "a learned prefix stands before the text, and interventions on such models are not "
            "supported", got=f"{encoding.n_virtual} virtual tokens",
            fix="use a model without prefix tuning, such as one with a LoRA adapter",
        )  # fmt: skip


def prefix(encoding: Encoding, n_tokens: int) -> Encoding:
    """Return the first tokens of a record as a prompt to go on from."""
    spans = tuple(
        Span(span.start, min(span.stop, n_tokens), span.role)
        for span in encoding.spans
        if span.start < n_tokens
    )
    return replace(
        encoding, ids=encoding.ids[:n_tokens], texts=encoding.texts[:n_tokens], spans=spans,
        n_prompt=n_tokens, sinks=tuple(sink for sink in encoding.sinks if sink < n_tokens),
        generated=None,
    )  # fmt: skip
