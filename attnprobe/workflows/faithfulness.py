"""A run with attributions and its model → whether what a method points at matters."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from attnprobe.contrasts import Changes, Outcomes, changes
from attnprobe.contrasts.curves import Losses, loss_curves
from attnprobe.contrasts.inputs import require_seed
from attnprobe.errors import AttnprobeError, SelectionError, nearest
from attnprobe.measures.roles import require_role
from attnprobe.models import LoadedModel
from attnprobe.store import Run
from attnprobe.workflows.choosing import chosen_records, require_units
from attnprobe.workflows.cuts import outcome_positions
from attnprobe.workflows.perturbing import PERTURBATIONS
from attnprobe.workflows.reloading import reload_model
from attnprobe.workflows.removing import Removal, losses_along, metrics_of, removal_grid

ATTENTION = "attention"
"""Name of the ranking by stored attention, averaged over layers and heads."""
RANDOM = "random"
"""Name of the random rankings."""
METRICS = ("comprehensiveness", "sufficiency", "morf", "lerf")
AXES = ("method", "metric", "perturbation")


@dataclass(frozen=True, slots=True)
class FaithfulnessSettings:
    """Which rankings are tested, and how."""

    methods: tuple[str, ...] | None = None
    """Stored attribution methods, or `attention`; None for all that the run holds."""
    perturbations: tuple[str, ...] = tuple(PERTURBATIONS)
    """Ways of taking tokens away; see `PERTURBATIONS`."""
    outcome: str = "answer"
    """Role of the predicted tokens whose log-probability counts."""
    fractions: tuple[float, ...] = (0.1, 0.2, 0.5)
    """Shares of tokens that are taken away, and that are kept."""
    n_random: int = 3
    """Random rankings that every method is held against, averaged."""
    records: int | None = None
    """At most so many records of each style, the first ones."""
    batch_size: int = 8
    """Variants of a record that share a forward pass."""
    by: Literal["task", "item"] = "task"
    """`task` for claims about new tasks, `item` for these tasks only."""
    seed: int = 0
    """Of random rankings, substitutes and resamples."""

    def __post_init__(self) -> None:
        require_seed(self.seed)
        for name in self.perturbations:
            if name not in PERTURBATIONS:
                raise SelectionError(
                    "no such perturbation", where="--perturbation", got=name,
                    fix=nearest(name, PERTURBATIONS),
                )  # fmt: skip
        if not self.perturbations:
            raise SelectionError("nothing to test by", where="--perturbation")
        if not self.fractions or not all(0 < share < 1 for share in self.fractions):
            raise SelectionError(
                "shares of tokens lie between 0 and 1", where="fractions", got=self.fractions
            )
        for name in ("n_random", "batch_size", "records"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SelectionError(
                    "too small", where=f"--{name.replace('_', '-')}", got=value, expected="≥ 1"
                )

    @property
    def removal(self) -> Removal:
        """How much is taken away."""
        return Removal(self.fractions, self.n_random, self.batch_size, self.seed)


def faithfulness_changes(
    run: Run,
    settings: FaithfulnessSettings | None = None,
    model: str | LoadedModel | None = None,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Changes:
    """Take away the tokens that a method ranks high, or low, and see the answer's log-probability.

    `comprehensiveness` is what is lost on average without the highest-ranked shares of tokens,
    `sufficiency` what is lost with only those kept (DeYoung et al. 2020, ERASER). `morf` and `lerf`
    are the areas under the loss while tokens are taken away from the highest rank down, or from
    the lowest up (Samek et al. 2017). All are in nats of the sum over the answer's tokens; a good
    ranking has high comprehensiveness and MoRF area, low sufficiency and LeRF area. Each is held
    against random rankings of the same tokens.

    The methods are compared by what the model does with texts it never met, so each perturbation
    favours the methods that resemble it; agreement of all three is what counts. Tokens are ranked
    by their signed scores, summed over the answer's steps.

    Args:
        run: An open run that holds attributions, or attention rows.
        settings: What to test.
        model: The model or its name, where it is not found under the name in the run.
        device: Where it runs.
        trust_remote_code: Run the code that comes with it.
        on_progress: Called with records done and records in all.

    Returns:
        By perturbation: difference from random rankings for every method (`window`) and metric
        (`span`), paired by record; `before` is the random rankings' value. With them `curves`: what
        is lost along the way, for every method and random rankings.

    Raises:
        SelectionError: If the run holds no ranking of that name, or no such role.
        ModelError: If the model is not there, or is another than that of the run.
        ContrastError: If there are too few tasks or items.
    """
    settings = settings or FaithfulnessSettings()
    ids = chosen_records(run, settings.records)
    methods = _methods(run, settings.methods)
    require_role(
        settings.outcome, {s.role for one in ids for s in run.encoding(one).spans}, "outcome role"
    )
    require_units(run, ids, settings.by)
    loaded = reload_model(run, model, device=device, trust_remote_code=trust_remote_code)
    found: dict[str, list[np.ndarray]] = {name: [] for name in settings.perturbations}
    on_progress(0, len(ids))
    for done, record_id in enumerate(ids):
        try:
            rankings = [_scores(run, record_id, method, settings.outcome) for method in methods]
            encoding = run.encoding(record_id)
            positions = outcome_positions(encoding, settings.outcome)
            for name, losses in found.items():
                how = PERTURBATIONS[name]
                losses.append(
                    losses_along(loaded, encoding, positions, rankings, how, settings.removal)
                )
        except AttnprobeError as error:
            where = ", ".join(filter(None, (f"record '{record_id}'", error.where)))
            raise type(error)(
                error.what, where=where, got=error.got, expected=error.expected, fix=error.fix
            ) from error
        on_progress(done + 1, len(ids))
    if all(np.isnan(losses).all() for losses in found.values()):
        raise SelectionError(
            "no record has tokens to take away and a prediction to look at", where=str(run.path),
            got=f"perturbations {', '.join(settings.perturbations)}, outcome {settings.outcome}",
        )  # fmt: skip
    listed = run.records.loc[ids]
    return summary(
        {name: np.stack(losses) for name, losses in found.items()}, methods,
        Units(tuple(listed["task"]), tuple(listed["style"])), settings, loaded.name,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Units:
    """What the records are, whose losses are summed up."""

    tasks: tuple[str, ...]
    """Of each record."""
    styles: tuple[str, ...]
    """Likewise."""


def summary(
    found: Mapping[str, Float[np.ndarray, "record ranking way share"]],
    methods: tuple[str, ...],
    units: Units,
    settings: FaithfulnessSettings,
    model: str,
) -> Changes:
    """Sum up the losses of records, by perturbation, as metrics and as curves.

    Args:
        found: By perturbation, what `losses_along` returned for each record.
        methods: What made the rankings, without the random ones in the last place.
        units: Tasks and styles of the records.
        settings: What was tested.
        model: Name of the model.

    Returns:
        As of `faithfulness_changes`.

    Raises:
        ContrastError: If there are too few tasks or items.
    """
    there = {name: losses for name, losses in found.items() if not np.isnan(losses).all()}
    metrics = {
        name: metrics_of(losses[:, :, 0], losses[:, :, 1], settings.fractions)
        for name, losses in there.items()
    }
    outcomes = {
        name: Outcomes(
            before=np.broadcast_to(values[:, -1:], values[:, :-1].shape).copy(),
            after=values[:, :-1], tasks=units.tasks, styles=units.styles, windows=methods,
            spans=METRICS,
        )
        for name, values in metrics.items()
    }  # fmt: skip
    title = f"{settings.outcome}: rankings against random ones"
    told = asdict(settings) | {"model": model}
    done = changes(outcomes, title, by=settings.by, rng=settings.seed, settings=told, axes=AXES)
    grid, by = removal_grid(settings.fractions), settings.by
    curves: list[dict[str, Any]] = []
    for name, losses in there.items():
        given = Losses(name, losses, (*methods, RANDOM), grid, units.tasks, units.styles)
        curves += loss_curves(given, by=by, rng=settings.seed)
    return replace(done, curves=tuple(curves))


def _methods(run: Run, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    has_rows = bool({"rows", "full"} & set(run.keep))
    there = (*run.attributions, *((ATTENTION,) if has_rows else ()))
    if not there:
        raise SelectionError(
            "the run holds nothing that ranks tokens", where=str(run.path),
            fix="extract again with --attribute input_x_gradient, or --keep rows",
        )  # fmt: skip
    for method in asked or ():
        if method not in there:
            raise SelectionError(
                f"no ranking by '{method}'", where=str(run.path), fix=nearest(method, there)
            )
    return asked or there


def _scores(run: Run, record_id: str, method: str, outcome: str) -> Float[np.ndarray, " token"]:
    """Return the credit of each token of the prompt for a role's tokens together."""
    encoding = run.encoding(record_id)
    steps = [at - encoding.n_prompt for at in outcome_positions(encoding, outcome)]
    if method == ATTENTION and method not in run.attributions:
        weights = run.weights(record_id).mean(("layer", "head")).values
        rows = weights[-encoding.n_steps :]
    else:
        rows = run.attribution(record_id, method).values
    return np.nan_to_num(rows[steps][:, : encoding.n_prompt].astype(np.float64)).sum(axis=0)
