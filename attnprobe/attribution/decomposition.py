"""Methods that take attention outputs apart into what each token put in."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from attnprobe.attention.certificate import tolerance
from attnprobe.attention.compat import in_backward
from attnprobe.attribution.graph import Graph
from attnprobe.attribution.norms import HeldNorm, held_norm, is_norm
from attnprobe.attribution.prediction import Prediction
from attnprobe.attribution.watching import Watched, watched
from attnprobe.types import step_query

_BLOCK_NUMBERS = 2**26
"""Numbers of a layer's decomposition that are held at once (256 MB)."""
_SAME = 1e-3
"""Relative difference below which two tensors are the same but for rounding, in float32."""


def value_norm(prediction: Prediction) -> torch.Tensor:
    """Credit a token with the length of what heads fetch from it: weight × transformed value.

    Source: Kobayashi et al. 2020 (arXiv 2004.10102): ‖α f(x)‖, with f the head's value and output
    matrix, summed over heads; the mean over layers. A norm after the attention (Gemma 2, OLMo 2)
    belongs to f, with its statistics held. Query heads use the values of their KV head.

    It misleads because lengths have no direction: vectors that cancel, or that point where the
    target does not care, count like those that decide. Later layers, whose vectors are longer,
    weigh more, and tokens of upper layers hold what they took from others. What is predicted does
    not enter.
    """
    scores = prediction.no_scores()
    with torch.no_grad(), _taken_apart(prediction, "value_norm") as parts:
        prediction.logits(prediction.ids[:, :-1], prediction.n_steps)
    queries = _queries(prediction)
    for layer in parts.seen.layers:
        weights = parts.seen.weights(layer)[:, queries]
        lengths, scale = torch.zeros_like(weights[:, 0]), torch.ones(len(queries), 1)
        for head, moved in enumerate(parts.moved(layer)):
            lengths[head] = parts.through(layer, moved).norm(dim=-1)
        factor = parts.factor(layer)
        scale = scale if factor is None else factor[queries].cpu()
        found = torch.einsum("hqk,hk->qk", weights, lengths).cpu() * scale
        scores[:, : found.shape[1]] += found / len(parts.seen.layers)
    return scores


def alti_logit(prediction: Prediction) -> torch.Tensor:
    """Credit a token with what attention moved from it into the target's logit.

    Source: ALTI-Logit (Ferrando et al. 2023, arXiv 2305.12535). What each layer's attention adds at
    the step's query is taken apart by source token and projected on the target's direction, through
    the last norm with its statistics held; each layer's share goes back to the input tokens through
    ALTI's contributions of the layers below (Ferrando et al. 2022): how much closer, in the L1
    norm, a token's part brings the sum. For models that norm before attention, add its output as
    it is, and norm again before the MLP.

    It misleads where MLPs matter: what they add at the step's own position is credited to nobody,
    and below, tokens are mixed as if by attention alone. It tells what was written in the direction
    of the target, not what happens to it in later layers. A step's sum promises nothing.
    """
    scores = prediction.no_scores()
    with _taken_apart(prediction, "alti_logit") as parts:
        graph = Graph(prediction, prediction.embeddings()[None])
    n_tokens = prediction.n_tokens - 1
    with torch.no_grad():
        aims = parts.aims(graph)
        below = torch.eye(n_tokens)
        queries = _queries(prediction)
        for layer in parts.seen.layers:
            parts.check_added(layer)
            weights = parts.seen.weights(layer)
            moved = torch.stack([parts.through(layer, one) for one in parts.moved(layer)])
            factor = parts.factor(layer)
            along = torch.einsum("hkd,sd->hsk", moved, aims)
            shares = (weights[:, queries] * along).sum(0)
            shares = shares if factor is None else shares * factor[queries]
            scores[:, :n_tokens] += shares.cpu() @ below
            below = _contributions(parts, layer, weights, moved) @ below
    return scores


