"""What a model's name stands for: a known name, a folder, a GGUF file, an adapter, or a hub id."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from attnprobe.errors import ModelError, nearest
from attnprobe.models import reference, smollm2
from attnprobe.models.compat import adapter_of_hub, hub_is_off

KNOWN: dict[str, Callable[[], Path]] = {
    reference.NAME: reference.reference_folder,
    smollm2.NAME: smollm2.smollm2_folder,
}
"""Names that stand for a model folder made on the spot."""

ADAPTER_CONFIG = "adapter_config.json"
EXPECTED = "a known name, a model folder, a .gguf file, or a hub id such as org/name"

_GGUF_MAGIC = b"GGUF"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model lies, and what it is."""

    name: str
    """As the user called it."""
    kind: str
    """`folder`, `gguf`, `adapter` (a folder, too) or `hub`."""
    path: str
    """Of the folder or file; the id on the hub."""
    unreached: bool = False
    """Whether the hub was asked and did not answer."""

    @property
    def local_only(self) -> bool:
        """Whether nothing may be looked up on the hub.

        A bare name is never looked up: a word that is spelled wrong must not load what a stranger
        has put there.
        """
        if self.kind != "hub" or "/" not in self.path:
            return True
        return self.unreached or hub_is_off()


def find_source(name: str) -> Source:
    """Say what a name stands for, without loading it.

    Args:
        name: What a user passes as a model.

    Returns:
        Its source. What is no path is taken for a hub id, and said so in the log if it will be
        looked up.

    Raises:
        ModelError: If a path leads to no model.
    """
    if name in KNOWN:
        return Source(name, "folder", str(KNOWN[name]()))
    path = Path(name).expanduser()
    if path.is_file():
        return Source(name, "gguf", str(_checked_gguf(path)))
    if path.is_dir():
        return Source(name, _kind_of_folder(path), str(path))
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1 or not name:
        raise ModelError(
            "no model there", where=name or "the model's name", expected=EXPECTED,
            fix=nearest(name, KNOWN),
        )  # fmt: skip
    source = Source(name, "hub", name)
    if not source.local_only:
        _log.info("%s: no such folder here; asking the hub (HF_HUB_OFFLINE=1 forbids it)", name)
    adapter, reached = adapter_of_hub(name, ADAPTER_CONFIG, source.local_only)
    if adapter is not None:
        return Source(name, "adapter", adapter)
    return replace(source, unreached=not source.local_only and not reached)


def _kind_of_folder(folder: Path) -> str:
    if (folder / ADAPTER_CONFIG).is_file():
        return "adapter"
    if (folder / "config.json").is_file():
        return "folder"
    if files := sorted(folder.glob("*.gguf")):
        raise ModelError(
            "this folder is no model, but holds GGUF files", where=str(folder),
            got=", ".join(file.name for file in files[:5]), fix=f"pass one of them: {files[0]}",
        )  # fmt: skip
    raise ModelError(
        "this folder is no model", where=str(folder), got="no config.json in it",
        expected="a folder written by save_pretrained",
    )  # fmt: skip


def _checked_gguf(path: Path) -> Path:
    with path.open("rb") as file:
        magic = file.read(len(_GGUF_MAGIC))
    if magic == _GGUF_MAGIC:
        return path
    beside = (path.parent / "config.json").is_file() or (path.parent / ADAPTER_CONFIG).is_file()
    raise ModelError(
        "this file is no GGUF model", where=str(path),
        got=f"a file that begins with {magic!r}", expected="one that begins with b'GGUF'",
        fix=f"pass the folder it lies in: {path.parent}" if beside else None,
    )  # fmt: skip
