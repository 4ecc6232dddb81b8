"""The attention of the forward pass that is attributed, with its gradients, layer by layer."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from attnprobe.attention import Survey
from attnprobe.attention.calls import SELF, AttentionCall, Call
from attnprobe.attention.certificate import N_PROBES, row_errors, tolerance
from attnprobe.attention.compat import in_backward, observed
from attnprobe.attention.rows import softmax_rows
from attnprobe.attention.survey import INTERFACE
from attnprobe.attribution.prediction import Prediction
from attnprobe.errors import CertificateError, ModelError

OTHER_METHODS = "use one that works on every model, such as input_x_gradient or feature_ablation"


class Watched:
    """What each layer's attention was given and gave; an observer of attention calls."""

    def __init__(self, survey: Survey, n_keys: int, method: str) -> None:
        self.survey = survey
        self.calls: dict[int, AttentionCall] = {}
        """By layer."""
        self.outputs: dict[int, torch.Tensor] = {}
        """[batch, query, head, value size], in the graph, by layer."""
        self._n_keys, self._method = n_keys, method

    @property
    def layers(self) -> list[int]:
        """Layers that attended, the first one first."""
        return sorted(self.calls)

    def observe(self, call: Call, output: torch.Tensor | None) -> None:
        """Take a call, unless it is repeated for a backward pass."""
        if in_backward():
            return
        if not isinstance(call, AttentionCall) or output is None or call.kind != SELF:
            raise self.misfit(f"attention of kind '{call.kind}'", "self-attention alone")
        if call.layer in self.calls:
            raise self.misfit(f"two attentions in layer {call.layer}", "one in each layer")
        if call.n_keys != self._n_keys:
            got = f"{call.n_keys} keys for {self._n_keys} tokens"
            raise self.misfit(got, "a key for each token, and no others")
        self.calls[call.layer], self.outputs[call.layer] = call, output

    def weights(self, layer: int) -> torch.Tensor:
        """Return the weights of a layer, [head, query, key], proven by its output.

        Raises:
            CertificateError: If they are not what the model used.
        """
        call = self.calls[layer]
        with torch.no_grad():
            columns = torch.arange(call.n_queries, device=call.query.device)[None]
            rows = softmax_rows(call, columns)
            probes = columns[:, -N_PROBES:]
            output = self.outputs[layer].detach()
            error = float(row_errors(rows[:, :, -N_PROBES:], call, output, probes).max())
        if not error <= tolerance(output.dtype):
            raise CertificateError(
                "the attention that was seen is not what the model used",
                where=f"{self.survey.name}, layer {layer}", got=f"relative error {error:.2g}",
                fix=f"'{self._method}' cannot be used; {OTHER_METHODS}",
            )  # fmt: skip
        return rows[0]

    def misfit(self, got: str, expected: str) -> ModelError:
        """Word that a method does not fit a model."""
        return ModelError(
            "this method does not fit the model", where=f"'{self._method}', {self.survey.name}",
            got=got, expected=expected, fix=OTHER_METHODS,
        )  # fmt: skip


@contextmanager
def watched(prediction: Prediction, method: str) -> Iterator[Watched]:
    """Watch the attention of the one forward pass inside the block.

    Raises:
        ModelError: If some of what mixes tokens is not attention, or cannot be reached.
    """
    survey = Survey(prediction.model)
    seen = Watched(survey, prediction.n_tokens - 1, method)
    if survey.route != INTERFACE:
        raise seen.misfit("attention in code of its own", "transformers' attention interface")
    n_layers = getattr(survey.inner.config, "num_hidden_layers", len(survey.layers))
    if len(survey.layers) < n_layers:
        got = f"{len(survey.layers)} of {n_layers} layers attend"
        raise seen.misfit(got, "attention in every layer")
    with observed(survey, seen):
        yield seen