def _contributions(
    parts: "_Parts", layer: int, weights: torch.Tensor, moved: torch.Tensor
) -> torch.Tensor:
    """Return ALTI's contributions of a layer, [query, key]; rows sum to 1."""
    before, factor = parts.before(layer), parts.factor(layer)
    total = before + parts.added(layer)
    n_tokens, size = before.shape
    found = torch.zeros(n_tokens, n_tokens)
    step = max(1, _BLOCK_NUMBERS // (n_tokens * size))
    for rows in torch.arange(n_tokens).split(step):
        given = torch.einsum("hqk,hkd->qkd", weights[:, rows], moved)
        given = given if factor is None else given * factor[rows][:, None]
        given[torch.arange(len(rows)), rows] += before[rows]
        whole = total[rows]
        near = whole.abs().sum(-1)[:, None] - (whole[:, None] - given).abs().sum(-1)
        found[rows] = near.clamp_min(0).cpu()
    # What only sums from many tokens at once brings nothing closer by itself: it stays in place.
    found += torch.eye(n_tokens) * (found.sum(-1, keepdim=True) == 0)
    return found / found.sum(-1, keepdim=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Passed:
    """A module that was passed, what it took and what it gave."""

    module: torch.nn.Module
    given: torch.Tensor
    output: torch.Tensor


class _Parts:
    """The pieces of each layer's attention: its norms, its values, its output matrix."""

    def __init__(self, seen: Watched) -> None:
        self.seen = seen
        self.attention: dict[int, _Passed] = {}
        """By layer."""
        self.norms: list[_Passed] = []
        self.linear: dict[int, list[_Passed]] = {}
        """Modules inside a layer's attention, by layer."""
        self._held: dict[int, HeldNorm | None] = {}

    def _out(self, layer: int) -> torch.nn.Module:
        """Find the module that mixes the heads' outputs: its output is that of the attention."""
        whole = self.attention[layer].output
        width = self.seen.outputs[layer][0, 0].numel()
        for passed in self.linear[layer]:
            same = passed.output.data_ptr() == whole.data_ptr()
            if same and passed.output.shape == whole.shape and passed.given.shape[-1] == width:
                return passed.module
        raise self.seen.misfit(
            f"the attention of layer {layer} does something to its heads that is not known",
            "a matrix over the outputs of all heads",
        )

    @property
    def _heads(self) -> int:
        return self.seen.calls[self.seen.layers[0]].n_heads

    def moved(self, layer: int) -> Iterator[torch.Tensor]:
        """Yield, head by head, what a token would add if the head paid it all its attention.

        Each [key, size]. They are proven by the layer's output.
        """
        call, out = self.seen.calls[layer], self._out(layer)
        value = call.value[0].detach()
        n_keys, size = value.shape[1:]
        nothing = value.new_zeros(1, 1, call.n_heads * size)
        bias = out(nothing)[0].float()
        weights, total = self.seen.weights(layer)[:, -1], bias[0].clone()
        for head in range(call.n_heads):
            alone = value.new_zeros(1, n_keys, call.n_heads * size)
            own = value[head // (call.n_heads // len(value))]
            alone[0, :, head * size : (head + 1) * size] = own
            found = out(alone)[0].float() - bias
            total += weights[head] @ found
            yield found
        real = self.attention[layer].output[0, -1].detach().float()
        if not (total - real).norm() <= tolerance(value.dtype) * real.norm().clamp_min(1e-6):
            raise self.seen.misfit(
                f"heads of layer {layer} do not sum to its attention's output", "a plain sum"
            )

    def after(self, layer: int) -> tuple[HeldNorm, torch.Tensor] | None:
        """Return the norm over a layer's attention output and what it took, if there is one."""
        whole = self.attention[layer].output
        for passed in self.norms:
            if passed.given.data_ptr() == whole.data_ptr() and passed.given.shape == whole.shape:
                x = passed.given[0].detach()
                return held_norm(passed.module, x.shape[-1], x), x
        return None

    def through(self, layer: int, moved: torch.Tensor) -> torch.Tensor:
        """Carry parts of an attention output through the norm after it, but for its factor."""
        norm = self.after(layer)
        return moved if norm is None else norm[0].part(moved)

    def factor(self, layer: int) -> torch.Tensor | None:
        """Return the factor of that norm at each query, [query, 1]."""
        norm = self.after(layer)
        return None if norm is None else norm[0].factor(norm[1])

    def added(self, layer: int) -> torch.Tensor:
        """Return what a layer's attention adds to the residual stream, [token, size]."""
        output, norm = self.attention[layer].output[0].detach().float(), self.after(layer)
        if norm is None:
            return output
        return norm[0].part(output) * norm[0].factor(norm[1]) + norm[0].bias

    def before(self, layer: int) -> torch.Tensor:
        """Return the residual stream that a layer's attention is added to, [token, size].

        Raises:
            ModelError: If there is no norm between the two.
        """
        given = self.attention[layer].given
        for passed in self.norms:
            if passed.output.data_ptr() == given.data_ptr() and passed.output.shape == given.shape:
                return passed.given[0].detach().float()
        got = f"no norm before the attention of layer {layer}"
        raise self.seen.misfit(got, "norms before attention (pre-norm)")

    def check_added(self, layer: int) -> None:
        """Refuse models that do something else with the attention's output than adding it.

        Raises:
            ModelError: If no norm takes the sum.
        """
        total = self.before(layer) + self.added(layer)
        for passed in self.norms:
            if passed.given.shape[1:] == total.shape:
                error = (passed.given[0].detach().float() - total).norm()
                if error <= max(_SAME, tolerance(passed.given.dtype)) * total.norm():
                    return
        got = f"the attention of layer {layer} runs beside the MLP, or is scaled"
        raise self.seen.misfit(got, "attention that is added to the residual stream, then normed")

    def aims(self, graph: Graph) -> torch.Tensor:
        """Return the directions of the targets before the last norm, [step, size]."""
        steps = range(graph.prediction.n_steps)
        wanted = torch.cat([graph.at_head(step)[0, step : step + 1] for step in steps]).float()
        for passed in reversed(self.norms):
            if graph.is_head(passed.output):
                x = passed.given[0, -len(steps) :].detach()
                return held_norm(passed.module, x.shape[-1], x).back(wanted, x)
        raise self.seen.misfit("no norm before the output layer", "a last norm")


@contextmanager
def _taken_apart(prediction: Prediction, method: str) -> Iterator[_Parts]:
    """Keep what attention modules, norms and matrices take and give in the pass inside the block.

    Raises:
        ModelError: If the method does not fit the model.
    """
    with ExitStack() as stack:
        seen = stack.enter_context(watched(prediction, method))
        parts = _Parts(seen)
        places = {module: place[1] for module, place in seen.survey.places.items()}

        def keep(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given = args[0] if args else kwargs.get("hidden_states")
            first = output[0] if isinstance(output, tuple) else output
            if (
                in_backward()
                or not isinstance(given, torch.Tensor)
                or not isinstance(first, torch.Tensor)
            ):
                return
            passed = _Passed(module, given, first)
            if module in places:
                parts.attention[places[module]] = passed
            elif is_norm(module):
                parts.norms.append(passed)
            if module in inner:
                parts.linear.setdefault(inner[module], []).append(passed)

        inner = {
            child: layer for module, layer in places.items() for child in module.children()
            if child not in places
        }  # fmt: skip
        for module in prediction.model.modules():
            if module in places or module in inner or is_norm(module):
                stack.callback(module.register_forward_hook(keep, with_kwargs=True).remove)
        yield parts


def _queries(prediction: Prediction) -> list[int]:
    return [step_query(prediction.n_prompt, step) for step in range(prediction.n_steps)]
