"""The canary: a model under capture must answer as the untouched model does."""

from collections.abc import Callable, Sequence

import torch

from attnprobe.attention.recorder import record
from attnprobe.attention.survey import Survey
from attnprobe.errors import CertificateError
from attnprobe.models import forward_arguments, transformers_model

_LENGTHS = (8, 6, 5)
_LOGIT_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_LOW_PRECISION = 5e-2


@torch.no_grad()
def check_canary(
    model: torch.nn.Module, keep: Sequence[str], survey: Survey | None = None
) -> float:
    """Run a canary batch with and without capture and compare the logits.

    This is the one check that sees a missing or foreign mask function: with it, padding and the
    future leak into the model's own output, and rows·V still matches. Compared are a left-padded
    batch, a single example, and a token that is decoded from a cache.

    Args:
        model: A causal LM in eval mode.
        keep: What the capture will keep.
        survey: Of the model, if it was made already.

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
    ids = torch.randint(0, int(vocabulary), (len(_LENGTHS), _LENGTHS[0]), generator=generator)
    ids = ids.to(device)
    mask = torch.arange(_LENGTHS[0]) >= _LENGTHS[0] - torch.tensor(_LENGTHS)[:, None]
    mask = mask.long().to(device)
    padded = {name: tensor for name, tensor in _padded(ids, mask).items() if name in takes}
    runs: dict[str, tuple[Sequence[int], Callable[[], torch.Tensor]]] = {
        "left-padded batch": (_LENGTHS, lambda: model(**padded).logits[mask.bool()]),
        "single example": (_LENGTHS[:1], lambda: model(input_ids=ids[:1]).logits),
    }
    if "past_key_values" in takes:
        runs["cached decoding"] = (_LENGTHS[:1], lambda: _decode(model, ids[:1]))
    worst = 0.0
    for name, (lengths, run) in runs.items():
        queries = [range(length) for length in lengths]
        spans = [[(0, 1), (1, length)] for length in lengths]
        with record(model, keep, queries=queries, spans=spans, survey=survey):
            under = run()
        worst = max(worst, _compare(name, under, run(), inner))
    return worst


def _padded(ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp_min(0),
    }


def _decode(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Run a prompt, then one more token from its cache."""
    first = model(input_ids=ids[:, :-1], use_cache=True)
    return model(input_ids=ids[:, -1:], past_key_values=first.past_key_values).logits


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
