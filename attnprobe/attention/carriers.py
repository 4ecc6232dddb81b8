"""Following a tensor through what a model does to it: casts, views, dropout, slices."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch


class Carriers:
    """The tensors that carry on what one tensor held. None is kept alive."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], slice]] = {}
        self.add(tensor, slice(None))

    def add(self, tensor: torch.Tensor, keys: slice) -> None:
        """Follow one more tensor; `keys` is the part of the last axis that it carries on."""
        self._known[id(tensor)] = weakref.ref(tensor), keys

    def __contains__(self, tensor: object) -> bool:
        entry = self._known.get(id(tensor))
        return entry is not None and entry[0]() is tensor

    def keys_of(self, tensor: torch.Tensor) -> slice:
        """Return which part of the original's last axis a carrier holds."""
        return self._known[id(tensor)][1]

    def follow(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> Sequence[torch.Tensor]:
        """Follow a function call; return the tensors that are carriers from now on.

        Args:
            name: Of the function.
            args: Its positional arguments.
            kwargs: Its other arguments.
            result: What it returned.
        """
        source = next((arg for arg in [*args, *kwargs.values()] if arg in self), None)
        if source is None:
            return ()
        keys = self.keys_of(source)
        if name == "__getitem__" and len(args) > 1:
            keys = _sliced(keys, args[1], source)
        results = [tensor for tensor in _tensors(result) if tensor.is_floating_point()]
        for tensor in results:
            self.add(tensor, keys)
        return results


def _tensors(result: Any) -> Iterable[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, tuple | list):
        return [part for part in result if isinstance(part, torch.Tensor)]
    return []


def _sliced(keys: slice, index: Any, source: torch.Tensor) -> slice:
    """Cut the key range by an index like [..., :-1] (the sink column of gpt-oss is dropped so)."""
    parts = index if isinstance(index, tuple) else (index,)
    last = parts[-1]
    covers_last = Ellipsis in [part for part in parts if part is Ellipsis] or (
        len(parts) == source.dim()
    )
    if not covers_last or not isinstance(last, slice) or last == slice(None):
        return keys
    start, stop, step = last.indices(source.shape[-1])
    offset = keys.start or 0
    return slice(offset + start, offset + stop) if step == 1 else keys
