"""PEFT adapter folders: on the base they were trained on, or refused."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attnprobe.errors import ModelError, nearest
from attnprobe.models import compat
from attnprobe.models.checkpoints import Loading, has_tokenizer, load_checkpoint, load_tokenizer
from attnprobe.models.fingerprints import fingerprint, fingerprint_of
from attnprobe.models.sources import ADAPTER_CONFIG, KNOWN, Source, find_source
from attnprobe.models.virtual import PREFIX_TUNING, prefix_misfit

RECORD = "attnprobe.json"
"""File in an adapter's folder that says which base it was trained on: `{"base": name,
"base_fingerprint": …}`."""

SUPPORTED = {
    "LORA", "ADALORA", "C3A", "DELORA", "FOURIERFT", "GRALORA", "HRA", "IA3", "LN_TUNING", "LOHA",
    "LOKR", "MISS", "OFT", "RANDLORA", "TRAINABLE_TOKENS", "VERA", "WAVEFT", PREFIX_TUNING,
}  # fmt: skip
"""Types that change what layers compute and nothing else, and prefixes; each was tested."""

_LEARNED_TEXT = (
    "its learned tokens go through the layers like a text's, with queries of their own, and "
    "belong to no segment"
)
VIRTUAL_TOKENS = {
    **dict.fromkeys(("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "CPT"), _LEARNED_TEXT),
    "ADAPTION_PROMPT": "it adds attention to learned tokens beside the model's own",
    "CARTRIDGE": "keys that were made of a text stand before the text, and only learned ones were "
    "tested",
}
"""Types with learned tokens that are refused, and why."""

_REFUSED_OPTIONS = {
    "alora_invocation_tokens": "it acts on some tokens only (activated LoRA)",
    "layer_replication": "it repeats layers of the base",
}

_HALF = (torch.bfloat16, torch.float16)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter, as a run must know it."""

    kind: str
    """Its type, such as `LORA`."""
    base: str
    """Name of the model it is on."""
    base_fingerprint: str
    """Of that model's weights, before the adapter was put on them."""
    fingerprint: str
    """Of the adapter's own weights."""
    merged: bool
    """Whether it was added into the base's weights."""


def load_adapter(
    source: Source, loading: Loading, base: str | None, merged: bool
) -> tuple[Any, Any, Adapter]:
    """Load an adapter and the model it belongs on.

    Args:
        source: The adapter's folder.
        loading: How the base is loaded.
        base: Name of the base; None for the one the adapter names.
        merged: Whether to add the adapter into the base's weights. Apart from them it computes
            exactly what was trained; added, it rounds once more, and runs as fast as the base.

    Returns:
        The model, its tokenizer (the adapter's own, if it has one), and what the adapter is.

    Raises:
        ModelError: If the adapter is of an unsupported type, PEFT is not installed, or the base
            cannot be found or is not the one it was trained on.
    """
    folder = Path(source.path)
    config, record = _read(folder / ADAPTER_CONFIG), _read(folder / RECORD)
    kind = _checked_kind(source, config)
    _check_installed(source)
    under = _find_base(source, base or record.get("base") or config.get("base_model_name_or_path"))
    model, tokenizer = _load_base(source, under, loading)
    if has_tokenizer(folder):
        tokenizer = load_tokenizer(source, loading)
    of_base = fingerprint(model)
    if "base_fingerprint" in record:
        _check_base(source, under, record["base_fingerprint"], _fingerprints(under, model, loading))
    else:
        _log.warning(
            "%s: the adapter does not say which weights it was trained on, so its base '%s' could "
            "not be compared", source.name, under.name,
        )  # fmt: skip
    wrapped = _attached(source, under, model)
    if kind == PREFIX_TUNING:
        _check_prefix(source, under, wrapped, config.get("num_attention_heads"))
    own = fingerprint_of(compat.adapter_weights(wrapped).items())
    if merged:
        wrapped = _merged(source, wrapped, kind)
    return wrapped, tokenizer, Adapter(kind, under.name, of_base, own, merged)


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError("this file cannot be read", where=str(path), got=str(error)) from error
    if not isinstance(value, dict):
        raise ModelError("no JSON object", where=str(path), got=type(value).__name__)
    return value


def _checked_kind(source: Source, config: dict[str, Any]) -> str:
    kind = str(config.get("peft_type"))
    refused = next((why for name, why in _REFUSED_OPTIONS.items() if config.get(name)), None)
    if kind in SUPPORTED and refused is None:
        return kind
    refused = refused or VIRTUAL_TOKENS.get(kind)
    raise ModelError(
        "this type of adapter is not supported" + (f": {refused}" if refused else ""),
        where=source.name, got=kind, expected=f"one of {', '.join(sorted(SUPPORTED))}",
        fix=None if kind in VIRTUAL_TOKENS else "merge it into its base with PEFT "
        "(merge_and_unload), save that model, and pass its folder",
    )  # fmt: skip


def _check_installed(source: Source) -> None:
    try:
        import peft  # noqa: F401  # pyright: ignore
    except ImportError as error:
        raise ModelError(
            "adapters need the package peft", where=source.name, got="no such package",
            fix='run: pip install "attnprobe[finetune]"',
        ) from error  # fmt: skip


def _find_base(source: Source, name: object) -> Source:
    """Find the model that an adapter belongs on; a relative path may start at the adapter."""
    if not isinstance(name, str) or not name:
        raise ModelError(
            "this adapter does not say which model it belongs on", where=source.name,
            fix="name it with --base MODEL",
        )  # fmt: skip
    beside = Path(source.path) / name
    here = name in KNOWN or Path(name).expanduser().exists()
    try:
        found = find_source(str(beside) if not here and beside.exists() else name)
    except ModelError as error:
        raise ModelError(
            "the base of this adapter is not there", where=source.name, got=str(error).rstrip("."),
            fix=f"name it with --base MODEL; {nearest(name, KNOWN)}",
        ) from error  # fmt: skip
    if found.kind == "adapter":
        raise ModelError(
            "the base of this adapter is an adapter itself", where=source.name, got=name,
            expected="a whole model", fix="merge that one first, and name the result with --base",
        )  # fmt: skip
    return found


def _load_base(source: Source, under: Source, loading: Loading) -> tuple[Any, Any]:
    try:
        return load_checkpoint(under, loading)
    except ModelError as error:
        raise ModelError(
            "the base of this adapter cannot be loaded", where=source.name,
            got=str(error).rstrip("."), fix="mend that, or name another with --base MODEL",
        ) from error  # fmt: skip


def _check_base(source: Source, under: Source, recorded: object, found: list[str]) -> None:
    """Hold the base's weights against those that the adapter was trained on."""
    if recorded not in found:
        raise ModelError(
            "this is not the model that the adapter was trained on: its weights differ",
            where=source.name, got=f"base '{under.name}' with fingerprint {found[0][:12]}…",
            expected=f"{str(recorded)[:12]}…", fix="name the right one with --base MODEL",
        )  # fmt: skip


def _fingerprints(under: Source, model: Any, loading: Loading) -> list[str]:
    """Return the fingerprints that one checkpoint has in the number formats it may be read in.

    The adapter may have been trained on the base in half precision, or be used so.
    """
    if model.dtype in _HALF:
        model, _ = load_checkpoint(under, Loading(torch.float32, loading.trust_remote_code))
    return [fingerprint(model), *(fingerprint(model, rounded=dtype) for dtype in _HALF)]


def _attached(source: Source, under: Source, model: Any) -> Any:
    try:
        wrapped, unmatched = compat.attach_adapter(model, source.path)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            "this adapter does not fit its base", where=source.name,
            got=f"base '{under.name}': {reason[:300]}", fix="name the right one with --base MODEL",
        ) from error  # fmt: skip
    if unmatched:
        raise ModelError(
            "this adapter does not fit its base", where=source.name,
            got=f"base '{under.name}', {len(unmatched)} weights without a counterpart, such as "
            f"{unmatched[0]}", fix="name the right one with --base MODEL",
        )  # fmt: skip
    return wrapped


def _check_prefix(source: Source, under: Source, wrapped: Any, n_heads: int | None) -> None:
    try:
        misfit = prefix_misfit(wrapped, n_heads)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        misfit = " ".join(str(error).split())[:300]
    if misfit:
        raise ModelError(
            "this prefix does not fit its base", where=source.name,
            got=f"base '{under.name}': {misfit}", fix="name the right one with --base MODEL",
        )  # fmt: skip


def _merged(source: Source, wrapped: Any, kind: str) -> Any:
    try:
        return compat.merge(wrapped)
    except (ValueError, NotImplementedError, AttributeError, TypeError) as error:
        raise ModelError(
            "this adapter cannot be merged into its base", where=source.name,
            got=f"{kind}: {error}", fix="leave out --merge-adapter",
        ) from error  # fmt: skip
