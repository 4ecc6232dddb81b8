"""How a capture proves itself: weights that merely sum to 1 are no evidence."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int

from attnprobe.attention.calls import Call
from attnprobe.attention.rows import rows_times_values
from attnprobe.errors import CertificateError

N_PROBES = 4
"""Rows per record and layer that are held against the model's own output."""

TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
LOW_PRECISION_TOLERANCE = 3e-2
UNPROVEN = torch.finfo(torch.float32).max
"""Stands for the error of a layer that nothing proves."""
_SMALLEST = 1e-3
"""Share of the values' scale below which an output is rounding noise, not a reference."""


def tolerance(dtype: torch.dtype) -> float:
    """Return the largest relative error that rounding explains, for a model of this dtype."""
    return TOLERANCE.get(dtype, LOW_PRECISION_TOLERANCE)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The proof that comes with a recording."""

    route: str
    """How attention was reached: `interface` or `interception`."""
    tolerance: float
    """Largest relative error accepted."""
    errors: dict[int, Float[torch.Tensor, " batch"]] = field(default_factory=dict)
    """Per layer, the worst relative error of each example over its probe rows; the largest float32
    where nothing proves the layer."""
    unproven: dict[int, str] = field(default_factory=dict)
    """Why nothing proves a layer; empty unless `Survey(…, uncertified=True)` allowed it."""

    @property
    def worst(self) -> dict[int, float]:
        """The worst relative error per layer."""
        return {layer: float(errors.max()) for layer, errors in self.errors.items()}

    def check(self, model: str) -> None:
        """Refuse the recording if any layer fails.

        Raises:
            CertificateError: Naming the worst layer, its error and the model.
        """
        if not self.errors:
            raise CertificateError(
                "no attention was seen during the forward pass", where=model,
                fix="run the model inside the block",
            )  # fmt: skip
        for layer, error in self.worst.items():
            if not error <= self.tolerance and layer not in self.unproven:
                raise CertificateError(
                    "the captured attention is not what the model used",
                    where=f"{model}, layer {layer}", got=f"relative error {error:.2g}",
                    expected=f"at most {self.tolerance:.0e}",
                    fix="nothing was stored; please report model and library versions",
                )  # fmt: skip


def row_errors(
    weights: Float[torch.Tensor, "batch head query key"],
    call: Call,
    output: torch.Tensor,
    columns: Int[torch.Tensor, "batch query"],
) -> Float[torch.Tensor, " batch"]:
    """Hold rows·V against the output that the model went on with.

    Args:
        weights: Rows of the probe queries.
        call: The attention call they belong to.
        output: [batch, query, head, value size], as returned to the model.
        columns: The probe queries.

    Returns:
        Per example, the worst over heads and rows of ‖rows·V − output‖ / ‖output‖. Where an
        output is tiny against the values it was mixed from, those set the scale. Of a head whose
        values are all 0, an output of 0 is no error.
    """
    if call.value is None:
        raise ValueError("a call without values")
    mixed = rows_times_values(weights, call)
    examples = torch.arange(len(columns), device=columns.device)[:, None]
    used = output[examples, columns].transpose(1, 2).float()
    scale = call.value.float().norm(dim=-1).amax(-1)
    scale = scale.repeat_interleave(used.shape[1] // scale.shape[1], dim=1)[..., None]
    off = (mixed - used).norm(dim=-1)
    error = off / used.norm(dim=-1).maximum(_SMALLEST * scale)
    return _worst(torch.where(off == 0, 0.0, error))


def pool_errors(
    pooled: Float[torch.Tensor, "batch head query span"],
    summed: Float[torch.Tensor, "batch head query span"],
) -> Float[torch.Tensor, " batch"]:
    """Hold pooled masses of the probe queries against their rows, summed.

    Returns:
        Per example, the largest absolute difference (a mass is a probability, so this is relative
        to the whole row).
    """
    return _worst((pooled - summed).abs())


def _worst(error: torch.Tensor) -> torch.Tensor:
    """Take the worst per example; NaN counts as worst of all."""
    return torch.nan_to_num(error, nan=torch.inf).flatten(1).amax(1)
