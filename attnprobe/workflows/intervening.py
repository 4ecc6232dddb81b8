"""Sets of heads, kept from looking or replaced, and what becomes of predictions."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from attnprobe.attention import Edge, HeadOutputs, ablate_heads, head_outputs, knockout
from attnprobe.contrasts.splitting import Heads
from attnprobe.errors import AttnprobeError
from attnprobe.models import LoadedModel
from attnprobe.store import Run
from attnprobe.types import Encoding
from attnprobe.workflows.cuts import edges_between, outcome_positions
from attnprobe.workflows.outcomes import log_probs, refuse_virtual
from attnprobe.workflows.passes import passes


@dataclass(frozen=True, slots=True)
class Intervention:
    """What can be done to heads."""

    needs_key: bool
    """Whether it is about one role that is looked at."""


INTERVENTIONS = {
    "knockout": Intervention(needs_key=True),
    "ablation": Intervention(needs_key=False),
}
"""`knockout`: the heads do not see the key role from the steps that look. `ablation`: at those
steps, what the heads give is replaced."""


@dataclass(frozen=True, slots=True)
class Intervening:
    """What is done to which heads."""

    query: str
    key: str
    sets: tuple[Heads, ...]
    """Heads of each set; the first are the chosen ones, the others their control."""
    names: tuple[str, ...]
    """Of `INTERVENTIONS`."""
    mode: str
    written: bool
    batch_size: int
    seed: int


Found = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""By outcome: without intervention [record], and with each [record, intervention, set]."""


def intervene(
    run: Run,
    ids: Sequence[str],
    loaded: LoadedModel,
    plan: Intervening,
    references: Sequence[Encoding],
    on_progress: Callable[[int, int], None],
) -> Found:
    """Run records without and with each intervention on each set of heads.

    Args:
        run: An open run.
        ids: Records.
        loaded: Its model.
        plan: What is done.
        references: Records over which heads' usual outputs are taken.
        on_progress: Called with records done and records in all.

    Returns:
        Outcomes; NaN where a record has none.
    """
    usual = None
    on_progress(0, len(ids))
    if "ablation" in plan.names and plan.mode != "zero":
        layers = sorted({layer for heads in plan.sets for layer, _ in heads})
        usual = head_outputs(
            loaded.model, [one.ids for one in references], layers=layers, seed=plan.seed
        )
    found: dict[str, list[np.ndarray]] = {"log_prob": []}
    if plan.written:
        found["passed"] = []
    for done, record_id in enumerate(ids, start=1):
        try:
            for name, values in _outcomes(loaded, run.encoding(record_id), plan, usual).items():
                found[name].append(values)
        except AttnprobeError as error:
            where = ", ".join(filter(None, (f"record '{record_id}'", error.where)))
            raise type(error)(
                error.what, where=where, got=error.got, expected=error.expected, fix=error.fix
            ) from error
        on_progress(done, len(ids))
    shape = len(ids), len(plan.names), len(plan.sets)
    stacked = {name: np.array(values) for name, values in found.items()}
    return {name: (all_[:, 0], all_[:, 1:].reshape(shape)) for name, all_ in stacked.items()}


def _outcomes(
    loaded: LoadedModel, encoding: Encoding, plan: Intervening, usual: HeadOutputs | None
) -> dict[str, Float[np.ndarray, " change"]]:
    """Return outcomes of one record: without intervention, then by intervention and set."""
    refuse_virtual(encoding)
    names = ("log_prob", "passed") if plan.written else ("log_prob",)
    found = {name: np.full(1 + len(plan.names) * len(plan.sets), np.nan) for name in names}
    positions = outcome_positions(encoding, plan.query)
    if not positions:
        return found
    acts: list[Callable[[], dict[str, list[float]]]] = [
        lambda: _measured(loaded, encoding, positions, plan, [[]])
    ]
    for name in plan.names:
        if name == "knockout":
            cuts = [_edges(encoding, plan, heads) for heads in plan.sets]
            acts.append(lambda cuts=cuts: _measured(loaded, encoding, positions, plan, cuts))
        else:
            acts += [
                lambda heads=heads: _measured(
                    loaded, encoding, positions, plan, [[]],
                    lambda stop: _ablated(loaded, heads, usual, plan, positions[0] - 1, stop),
                )
                for heads in plan.sets
            ]  # fmt: skip
    parts = [act() for act in acts]
    for name in names:
        found[name][:] = [value for part in parts for value in part[name]]
    return found


def _edges(encoding: Encoding, plan: Intervening, heads: Heads) -> list[Edge]:
    """Hide the key role from the query role in these heads."""
    return [
        edge._replace(layers=(layer,), heads=[head for at, head in heads if at == layer])
        for edge in edges_between(encoding, plan.query, plan.key, None)
        for layer in sorted({layer for layer, _ in heads})
    ]


def _ablated(
    loaded: LoadedModel, heads: Heads, usual: HeadOutputs | None, plan: Intervening, start: int,
    stop: int | None,
) -> AbstractContextManager[None]:  # fmt: skip
    return ablate_heads(
        loaded.model, heads, usual, mode=plan.mode, queries=(start, stop), seed=plan.seed
    )


def _measured(
    loaded: LoadedModel,
    encoding: Encoding,
    positions: Sequence[int],
    plan: Intervening,
    cuts: Sequence[Sequence[Edge]],
    edited: Callable[[int | None], AbstractContextManager[None]] = lambda stop: nullcontext(),
) -> dict[str, list[float]]:
    """Return the outcomes of one record under each cut, in a model that may be edited besides.

    What is written goes on to whatever end, and so does an edit then.
    """
    steps = [position - 1 for position in positions]
    found: dict[str, list[float]] = {"log_prob": [], "passed": []}
    for start in range(0, len(cuts), plan.batch_size):
        some = cuts[start : start + plan.batch_size]
        with edited(positions[-1]), knockout(loaded.model, per_example=some):
            probs = log_probs(loaded, [encoding.ids.tolist()] * len(some), first=encoding.n_prompt)
        found["log_prob"] += probs[:, steps].sum(axis=1).tolist()
        if plan.written:
            with edited(None):
                found["passed"] += passes(loaded, encoding, positions[0], some)
    return found
