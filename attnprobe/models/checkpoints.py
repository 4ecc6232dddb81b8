"""Weights and tokenizer of one checkpoint, whole or refused: nothing is filled in by chance."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from attnprobe.errors import ModelError, nearest
from attnprobe.models.compat import (
    as_once,
    is_no_decoder,
    is_remote,
    mend_padding,
    needs_code,
    runs_remote_code,
)
from attnprobe.models.gguf import load_gguf
from attnprobe.models.sources import EXPECTED, KNOWN, Source

INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE = ("model.safetensors", "pytorch_model.bin")
VOCABULARIES = (
    "tokenizer.json", "*.model", "vocab.*", "merges.txt", "*.tiktoken", "tekken.json",
)  # fmt: skip
"""Files that hold a vocabulary; without one, transformers makes an empty tokenizer of some kinds
and does not say so."""

_LONGEST_REASON = 300
_NAMED = 3
"""Weights that an error names."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loading:
    """How checkpoints are loaded."""

    dtype: torch.dtype | str
    """A number format, or `auto` for the checkpoint's own."""
    trust_remote_code: bool = False
    """Whether code that comes with a checkpoint may run."""


def load_checkpoint(source: Source, loading: Loading) -> tuple[Any, Any]:
    """Load a model and its tokenizer.

    Args:
        source: A folder, a GGUF file, or an id on the hub.
        loading: How.

    Returns:
        The model, on the CPU, and the tokenizer.

    Raises:
        ModelError: If a file, a shard or a weight is missing or damaged, or code would have to
            run that nobody allowed.
    """
    if source.kind == "gguf":
        model, tokenizer, told = _explained(
            source, lambda: load_gguf(Path(source.path), loading.dtype)
        )
    else:
        if source.kind == "folder":
            _check_shards(Path(source.path))
        tokenizer = load_tokenizer(source, loading)
        model, told = _explained(source, lambda: _load_model(source, loading))
    _check_weights(source, told)
    return model, tokenizer


def load_tokenizer(source: Source, loading: Loading) -> Any:
    """Load the tokenizer of a folder or of an id on the hub.

    Raises:
        ModelError: If it is missing or cannot be read.
    """
    from transformers import AutoTokenizer

    def load() -> Any:
        return AutoTokenizer.from_pretrained(
            source.path, local_files_only=source.local_only,
            trust_remote_code=loading.trust_remote_code,
        )  # fmt: skip

    if source.kind != "hub" and not has_tokenizer(Path(source.path)):
        raise _tokenizer_error(source, f"none of {', '.join(VOCABULARIES)}")
    try:
        tokenizer = load()
    except _LOADING_ERRORS as error:
        if source.kind == "hub" or needs_code(error) or isinstance(error, ImportError):
            raise _translated(source, error) from error
        raise _tokenizer_error(source, _reason(error)) from error
    mend_padding(tokenizer)
    return tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a vocabulary, or code that makes one."""
    if any(next(folder.glob(pattern), None) for pattern in VOCABULARIES):
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and "auto_map" in config.read_text(encoding="utf-8", errors="replace")


def check_vocabulary(model: Any, tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer that was made for a larger model.

    Tokens added to a tokenizer without the model knowing are let pass until a text needs them.

    Raises:
        ModelError: If ordinary tokens have no row in the model's embedding.
    """
    rows, known = n_embedded(model), int(tokenizer.vocab_size)
    if known > rows:
        raise ModelError(
            "the tokenizer is not this model's: it has tokens that the model does not know",
            where=name, got=f"{known} tokens", expected=f"at most {rows}, the rows of the "
            "embedding", fix="put the tokenizer files of the model's own checkpoint in its folder",
        )  # fmt: skip


def n_embedded(model: Any) -> int:
    """Return how many token ids a model knows."""
    return int(model.get_input_embeddings().weight.shape[0])


def _load_model(source: Source, loading: Loading) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoConfig, AutoModelForCausalLM

    where: dict[str, Any] = {
        "local_files_only": source.local_only, "trust_remote_code": loading.trust_remote_code
    }  # fmt: skip
    config = AutoConfig.from_pretrained(source.path, **where)
    with as_once(config, source.path, source.local_only), _blamed(config, source):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.path, config=config, dtype=loading.dtype, output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named, and refused, below
            **where,
        )  # fmt: skip
    model, told = loaded
    if runs_remote_code(model):  # ChatGLM-6B's makes most layers in half precision, come what may
        model.to(
            model.get_input_embeddings().weight.dtype
            if isinstance(loading.dtype, str)
            else loading.dtype
        )
    return model, dict(told)


@contextmanager
def _blamed(config: Any, source: Source) -> Iterator[None]:
    """Say of what goes wrong in code that came with a checkpoint that it is that code."""
    try:
        yield
    except _LOADING_ERRORS:
        raise
    except Exception as error:
        if not is_remote(type(config)):
            raise
        raise ModelError(
            "the code that comes with this model does not run here", where=source.name,
            got=f"{type(error).__name__}: {_reason(error)}",
            expected="code for the transformers that is installed, or for one before it",
            fix="look for a newer revision of the model's code",
        ) from error  # fmt: skip


