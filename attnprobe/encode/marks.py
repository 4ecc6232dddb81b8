"""Tokens that are no text: which ids they have, and how they are written."""

from collections.abc import Sequence
from typing import Any

GLM_MARKS = (
    "[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<sop>", "<eop>", "<|system|>", "<|user|>",
    "<|assistant|>", "<|observation|>",
)  # fmt: skip
"""Marks of the GLM family, which their own tokenizers do not list among the special tokens."""

_GLM_TURNS = "<|user|>", "<|observation|>"
_GLM_TELLS = "[gMASK]"
_NONSENSE = "<|attnprobe asks for nothing|>"


def special_texts(tokenizer: Any) -> dict[int, str]:
    """Return the tokens that are no text: BOS, EOS, chat marks and the like.

    Returns:
        By id, how each is written.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {id_: str(entry) for id_, entry in added.items() if getattr(entry, "special", False)}
    listed = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=False))
    return found | listed | ({} if is_fast(tokenizer) else _glm_marks(tokenizer))


def decode(ids: Sequence[int], tokenizer: Any) -> str:
    """Return the text of tokens; those that the tokenizer does not know (a model may know more)
    have none."""
    if not is_fast(tokenizer):
        ids = [token for token in ids if token < len(tokenizer)]
    return tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )


def name_of(token: int, tokenizer: Any) -> str:
    """Name a token that has no text."""
    known = token < len(tokenizer)
    return (tokenizer.convert_ids_to_tokens(token) if known else "") or f"<{token}>"


def turn_ends(tokenizer: Any) -> set[int]:
    """Return the marks with which a GLM ends its own turn, beside EOS; none for other models."""
    marks = {} if is_fast(tokenizer) else _glm_marks(tokenizer)
    return {id_ for id_, mark in marks.items() if mark in _GLM_TURNS}


def framed(ids: list[int], tokenizer: Any) -> list[int]:
    """Put the special tokens around a text that a model may rely on, as ChatGLM-6B does."""
    if is_fast(tokenizer):
        return ids
    return list(tokenizer.build_inputs_with_special_tokens(list(ids)))


def is_fast(tokenizer: Any) -> bool:
    """Whether a tokenizer tells which characters each token stands for."""
    return bool(getattr(tokenizer, "is_fast", False))


def _glm_marks(tokenizer: Any) -> dict[int, str]:
    """Ask a tokenizer of Python for the marks; one that does not know `[gMASK]` is no GLM's."""
    unknown = (None, _id_of(tokenizer, _NONSENSE))
    ids = {mark: _id_of(tokenizer, mark) for mark in GLM_MARKS}
    if ids[_GLM_TELLS] in unknown:
        return {}
    return {id_: mark for mark, id_ in ids.items() if id_ is not None and id_ not in unknown}


def _id_of(tokenizer: Any, token: str) -> int | None:
    try:
        found = tokenizer.convert_tokens_to_ids(token)
    except (KeyError, ValueError):  # some tokenizers have no token for the unknown
        return None
    return found if isinstance(found, int) else None
