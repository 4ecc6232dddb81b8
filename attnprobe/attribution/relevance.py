"""AttnLRP: relevance that is handed back by rules instead of derivatives."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from attnprobe.attention.calls import AttentionCall
from attnprobe.attention.compat import in_backward
from attnprobe.attribution.graph import Graph
from attnprobe.attribution.norms import held_norm, is_norm
from attnprobe.attribution.prediction import Prediction
from attnprobe.attribution.watching import Watched, watched

_NEAR_0 = 1e-4
"""Where an activation's ratio to its input stands for that at 0."""
_PLAIN = (torch.nn.Linear, Conv1D, torch.nn.Embedding, torch.nn.Dropout, torch.nn.Identity)
"""Modules that are linear, or nothing, when a model is read."""
_HOLDERS = (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.ParameterDict)
_GATES = ("gate_proj", "gate_up_proj")


def attn_lrp(prediction: Prediction) -> torch.Tensor:
    """Credit a token with the relevance that layer-wise rules hand back to its embedding.

    Source: AttnLRP (Achtibat et al. 2024, arXiv 2402.05602), as gradient × input over a backward
    pass whose rules differ from the derivative: norms keep their statistics constant, activations
    hand back in proportion to output over input, and a product of two factors (gates, weights times
    values, queries times keys) gives half to each. The softmax keeps its derivative.

    It misleads less by noise than the gradient, which is what it was made for; but relevance that
    biases and the softmax's own constant take up is lost, so a step's sum need not be the target,
    and half for each factor of a product is a convention, not a fact about the model.
    """
    scores = prediction.no_scores()
    with watched(prediction, "attn_lrp") as seen, _rules(prediction, seen):
        graph = Graph(prediction, prediction.embeddings()[None])
        for layer in seen.layers:
            _halve_products(seen.calls[layer], seen)
        for row, gradient in enumerate(graph):
            scores[row, : gradient.shape[1]] = (gradient * graph.inputs)[0].float().sum(-1).cpu()
    return scores.detach()


def _halve_products(call: AttentionCall, seen: Watched) -> None:
    """Let queries and keys take a quarter each, values half: two products, one in the other."""
    if call.softcap is not None or call.sinks is not None or call.bias is not None:
        raise seen.misfit("attention scores that are bent or added to", "softmax(q · k) alone")
    for tensor, share in ((call.query, 0.25), (call.key, 0.25), (call.value, 0.5)):
        _scale_gradient(tensor, share)


def _scale_gradient(tensor: torch.Tensor, share: float) -> None:
    tensor.register_hook(lambda gradient: gradient * share)


@contextmanager
def _rules(prediction: Prediction, seen: Watched) -> Iterator[None]:
    """Give the norms, activations and gates of a model their rules; the model leaves as it came."""
    flow = _Flow()
    with ExitStack() as stack:
        for name, module in _inside(prediction, seen).items():
            if is_norm(module):
                handle = module.register_forward_hook(_norm_hook())
            elif _is_activation(module):
                handle = module.register_forward_hook(flow.activation_hook(name))
            elif isinstance(module, torch.nn.Linear | Conv1D):
                handle = module.register_forward_pre_hook(flow.linear_hook(name))
            else:
                continue
            stack.callback(handle.remove)
        for name in flow.gated_in(prediction.model):
            flow.gated.add(name)
        yield
    flow.check(seen)


def _inside(prediction: Prediction, seen: Watched) -> dict[str, torch.nn.Module]:
    """Name the modules of a model that compute something by themselves.

    Raises:
        ModelError: If there is one that no rule is for.
    """
    found = {}
    for name, module in prediction.model.named_modules():
        if is_norm(module) or _is_activation(module) or isinstance(module, _PLAIN):
            found[name] = module
        elif not isinstance(module, _HOLDERS) and _computes(module):
            got = f"{type(module).__name__} at {name}"
            raise seen.misfit(got, "modules that there are rules for")
    return found


def _computes(module: torch.nn.Module) -> bool:
    """Whether a module has weights of its own or is a building block, other than of positions."""
    has_weights = next(module.parameters(recurse=False), None) is not None
    is_block = next(module.children(), None) is None
    return has_weights or (is_block and "rotary" not in type(module).__name__.lower())


def _is_activation(module: torch.nn.Module) -> bool:
    home = type(module).__module__
    return home in ("torch.nn.modules.activation", "transformers.activations")


def _norm_hook() -> Callable[..., torch.Tensor]:
    def hook(module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return held_norm(module, args[0].shape[-1], args[0].detach()).same(args[0], output)

    return hook


class _Flow:
    """What activations give, and what linear layers take: tells which of them are gated."""

    def __init__(self) -> None:
        self.gated: set[str] = set()
        """Paths of MLPs whose activation is multiplied with something before the next layer."""
        self._untaken: dict[str, torch.Tensor] = {}

    def gated_in(self, model: torch.nn.Module) -> list[str]:
        """Find the MLPs with a gate."""
        return [
            name for name, module in model.named_modules()
            if hasattr(module, "down_proj") and any(hasattr(module, gate) for gate in _GATES)
        ]  # fmt: skip

    def activation_hook(self, name: str) -> Callable[..., torch.Tensor]:
        """Return a hook that makes an activation hand back output over input."""

        def hook(
            module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor
        ) -> torch.Tensor:
            x = args[0]
            with torch.no_grad():
                near = torch.full_like(x, _NEAR_0)
                small = x.abs() < _NEAR_0
                ratio = torch.where(small, type(module).forward(module, near) / near, output / x)
            held = x * ratio
            given = held + (output - held).detach()
            if name.rpartition(".")[0] not in self.gated and not in_backward():
                self._untaken[name] = given
            return given

        return hook

    def linear_hook(self, name: str) -> Callable[..., None]:
        """Return a hook that halves what a gate's product hands back."""

        def hook(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
            self._untaken = {n: one for n, one in self._untaken.items() if one is not args[0]}
            mlp, _, own = name.rpartition(".")
            if own == "down_proj" and mlp in self.gated:
                _scale_gradient(args[0], 0.5)

        return hook

    def check(self, seen: Watched) -> None:
        """Refuse activations that are multiplied with something unknown.

        Raises:
            ModelError: Naming one.
        """
        for name in self._untaken:
            raise seen.misfit(
                f"what {name} gives is changed before the next layer takes it",
                "an MLP with gate_proj and down_proj, or without a gate",
            )