def _check_shards(folder: Path) -> None:
    if any((folder / name).is_file() for name in SINGLE):
        return
    index = next((folder / name for name in INDICES if (folder / name).is_file()), None)
    if index is None:
        return
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            "the list of this checkpoint's shards cannot be read", where=str(index),
            got=_reason(error), fix="copy or download the file again",
        ) from error  # fmt: skip
    if missing := [shard for shard in shards if not (folder / shard).is_file()]:
        raise ModelError(
            f"{len(missing)} of {len(shards)} shards missing", where=str(folder),
            got=f"no {_some(missing)}", expected=f"what {index.name} lists",
            fix="copy or download the checkpoint again",
        )  # fmt: skip


def _check_weights(source: Source, told: dict[str, Any]) -> None:
    """Refuse a checkpoint whose gaps transformers would fill with random numbers."""
    wrong: list[tuple[str, Any, Any]] = sorted(told.get("mismatched_keys") or ())
    if wrong:
        named = [f"{name} {tuple(has)} for {tuple(needs)}" for name, has, needs in wrong]
        raise ModelError(
            f"{_count(len(wrong), 'weight')} of another shape than the config says",
            where=source.name, got=_some(named), fix="the config is not this checkpoint's",
        )  # fmt: skip
    if missing := sorted(told.get("missing_keys") or ()):
        raise ModelError(
            f"{_count(len(missing), 'weight')} missing from this checkpoint", where=source.name,
            got=f"no {_some(missing)}", expected="every weight of a causal language model",
            fix="the config is not this checkpoint's, or the checkpoint is not complete",
        )  # fmt: skip


def _explained(source: Source, load: Callable[[], T]) -> T:
    """Run what loads a checkpoint; say what went wrong."""
    try:
        return load()
    except _LOADING_ERRORS as error:
        raise _translated(source, error) from error


def _translated(source: Source, error: Exception) -> ModelError:
    if needs_code(error):
        return _code_error(source)
    if source.kind == "hub" and source.local_only:
        return _not_cached(source)
    if is_no_decoder(error):
        return ModelError(
            "this is no causal language model", where=source.name,
            got=_model_type(source) or "another kind of model", expected="a model that predicts "
            "the next token",
        )  # fmt: skip
    if source.kind == "folder" and (damaged := _damaged(Path(source.path))):
        return ModelError(
            "a file of this checkpoint is damaged", where=damaged[0], got=damaged[1],
            fix="copy or download it again",
        )  # fmt: skip
    fix = "check the spelling, or download it first and pass the folder; "
    return ModelError(
        "cannot load this model", where=source.name, got=_reason(error), expected=EXPECTED,
        fix=fix + nearest(source.name, KNOWN) if source.kind == "hub" else None,
    )  # fmt: skip


def _not_cached(source: Source) -> ModelError:
    why = "; hub look-ups are off (HF_HUB_OFFLINE)" if "/" in source.path else ""
    if source.unreached:
        why = "; the hub could not be reached"
    return ModelError(
        "cannot load this model", where=source.name,
        got=f"no such folder, and nothing whole of that name in the hub's cache{why}",
        expected=EXPECTED,
        fix="check the spelling, or download it first and pass the folder; "
        + nearest(source.name, KNOWN),
    )  # fmt: skip


def _code_error(source: Source) -> ModelError:
    files = () if source.kind == "hub" else sorted(p.name for p in Path(source.path).glob("*.py"))
    return ModelError(
        "this model comes with code of its own, which is not run unasked", where=source.name,
        got=", ".join(files) or None,
        fix="read the code; if you trust it, add --trust-remote-code "
        "(trust_remote_code=True in Python)",
    )  # fmt: skip


def _tokenizer_error(source: Source, got: str) -> ModelError:
    return ModelError(
        "this model has no tokenizer that can be read", where=source.name, got=got,
        fix="put the tokenizer files of the model's own checkpoint in the folder "
        "(tokenizer.save_pretrained)",
    )  # fmt: skip


def _damaged(folder: Path) -> tuple[str, str] | None:
    """Return the first file of weights that cannot be opened, and why."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            return str(path), _reason(error)
    return None


def _model_type(source: Source) -> str | None:
    config = Path(source.path) / "config.json"
    if source.kind != "folder" or not config.is_file():
        return None
    return f"model type '{json.loads(config.read_text(encoding='utf-8')).get('model_type')}'"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:_LONGEST_REASON] + ("…" if len(text) > _LONGEST_REASON else "")


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s are' if n > 1 else ' is'}"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest


def _loading_errors() -> tuple[type[Exception], ...]:
    from safetensors import SafetensorError

    return OSError, ValueError, LookupError, ImportError, TypeError, RuntimeError, SafetensorError


_LOADING_ERRORS = _loading_errors()
"""What transformers and the file formats raise on checkpoints that are not what they should be."""
