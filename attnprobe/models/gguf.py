"""Models in one GGUF file, as llama.cpp runs them: weights, config and tokenizer together."""

import logging
import re
from pathlib import Path
from typing import Any

import torch

from attnprobe.errors import ModelError
from attnprobe.models.compat import forget_quantization, known_gguf_splits

SINGLE_DIGITS = {
    "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b",
}  # fmt: skip
"""Names that GGUF files have for: every digit by itself, and what is between them as GPT-2 does."""

AS_GPT2 = {"gpt-2", "default", "mpt", "olmo", "jais", "trillion"}

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")

_log = logging.getLogger(__name__)


def load_gguf(path: Path, dtype: torch.dtype | str) -> tuple[Any, Any, dict[str, Any]]:
    """Load a GGUF file; quantised weights are dequantised.

    Args:
        path: Of the file.
        dtype: Number format of the weights; `auto` is float32.

    Returns:
        The model, its tokenizer, and what transformers says of the weights.

    Raises:
        ModelError: If the file is one part of several.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if part := _PART.search(path.name):
        raise ModelError(
            "this GGUF file is one part of several", where=str(path),
            got=f"part {int(part[1])} of {int(part[2])}", expected="one file",
            fix="join them: llama-gguf-split --merge FIRST-PART WHOLE",
        )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    _split_as_trained(tokenizer, path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, output_loading_info=True,
        dtype=torch.float32 if dtype == "auto" else dtype,
    )  # fmt: skip
    model, told = loaded
    forget_quantization(model)
    return model, tokenizer, dict(told)


def _split_as_trained(tokenizer: Any, path: Path) -> None:
    """Split text before the merges as the file says, where transformers leaves that out."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    fields = GGUFReader(path).fields
    kind, split = (
        field.contents() if (field := fields.get(f"tokenizer.ggml.{name}")) else None
        for name in ("model", "pre")
    )
    if kind != "gpt2" or split is None:
        return
    if split in SINGLE_DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif split not in AS_GPT2 | known_gguf_splits():
        _log.warning(
            "%s: the tokenizer of this file splits text in a way that is not known here ('%s'); "
            "some texts may get other tokens than the model was trained on", path, split,
        )  # fmt: skip
