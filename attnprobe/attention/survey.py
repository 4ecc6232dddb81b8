"""What a recording must know of a model before it runs: where it attends, and how to reach that."""

import re
from collections.abc import Container
from typing import Any

import torch

from attnprobe.attention import compat
from attnprobe.attention.calls import CROSS, ENCODER, SELF, Place
from attnprobe.errors import ModelError, SelectionError, nearest

INTERFACE, INTERCEPTION = compat.INTERFACE, compat.INTERCEPTION
ROUTES = (INTERFACE, INTERCEPTION)
"""How attention is reached."""

_CONTAINERS = (torch.nn.ModuleList, torch.nn.ModuleDict)
"""Modules that hold others and are never called."""
_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)


class Survey:
    """What a recording must know of a model, read in one walk over its modules.

    Args:
        model: The model.
        route: `interface` or `interception`; None for the interface where it reaches.
        attention_module: Path of the modules that attend, such as `transformer.layers.{}.attn`,
            where `{}` stands for the layer's number; None to find them by their names.
            It implies interception.
        uncertified: Record also attention whose values were not seen, so that nothing proves it.

    Raises:
        ModelError: If the model's attention cannot be reached.
        SelectionError: If there is no such route or module.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        route: str | None = None,
        *,
        attention_module: str | None = None,
        uncertified: bool = False,
    ) -> None:
        if route is not None and route not in ROUTES:
            raise SelectionError("unknown route", got=route, fix=nearest(route, ROUTES))
        if compat.is_recording():
            raise ModelError(
                "a recording is active already", fix="leave the outer `record` before the next one"
            )
        self.inner: Any = compat.inner_model(model)
        self.name = type(self.inner).__name__
        self.uncertified = uncertified
        self.configs: list[Any] = _configs(model)
        self.compiled = any(map(compat.is_compiled, model.modules()))
        encoder = set(compat.encoder_of(model).modules()) if compat.has_encoder(model) else set()
        self.places: dict[torch.nn.Module, Place] = (
            _found(model, encoder) if attention_module is None else _named(model, attention_module)
        )
        """Kind and layer of each attention module. Layers of other kinds (recurrent,
        convolutional) have none."""
        self.route = route or self._best_route(model, attention_module)
        self.base = self._checked_base(model)
        self._check_devices(model)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers with self-attention (of the decoder, where there are two stacks)."""
        return tuple(sorted({layer for kind, layer in self.places.values() if kind == SELF}))

    @property
    def n_heads(self) -> int | None:
        """Query heads that the config states."""
        config = getattr(self.inner, "config", None)
        number = getattr(config, "num_attention_heads", None)
        return number if isinstance(number, int) else None

    def _best_route(self, model: torch.nn.Module, attention_module: str | None) -> str:
        if attention_module is not None or not self.configs:
            return INTERCEPTION
        reaches = compat.interface_reaches(model, self.places)
        return INTERFACE if reaches else INTERCEPTION

    def _checked_base(self, model: torch.nn.Module) -> str:
        names = {compat.implementation_of(config) for config in self.configs}
        if self.route == INTERCEPTION:
            for name in sorted(names - {"sdpa", "eager", "math"}):
                raise self._not_recorded(name)
            return min(names, default="eager")
        if not self.configs:
            raise ModelError(
                "this is no transformers model", got=type(model).__name__,
                expected="a PreTrainedModel", fix="leave the route open, or use 'interception'",
            )  # fmt: skip
        if self.compiled:
            raise ModelError(
                "a compiled model runs code that was fixed before the recording", where=self.name,
                fix="record the model before torch.compile (model._orig_mod of a compiled one)",
            )  # fmt: skip
        if len(names) > 1:
            raise ModelError(
                "parts of this model use different attention implementations", where=self.name,
                got=", ".join(sorted(names)),
                fix="call model.set_attn_implementation('sdpa') first",
            )  # fmt: skip
        (name,) = names
        if not compat.interface_reaches(model, self.places):
            raise ModelError(
                "this model's attention is not reached through transformers' attention interface",
                where=self.name, got=f"implementation '{name}'",
                expected="an architecture built on AttentionInterface, such as Llama, Qwen or GLM",
                fix="leave the route open, or use 'interception'",
            )  # fmt: skip
        if name not in compat.BASES:
            raise self._not_recorded(name)
        return name

    def _not_recorded(self, name: str) -> ModelError:
        return ModelError(
            "this attention implementation cannot be recorded", where=self.name, got=name,
            expected=" or ".join(compat.BASES),
            fix="call model.set_attn_implementation('sdpa') first",
        )  # fmt: skip

    def _check_devices(self, model: torch.nn.Module) -> None:
        devices = {parameter.device for parameter in model.parameters()}
        if len(devices) > 1:
            raise ModelError(
                "this model is split over several devices", where=self.name,
                got=", ".join(sorted(map(str, devices))), expected="one device",
                fix="load it without device_map; --dtype bfloat16 halves what it takes",
            )  # fmt: skip


