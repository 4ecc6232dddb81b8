"""What the passes of a recording gave, put together to whole tensors."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int

from attnprobe.attention.passes import PassPlan

Tensors = dict[int, torch.Tensor]


@dataclass(slots=True)
class _Piece:
    """One pass's part of one layer's tensor."""

    plan: PassPlan
    tensor: torch.Tensor
    first_key: int
    """Column of the tensor's first key; 0 where its last dim is no key axis."""


class Pieces:
    """The parts of one kind of attention, by name and layer, in the order of the passes."""

    def __init__(self) -> None:
        self.errors: dict[int, torch.Tensor] = {}
        self._pieces: dict[str, dict[int, list[_Piece]]] = defaultdict(lambda: defaultdict(list))
        self._lineage: list[torch.Tensor] | None = None

    def add(
        self,
        name: str,
        layer: int,
        plan: PassPlan,
        tensor: torch.Tensor,
        extent: tuple[int, int] | None = None,
    ) -> None:
        """Take one pass's part; `extent` is the range of key columns it may speak of."""
        first = 0
        if extent is not None:
            first = extent[0]
            if tensor.shape[-1] > extent[1] - first:  # a static cache has room for more keys
                tensor = tensor[..., : extent[1] - first]
        self._pieces[name][layer].append(_Piece(plan, tensor, first))

    def certify(self, layer: int, error: torch.Tensor) -> None:
        """Keep the worst error of each example."""
        known = self.errors.get(layer)
        self.errors[layer] = error if known is None else known.maximum(error)

    def follow(self, lineage: Sequence[Int[torch.Tensor, " sequence"]]) -> None:
        """Take, of every pass, the rows of the beams that the returned sequences came from."""
        self._lineage = list(lineage)

    def over_keys(self, name: str, n_rows: int, n_keys: int) -> Tensors:
        """Put rows over keys together; keys that a pass could not see are 0 (or False)."""
        made: dict[int, torch.Tensor] = {}

        def assemble(parts: list[_Piece]) -> torch.Tensor:
            if len(parts) == 1 and parts[0].tensor.shape[-1] == n_keys and self._lineage is None:
                return _blank(parts[0].tensor, parts[0].plan.real)
            return self._scattered(parts, n_rows, n_keys)

        return {layer: _once(made, parts, assemble) for layer, parts in self._pieces[name].items()}

    def over_spans(
        self, name: str, n_rows: int, blank: Bool[torch.Tensor, "batch span"] | None
    ) -> Tensors:
        """Put chosen rows over spans together."""
        whole = {}
        for layer, parts in self._pieces[name].items():
            whole[layer] = _no_span(
                self._scattered(parts, n_rows, parts[0].tensor.shape[-1]), blank
            )
        return whole

    def over_columns(self, name: str, blank: Bool[torch.Tensor, "batch span"] | None) -> Tensors:
        """Put what every query has together; rows of pads are NaN where values can be."""
        made: dict[int, torch.Tensor] = {}

        def assemble(parts: list[_Piece]) -> torch.Tensor:
            tensors = [
                _blank(part.tensor, ~part.plan.pads)[self._index(number)]
                for number, part in enumerate(parts)
            ]
            whole = tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=-2)
            return _no_span(whole, blank)

        return {layer: _once(made, parts, assemble) for layer, parts in self._pieces[name].items()}

    def _index(self, number: int) -> "slice | torch.Tensor":
        return slice(None) if self._lineage is None else self._lineage[number]

    def _scattered(self, parts: list[_Piece], n_rows: int, width: int) -> torch.Tensor:
        """Lay the rows of all passes out; rows that no pass gave are NaN."""
        first = parts[0].tensor[self._index(0)]
        floating = first.is_floating_point()
        shape = (*first.shape[:-2], n_rows, width)
        whole = first.new_full(shape, torch.nan) if floating else first.new_zeros(shape)
        for number, part in enumerate(parts):
            index = self._index(number)
            tensor, plan = part.tensor[index], part.plan
            real, slots = plan.real[index], plan.slots[index]
            where = torch.nonzero(real, as_tuple=True)
            to = (where[0].to(tensor.device), slots[where].to(tensor.device))
            rows = tensor.new_zeros((len(to[0]), *first.shape[1:-2], width))
            taken = tensor.movedim(-2, 1)[to[0], where[1].to(tensor.device)]
            rows[..., part.first_key : part.first_key + taken.shape[-1]] = taken
            whole.movedim(-2, 1)[to] = rows
        return whole


def _once(
    made: dict[int, torch.Tensor],
    parts: list[_Piece],
    assemble: Callable[[list[_Piece]], torch.Tensor],
) -> torch.Tensor:
    """Assemble tensors that layers share only once."""
    key = hash(tuple(id(part.tensor) for part in parts))
    if key not in made:
        made[key] = assemble(parts)
    return made[key]


def _blank(tensor: torch.Tensor, real: Bool[torch.Tensor, "batch row"]) -> torch.Tensor:
    """Set rows that an example does not have to NaN; counts and truth values stay."""
    if not tensor.is_floating_point() or bool(real.all()):
        return tensor
    return tensor.masked_fill(~real.to(tensor.device)[:, None, :, None], torch.nan)


def _no_span(masses: torch.Tensor, blank: Bool[torch.Tensor, "batch span"] | None) -> torch.Tensor:
    if blank is None or not masses.is_floating_point():
        return masses
    return masses.masked_fill(blank.to(masses.device)[:, None, None], torch.nan)
