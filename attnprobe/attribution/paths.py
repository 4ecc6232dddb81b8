"""Integrated gradients: the gradient along the way from a baseline."""

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
    line whose scores do not sum to what is gained on them are halved, until `max_points` are used:
    language models change abruptly somewhere on the line, and evenly spread points miss that.

    It misleads through its baseline: credit is given for being different from that, and a token
    that equals it gets none. Points between two token vectors are no tokens, and a model may do
    anything there; a large delta tells where it does.
    """
    settings = prediction.params
    _check_points(prediction)
    way = _Way(prediction, baseline(prediction), prediction.embeddings())
    parts = [way.part(0.0, 1.0, *way.values([0.0, 1.0]))]
    gain = parts[0].gain.abs().clamp_min(_SMALL_GAIN)
    n_points = settings["points"]
    while True:
        errors = [float((part.error.abs() / gain).max()) for part in parts]
        allowed = settings["tolerance"] / (2 * len(parts))
        rough = [part for part, error in zip(parts, errors, strict=True) if error > allowed]
        rough = [part for part in rough if part.stop - part.start > _SHORTEST]
        n_points += 2 * settings["points"] * len(rough)
        if sum(errors) <= settings["tolerance"] or not rough or n_points > settings["max_points"]:
            break
        parts = [part for part in parts if part not in rough]
        parts += [half for part in rough for half in way.halves(part)]
    scores = torch.stack([part.scores for part in parts]).sum(0)
    return scores, torch.stack([part.error for part in parts]).sum(0)


_SHORTEST = 2.0**-20
"""Share of the way that is not halved any more: float32 does not tell its ends apart."""


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A part of the way, integrated."""

    start: float
    stop: float
    before: torch.Tensor
    """What is explained at its start [row]."""
    after: torch.Tensor
    """And at its stop."""
    scores: torch.Tensor
    """[row, column]"""

    @property
    def gain(self) -> torch.Tensor:
        """What is gained on it."""
        return self.after - self.before

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

    def values(self, points: list[float]) -> list[torch.Tensor]:
        """Return what is explained there, without a gradient: [row] each."""
        with torch.no_grad():
            values = self._prediction.values_of(self.at(torch.tensor(points)))
        return list(self._prediction.by_row(values).float().cpu())

    def part(self, start: float, stop: float, before: torch.Tensor, after: torch.Tensor) -> _Part:
        """Integrate a part of the way, as many points at once as share a batch."""
        at, shares = np.polynomial.legendre.leggauss(self._prediction.params["points"])
        at = torch.tensor(start + (stop - start) * (at + 1) / 2)
        shares = torch.tensor((stop - start) * shares / 2).float()
        scores = self._prediction.no_scores()
        for some, weights in zip(at.split(self._batch), shares.split(self._batch), strict=True):
            vectors = self.at(some)
            found = along(self._prediction, vectors, self._difference.expand_as(vectors))
            scores += torch.einsum("p,prc->rc", weights, found)
        return _Part(start, stop, before, after, scores)

    def halves(self, part: _Part) -> tuple[_Part, _Part]:
        """Integrate both halves of a part anew."""
        middle = (part.start + part.stop) / 2
        (there,) = self.values([middle])
        return (
            self.part(part.start, middle, part.before, there),
            self.part(middle, part.stop, there, part.after),
        )


def _check_points(prediction: Prediction) -> None:
    for name in ("points", "max_points"):
        number = prediction.params[name]
        if not isinstance(number, int) or number < 1:
            raise SelectionError(
                "the path needs points", where=name, got=number, expected="a whole number ≥ 1"
            )