def _configs(model: torch.nn.Module) -> list[Any]:
    configs = [m.config for m in model.modules() if isinstance(m, compat.PreTrainedModel)]
    return list({id(config): config for config in configs}.values())


def _found(model: torch.nn.Module, encoder: set[torch.nn.Module]) -> dict[torch.nn.Module, Place]:
    """Find the modules that attend: those whose class is named so, and that have a layer number.

    Where no class is named so, the attribute may be; where neither is, each layer as a whole.
    Modules whose numbers do not tell them apart are numbered in the order they were made.
    """
    paths = {path: m for path, m in model.named_modules() if not isinstance(m, _CONTAINERS)}
    for is_attention in (
        lambda path, module: "attention" in type(module).__name__.lower(),
        lambda path, module: _ATTENTION.search(f"{type(module).__name__} {_attribute(path)}"),
        lambda path, module: _number(path, module) is not None and not _is_leaf(module),
    ):
        chosen = {path: module for path, module in paths.items() if is_attention(path, module)}
        places = {
            module: (_kind(module, encoder), number)
            for path, module in chosen.items()
            if (number := _number(path, module)) is not None
        }
        if places and _tells_apart(places, chosen):
            return places
        if chosen:
            return _counted(chosen)
    return {model: (SELF, 0)}


def _tells_apart(places: dict[torch.nn.Module, Place], chosen: dict[str, torch.nn.Module]) -> bool:
    """Whether attention modules that lie beside each other have places of their own.

    A part of an attention module shares its place; so it is enough that the outermost modules
    differ, or the innermost.
    """
    numbered = {path: places[module] for path, module in chosen.items() if module in places}
    inner = {outer for path in numbered for outer in _outer(path, numbered)}
    outermost = [place for path, place in numbered.items() if not _outer(path, numbered)]
    innermost = [place for path, place in numbered.items() if path not in inner]
    return any(len(some) == len(set(some)) for some in (outermost, innermost))


def _counted(chosen: dict[str, torch.nn.Module]) -> dict[torch.nn.Module, Place]:
    """Number attention modules without a number of their own in the order they were made."""
    outermost = [path for path in chosen if not _outer(path, chosen)]
    return {
        module: (SELF, outermost.index(next(iter(_outer(path, chosen)), path)))
        for path, module in chosen.items()
    }


def _outer(path: str, chosen: Container[str]) -> list[str]:
    """Return the paths of those that a module lies inside, the outermost first."""
    parts = path.split(".")
    before = ["", *(".".join(parts[:n]) for n in range(1, len(parts)))] if path else []
    return [one for one in before if one in chosen]


def _attribute(path: str) -> str:
    """Return the last part of a path that is a name and no number."""
    return next((part for part in reversed(path.split(".")) if not part.isdecimal()), "")


def _is_leaf(module: torch.nn.Module) -> bool:
    """Whether a module is one of torch's own building blocks."""
    return type(module).__module__.startswith("torch.nn") and not list(module.children())


def _named(model: torch.nn.Module, pattern: str) -> dict[torch.nn.Module, Place]:
    paths = dict(model.named_modules())
    expression = re.compile(re.escape(pattern).replace(r"\{\}", r"(\d+)"))
    found = {path: match for path in paths if (match := expression.fullmatch(path))}
    if not found:
        shapes = {re.sub(r"(?<=\.)\d+(?=\.|$)", "{}", path) for path in paths if path}
        raise SelectionError(
            "the model has no such module", where="--attention-module", got=pattern,
            expected="a path as model.named_modules() gives it, {} for the layer's number",
            fix=nearest(pattern, shapes),
        )  # fmt: skip
    return {
        paths[path]: (SELF, int(match[1]) if match.groups() else 0) for path, match in found.items()
    }


def _number(path: str, module: torch.nn.Module) -> int | None:
    layer = getattr(module, "layer_idx", None)
    if isinstance(layer, int):
        return layer
    return next((int(part) for part in path.split(".") if part.isdecimal()), None)


def _kind(module: torch.nn.Module, encoder: set[torch.nn.Module]) -> str:
    if module in encoder:
        return ENCODER
    if encoder and not getattr(module, "is_causal", True):
        return CROSS
    return SELF
