"""`F.multi_head_attention_forward`, run so that a mode sees what it calls."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

from torch.overrides import TorchFunctionMode

from attnprobe.errors import ModelError


def opened(
    mode: TorchFunctionMode,
    func: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    where: str,
) -> Any:
    """Run `F.multi_head_attention_forward` so that `mode` sees what it calls as well.

    Args:
        mode: What handles the call.
        func: The function.
        args: Its positional arguments.
        kwargs: Its other arguments.
        where: Where it is called, for the error.

    Returns:
        What it returns.

    Raises:
        ModelError: If it adds a key that is no token.
    """
    given = inspect.signature(func).bind(*args, **kwargs).arguments
    if given["bias_k"] is not None or given["add_zero_attn"]:
        raise ModelError(
            "this attention adds a key that is no token", where=where,
            got="add_bias_kv or add_zero_attn", fix="this architecture is not supported",
        )  # fmt: skip
    scope = {**func.__globals__, "has_torch_function": lambda _: False}
    inside = FunctionType(func.__code__, scope, func.__name__, func.__defaults__, func.__closure__)
    inside.__kwdefaults__ = func.__kwdefaults__
    with mode:
        return inside(*args, **kwargs)
