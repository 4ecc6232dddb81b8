"""Virtual tokens: how many keys a model puts before every text, and what follows from that."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessorList

from attnprobe.attention import Survey, record
from attnprobe.attention.survey import INTERCEPTION
from attnprobe.attribution.inputs import refuse_virtual
from attnprobe.encode import framed
from attnprobe.errors import ModelError
from attnprobe.models import LoadedModel, transformers_model
from attnprobe.models.virtual import stated_virtual
from attnprobe.types import Encoding

_BEFORE, _AFTER = 3, 2
"""Tokens of the probe, before and after special ones that end a prompt."""


def count_virtual(loaded: LoadedModel, survey: Survey) -> int:
    """Find out how many keys a model puts before every text (P-Tuning v2, prefix tuning).

    A prefix-tuned adapter of PEFT states their number. Models outside transformers' interface,
    ChatGLM with a prefix encoder among them, are run over a few tokens, and what their attention
    sees is counted. The others have none.

    Args:
        loaded: The model.
        survey: Of the model.

    Returns:
        The number, 0 for most models.

    Raises:
        CertificateError: If what was seen is not what the model used.
    """
    if survey.route != INTERCEPTION:
        return stated_virtual(loaded.model)
    some = torch.Generator().manual_seed(0)
    text = torch.randint(loaded.n_ids, (_BEFORE + _AFTER,), generator=some).tolist()
    text = framed(text[:_BEFORE], loaded.tokenizer) + text[_BEFORE:]
    ids = torch.tensor([text], device=loaded.device)
    options = {"use_cache": False} if loaded.accepts("use_cache") else {}
    probing = record(loaded.model, ["rows"], queries=[[0]], survey=survey)
    with torch.inference_mode(), probing as recording:
        loaded.model(input_ids=ids, **options)
    return recording.n_virtual


def check_virtual(n_seen: int, encodings: Sequence[Encoding]) -> None:
    """Refuse a capture of keys that its encoding does not know.

    Raises:
        ModelError: Naming the record.
    """
    for encoding in encodings:
        if encoding.n_virtual != n_seen:
            raise ModelError(
                "the model puts another number of virtual tokens before the text than the record "
                "was encoded with", where=f"record '{encoding.record.id}'", got=n_seen,
                expected=encoding.n_virtual,
                fix="encode it with attnprobe.encode.with_prefix(encoding, n_virtual)",
            )  # fmt: skip


def refuse_attribution(n_virtual: int) -> None:
    """Refuse attributions of a model with virtual tokens: they would leave its prefix out.

    Raises:
        ModelError: If there are any.
    """
    refuse_virtual(n_virtual, "--attribute", "leave out --attribute")


def write_after_prefix(
    loaded: LoadedModel,
    inputs: dict[str, torch.Tensor],
    limit: int,
    stops: Sequence[int],
    processors: LogitsProcessorList,
) -> list[list[int]]:
    """Let a prefix-tuned model write, token by token with a cache.

    transformers' own `generate` would leave the prefix out, and PEFT's would count the positions of
    a padded text from its pads on.

    Args:
        loaded: The model.
        inputs: Of `padded`.
        limit: Most tokens to write.
        stops: Tokens that end a text.
        processors: Of the logits.

    Returns:
        What came after each text, and after its end whatever followed.
    """
    n_virtual, ids = stated_virtual(loaded.model), inputs["input_ids"]
    mask = inputs.get("attention_mask", torch.ones_like(ids))
    position = mask.sum(1, keepdim=True) + n_virtual
    mask = torch.nn.functional.pad(mask, (n_virtual, 0), value=1)
    following, takes_positions = transformers_model(loaded.model), loaded.accepts("position_ids")
    out = loaded.model(**inputs, use_cache=True)
    written, is_done = ids[:, :0], torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    ends = torch.tensor(list(stops), device=ids.device)
    for number in range(limit):
        scores = processors(torch.cat([ids, written], 1), out.logits[:, -1].float())  # pyright: ignore
        token = scores.argmax(-1, keepdim=True)
        written = torch.cat([written, token], 1)
        is_done |= torch.isin(token[:, 0], ends)
        if number + 1 == limit or bool(is_done.all()):
            break
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        options = {"position_ids": position + number} if takes_positions else {}
        out = following(
            input_ids=token, attention_mask=mask, past_key_values=out.past_key_values,
            use_cache=True, **options,
        )  # fmt: skip
    return written.tolist()
