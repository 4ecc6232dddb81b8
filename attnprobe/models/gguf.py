"""Models in one GGUF file, as llama.cpp runs them: weights, config and tokenizer together."""

import re
from pathlib import Path
from typing import Any

import torch

from attnprobe.errors import ModelError
from attnprobe.models.compat import forget_quantization

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


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
    model, told = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, output_loading_info=True,
        dtype=torch.float32 if dtype == "auto" else dtype,
    )  # fmt: skip
    forget_quantization(model)
    return model, tokenizer, told
