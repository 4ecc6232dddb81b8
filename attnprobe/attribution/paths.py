"""Integrated gradients: the gradient along the way from a baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from attnprobe.attribution.baselines import baseline
from attnprobe.attribution.gradients import along
from attnprobe.attribution.prediction import Prediction
from attnprobe.errors import SelectionError

BATCH_TOKENS = 4096
"""Tokens of the points of a path that share a forward pass."""

_SMALL_GAIN = 0.1
"""Gain over the baseline below which the error is held against this instead (nats or logits)."""


def integrated_gradients(prediction: Prediction) -> tuple[torch.Tensor, torch.Tensor]:
    """Credit a token with its share of the way from a baseline to the embeddings.

    Source: Sundararajan et al. 2017 (arXiv 1703.01365). The gradient is taken at points of the
    straight line from the baseline (the setting of that name) to the real vectors, by
    Gauss–Legendre quadrature with `points`, and times the difference. The scores of a step sum to
    what it gains over the baseline (completeness); how far they are off is kept as `delta`. While
    that is more than `tolerance` of the gain (or of 0.1, if the gain is smaller), the parts of the
    line whose scores do not sum to what is gained on them are halved, the worst first, until
    `max_points` are used: language models change abruptly somewhere on the line, and evenly spread
    points miss that. SmolLM2-135M jumps by several nats within a hundredth of the line, from
    whatever baseline, and took about 750 points for a tolerance of 1 % (a prompt of 13 tokens,
    from the mean vector).

    It misleads through its baseline: credit is given for being different from that, and a token
    that equals it gets none. Points between two token vectors are no tokens, and a model may do
    anything there; a large delta tells where it does.
    """
    settings = prediction.params
    _check_points(prediction)
    way = _Way(prediction, baseline(prediction), prediction.embeddings())
    before, after = way.values([0.0, 1.0])
    parts = way.parts([_Ends(0.0, 1.0, before, after)])
    gain = parts[0].gain.abs().clamp_min(_SMALL_GAIN)
    n_points = settings["points"]
    while True:
        errors = {part: float((part.error.abs() / gain).max()) for part in parts}
        if sum(errors.values()) <= settings["tolerance"]:
            break
        n_more = (settings["max_points"] - n_points) // (2 * settings["points"])
        allowed = settings["tolerance"] / (2 * len(parts))
        rough = [part for part in parts if errors[part] > allowed and part.ends.width > _SHORTEST]
        rough = sorted(rough, key=lambda part: -errors[part])[:n_more]
        if not rough:
            break
        parts = [part for part in parts if part not in rough] + way.halves(rough)
        n_points += 2 * settings["points"] * len(rough)
    scores = torch.stack([part.scores for part in parts]).sum(0)
    return scores, torch.stack([part.error for part in parts]).sum(0)


_SHORTEST = 2.0**-20
"""Share of the way that is not halved any more: float32 does not tell its ends apart."""


@dataclass(frozen=True, slots=True, eq=False)
class _Ends:
    """A part of the way, by its ends."""

    start: float
    stop: float
    before: torch.Tensor
    """What is explained at its start [row]."""
    after: torch.Tensor
    """And at its stop."""

    @property
    def width(self) -> float:
        """Its share of the way."""
        return self.stop - self.start

    @property
    def middle(self) -> float:
        """Where it is halved."""
        return (self.start + self.stop) / 2


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A part of the way, integrated."""

    ends: _Ends
    scores: torch.Tensor
    """[row, column]"""

    @property
    def gain(self) -> torch.Tensor:
        """What is gained on it."""
        return self.ends.after - self.ends.before

    @property
    def error(self) -> torch.Tensor:
        """The sum of the scores minus that."""
        return self.scores.sum(-1) - self.gain


class _Way:
    """The straight line from the baseline to the real vectors."""

    def __init__(self, prediction: Prediction, start: torch.Tensor, end: torch.Tensor) -> None:
        self._prediction, self._start, self._difference = prediction, start, end - start
        self._batch = max(1, BATCH_TOKENS // len(end))

    def at(self, points: torch.Tensor) -> torch.Tensor:
        """Return the vectors at some shares of the way: [point, source, size]."""
        return self._start + points[:, None, None].to(self._difference) * self._difference

    def values(self, points: Sequence[float]) -> list[torch.Tensor]:
        """Return what is explained there, without a gradient: [row] each."""
        found: list[torch.Tensor] = []
        with torch.no_grad():
            for some in torch.tensor(points).split(self._batch):
                found += self._prediction.by_row(self._prediction.values_of(self.at(some)))
        return [values.float().cpu() for values in found]

    def parts(self, ends: Sequence[_Ends]) -> list[_Part]:
        """Integrate parts of the way, as many points at once as share a batch."""
        at, shares = np.polynomial.legendre.leggauss(self._prediction.params["points"])
        starts = torch.tensor([one.start for one in ends], dtype=torch.float64)[:, None]
        widths = torch.tensor([one.width for one in ends], dtype=torch.float64)[:, None]
        points = (starts + widths * torch.from_numpy(at + 1) / 2).flatten()
        weights = (widths * torch.from_numpy(shares) / 2).float()
        found = torch.cat([self._along(some) for some in points.split(self._batch)])
        found = found.unflatten(0, weights.shape)
        return [
            _Part(one, torch.einsum("p,prc->rc", own, scores))
            for one, own, scores in zip(ends, weights, found, strict=True)
        ]

    def _along(self, points: torch.Tensor) -> torch.Tensor:
        """Multiply the gradients at some points with the difference: [point, row, column]."""
        vectors = self.at(points)
        return along(self._prediction, vectors, self._difference.expand_as(vectors))

    def halves(self, parts: Sequence[_Part]) -> list[_Part]:
        """Integrate both halves of parts anew."""
        ends: list[_Ends] = []
        there = self.values([part.ends.middle for part in parts])
        for part, value in zip(parts, there, strict=True):
            whole = part.ends
            ends.append(_Ends(whole.start, whole.middle, whole.before, value))
            ends.append(_Ends(whole.middle, whole.stop, value, whole.after))
        return self.parts(ends)


def _check_points(prediction: Prediction) -> None:
    for name in ("points", "max_points"):
        number = prediction.params[name]
        if not isinstance(number, int) or number < 1:
            raise SelectionError(
                "the path needs points", where=name, got=number, expected="a whole number ≥ 1"
            )
