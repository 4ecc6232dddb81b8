"""The test that comes first: does anything at all differ, in any layer, on any span?"""

from dataclasses import dataclass

import numpy as np
import xarray as xr


@dataclass(frozen=True, slots=True)
class Omnibus:
    """One p-value for a whole contrast.

    The family is layer × span (layer alone for measures without spans): the measure averaged over
    the heads of a layer, on each span that both sides have, tested like heads are, and the maximum
    statistic over all of them. Averaging makes a handful of well-measured cells out of hundreds of
    noisy ones, so that a small effect spread over a layer is found which no single head shows;
    heads of a layer add up in the residual stream, so their mean is what the layer does together.
    It is blind to heads that cancel: those are for the test of heads, which controls its error
    rate by itself and does not depend on this one.
    """

    p: float
    """p-value of the hypothesis that nothing differs anywhere."""
    p_smallest: float
    """The smallest it could have been."""
    n_tested: int
    """Cells of the family."""
    dims: tuple[str, ...]
    """Axes of the family, such as layer and key_role."""
    spans: tuple[str, ...]
    """Spans in the family; empty for measures without."""
    strongest: str
    """The cell with the smallest p-value."""
    estimate: float
    """Its estimate."""

    @property
    def family(self) -> str:
        """Name the family: `layer × span`."""
        words = {"query_role": "query", "key_role": "span"}
        return " × ".join(words.get(dim, dim) for dim in self.dims) or "the whole"

    def describe(self) -> dict[str, float | int | str | list[str] | None]:
        """Return everything as plain values."""
        return {
            "p": None if np.isnan(self.p) else self.p, "p_smallest": self.p_smallest,
            "n_tested": self.n_tested, "family": self.family, "spans": list(self.spans),
            "strongest": self.strongest, "estimate": self.estimate,
        }  # fmt: skip


def omnibus(effects: xr.Dataset) -> Omnibus | None:
    """Read the omnibus test off a comparison over its family.

    The smallest of p-values adjusted by the maximum statistic is the p-value of that maximum.

    Args:
        effects: A comparison over layer × span.

    Returns:
        The test; None if no cell could be tested.
    """
    p_adjusted = effects["p_adjusted"].values
    if np.isnan(p_adjusted).all():
        return None
    sizes = [np.abs(effects[name].values) for name in effects.data_vars if str(name)[:2] == "g_"]
    size = np.nan_to_num(sizes[0], nan=0.0).ravel()
    order = np.lexsort((-size, np.nan_to_num(p_adjusted, nan=2.0).ravel()))
    place = np.unravel_index(order[0], p_adjusted.shape)
    best = effects.isel(dict(zip(effects["estimate"].dims, place, strict=True)))
    spans = effects["key_role"].values.tolist() if "key_role" in effects.dims else []
    return Omnibus(
        p=best["p_adjusted"].item(),
        p_smallest=effects.attrs["p_smallest"],
        n_tested=effects.attrs["n_tested"],
        dims=tuple(str(dim) for dim in effects["estimate"].dims),
        spans=tuple(map(str, spans)),
        strongest=cell_name({str(dim): best[dim].item() for dim in effects["estimate"].dims}),
        estimate=best["estimate"].item(),
    )


def cell_name(labels: dict[str, int | str]) -> str:
    """Name a cell: `layer 3 head 7`, `layer 3 → history`, `answer → history`."""
    parts = [f"{dim} {labels[dim]}" for dim in ("layer", "head") if dim in labels]
    if "query_role" in labels:
        parts.append(str(labels["query_role"]))
    named = " ".join(parts)
    if "key_role" in labels:
        named = f"{named} → {labels['key_role']}".strip()
    return named or "the whole"
