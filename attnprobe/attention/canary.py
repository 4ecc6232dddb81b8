"""The canary: a model under capture must answer as the untouched model does."""

from collections.abc import Callable, Sequence

import torch

from attnprobe.attention.recorder import record
from attnprobe.attention.survey import Survey
from attnprobe.errors import CertificateError
from attnprobe.models import forward_arguments, runs_remote_code, transformers_model

LENGTHS = (8, 6, 5)
_PROMPT = 3
_LOGIT_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_LOW_PRECISION = 5e-2


Texts = list[list[int]]


@torch.no_grad()
def check_canary(
    model: torch.nn.Module,
    keep: Sequence[str],
    survey: Survey | None = None,
    pad: Callable[[Texts], dict[str, torch.Tensor]] | None = None,
    frame: Callable[[list[int]], list[int]] = lambda ids: ids,
    lengths: Sequence[int] = LENGTHS,
) -> float:
    """Run a canary batch with and without capture and compare the logits.

    This is the one check that sees a missing or foreign mask function: with it, padding and the
    future leak into the model's own output, and rows·V still matches. Compared are a left-padded
    batch, a single example, and a token that is decoded from a cache (not with code that came with
    the checkpoint, whose caches are its own, and which is never captured while it decodes).

    Args:
        model: A causal LM in eval mode.
        keep: What the capture will keep.
        survey: Of the model, if it was made already.
        pad: Makes the model's inputs of texts of different length; None for the usual mask.
        frame: Puts the special tokens around a text without which the model does not run.
        lengths: Of the texts, the longest first.

    Returns:
        The worst difference of logits, relative to their spread.

    Raises:
        CertificateError: If a difference is larger than rounding explains.
    """
    inner = transformers_model(model)
    survey = survey or Survey(model)
    takes = forward_arguments(inner)
    device = next(model.parameters()).device
    vocabulary = inner.get_input_embeddings().weight.shape[0]  # pyright: ignore
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, int(vocabulary), (len(lengths), lengths[0]), generator=generator)
    # where special tokens end a prompt, as ChatGLM-6B's do, there is an answer behind them
    texts = [
        frame(row[:_PROMPT].tolist()) + row[_PROMPT:length].tolist()
        for row, length in zip(ids, lengths, strict=True)
    ]
    lengths = list(map(len, texts))
    width = max(lengths)
    mask = torch.arange(width) >= width - torch.tensor(lengths)[:, None]
    padded = (pad or _padded)(texts)
    padded = {name: tensor.to(device) for name, tensor in padded.items() if name in takes}
    real, single = mask.to(device), torch.tensor(texts[:1], device=device)
    runs: dict[str, tuple[Sequence[int], Callable[[], torch.Tensor]]] = {
        "left-padded batch": (lengths, lambda: model(**padded).logits[real]),
        "single example": (lengths[:1], lambda: model(input_ids=single).logits),
    }
    if "past_key_values" in takes and not runs_remote_code(inner):
        runs["cached decoding"] = (lengths[:1], lambda: _decode(model, single))
    worst = 0.0
    for name, (long, run) in runs.items():
        queries = [range(length) for length in long]
        spans = [[(0, 1), (1, length)] for length in long]
        with record(model, keep, queries=queries, spans=spans, survey=survey):
            under = run()
        worst = max(worst, _compare(name, under, run(), inner))
    return worst


def _padded(texts: Texts) -> dict[str, torch.Tensor]:
    width = max(map(len, texts))
    mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts])
    return {
        "input_ids": torch.tensor([[0] * (width - len(text)) + text for text in texts]),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp_min(0),
    }


def _decode(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Run a prompt, then one more token from its cache.

    The cache is the transformers model's: PEFT would put a prefix in its place.
    """
    first = model(input_ids=ids[:, :-1], use_cache=True)
    following = transformers_model(model)
    return following(input_ids=ids[:, -1:], past_key_values=first.past_key_values).logits


def _compare(name: str, under: torch.Tensor, plain: torch.Tensor, model: torch.nn.Module) -> float:
    limit = _LOGIT_TOLERANCE.get(plain.dtype, _LOW_PRECISION)
    error = float((under - plain).abs().max() / plain.float().std().clamp_min(1e-6))
    if not error <= limit:
        raise CertificateError(
            "under capture the model answers differently from the untouched model",
            where=f"{type(model).__name__}, canary: {name}",
            got=f"logits {error:.2g} standard deviations apart", expected=f"at most {limit:.0e}",
            fix="nothing was stored; please report model and library versions",
        )  # fmt: skip
    return error
