"""The one place where devices and number formats are chosen."""

import torch

from attnprobe.errors import ModelError, nearest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICES = ("cpu", "cuda", "mps")


def choose_device(name: str = "auto") -> torch.device:
    """Pick the device to run on.

    Args:
        name: `auto` (CUDA, then Apple's MPS, then the CPU) or a torch device such as `cuda:1`.

    Returns:
        A device that is there.

    Raises:
        ModelError: If the name is no device, or the device is not on this machine.
    """
    if name == "auto":
        return torch.device(_best_device())
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(
            "unknown device", where="--device", got=name, fix=nearest(name, ("auto", *DEVICES))
        ) from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise ModelError(
            "this device is not available here", where="--device", got=name,
            expected=f"auto or one of {', '.join(d for d, here in there.items() if here)}",
        )  # fmt: skip
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype | str:
    """Pick the number format to load a model in.

    Args:
        name: `auto` or one of `DTYPES`.
        device: Where the model will run.

    Returns:
        A torch dtype; for `auto` the checkpoint's own on CUDA (transformers' word is `auto`),
        float32 elsewhere, where half precision is slow or inexact.

    Raises:
        ModelError: If the name is no number format.
    """
    if name == "auto":
        return "auto" if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise ModelError(
            "unknown number format", where="--dtype", got=name, fix=nearest(name, ("auto", *DTYPES))
        )
    return DTYPES[name]


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device; None where it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return None


def free_cached_memory() -> None:
    """Give back what the allocator holds for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory")
    )


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
