"""A run with attributions and its model → whether what a method points at matters."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from attnprobe.contrasts import Changes, Outcomes, changes
from attnprobe.errors import AttnprobeError, SelectionError, nearest
from attnprobe.measures.roles import require_role
from attnprobe.models import LoadedModel
from attnprobe.store import Run
from attnprobe.types import Encoding
from attnprobe.workflows.knockout import chosen_records, outcome_positions
from attnprobe.workflows.outcomes import refuse_virtual
from attnprobe.workflows.perturbing import PERTURBATIONS, Perturbation
from attnprobe.workflows.reloading import reload_model

ATTENTION = "attention"
"""Name of the ranking by stored attention, averaged over layers and heads."""
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
        (`span`), paired by record; `before` is the random rankings' value.

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
    loaded = reload_model(run, model, device=device, trust_remote_code=trust_remote_code)
    found = np.full((len(settings.perturbations), len(ids), len(methods) + 1, 4), np.nan)
    on_progress(0, len(ids))
    for done, record_id in enumerate(ids):
        try:
            rankings = [_scores(run, record_id, method, settings.outcome) for method in methods]
            for place, name in enumerate(settings.perturbations):
                found[place, done] = _metrics(
                    loaded, run.encoding(record_id), rankings, PERTURBATIONS[name], settings
                )
        except AttnprobeError as error:
            where = ", ".join(filter(None, (f"record '{record_id}'", error.where)))
            raise type(error)(
                error.what, where=where, got=error.got, expected=error.expected, fix=error.fix
            ) from error
        on_progress(done + 1, len(ids))
    listed = run.records.loc[ids]
    outcomes = {
        name: Outcomes(
            before=np.broadcast_to(values[:, -1:], values[:, :-1].shape).copy(),
            after=values[:, :-1],
            tasks=tuple(listed["task"]),
            styles=tuple(listed["style"]),
            windows=methods,
            spans=METRICS,
        )
        for name, values in zip(settings.perturbations, found, strict=True)
        if not np.isnan(values).all()
    }
    if not outcomes:
        raise SelectionError(
            "no record has tokens to take away and a prediction to look at", where=str(run.path),
            got=f"perturbations {', '.join(settings.perturbations)}, outcome {settings.outcome}",
        )  # fmt: skip
    return changes(
        outcomes, f"{settings.outcome}: rankings against random ones", by=settings.by,
        rng=settings.seed, settings=asdict(settings) | {"model": loaded.name}, axes=AXES,
    )  # fmt: skip


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


def _metrics(
    loaded: LoadedModel,
    encoding: Encoding,
    rankings: Sequence[Float[np.ndarray, " token"]],
    perturbation: Perturbation,
    settings: FaithfulnessSettings,
) -> Float[np.ndarray, "method metric"]:
    """Return the four metrics of each ranking, and in the last row those of random ones."""
    refuse_virtual(encoding)
    positions = outcome_positions(encoding, settings.outcome)
    candidates = np.array(perturbation.candidates(loaded, encoding), np.int64)
    blank = np.full((len(rankings) + 1, len(METRICS)), np.nan)
    if not positions or len(candidates) < 2:
        return blank
    rng = np.random.default_rng([settings.seed, *encoding.record.id.encode()])
    scores = [ranking[candidates] for ranking in rankings]
    scores += [rng.random(len(candidates)) for _ in range(settings.n_random)]
    # the highest first; equal ones in random order
    orders = [candidates[np.lexsort((rng.random(len(one)), -one))] for one in scores]
    grid = removal_grid(settings.fractions)
    counts = [max(1, round(share * len(candidates))) for share in grid]
    variants = {(): 0}
    for order in orders:
        for one in (order, order[::-1]):
            for count in counts:
                variants.setdefault(tuple(sorted(one[:count].tolist())), len(variants))
    values = _values(loaded, encoding, list(variants), positions, perturbation, settings)
    losses = values[0] - values

    def along(order: np.ndarray) -> np.ndarray:
        removed = (tuple(sorted(order[:count].tolist())) for count in counts)
        return np.array([losses[variants[one]] for one in removed])

    found = [metrics_of(along(order), along(order[::-1]), settings.fractions) for order in orders]
    blank[:-1] = found[: len(rankings)]
    blank[-1] = np.mean(found[len(rankings) :], axis=0)
    return blank


def removal_grid(fractions: Sequence[float]) -> tuple[float, ...]:
    """Return the shares of tokens to take away: so many, all but so many, and all."""
    shares = {round(share, 9) for one in fractions for share in (one, 1 - one)}
    return (*sorted(shares), 1.0)


def metrics_of(
    highest: Float[np.ndarray, " share"],
    lowest: Float[np.ndarray, " share"],
    fractions: Sequence[float],
) -> tuple[float, float, float, float]:
    """Work out the four metrics from losses along `removal_grid(fractions)`.

    Args:
        highest: What is lost without the highest-ranked shares.
        lowest: What is lost without the lowest-ranked shares.
        fractions: Shares that comprehensiveness takes away and sufficiency keeps.

    Returns:
        Comprehensiveness, sufficiency, area of MoRF, area of LeRF.
    """
    grid = removal_grid(fractions)
    gone = [grid.index(round(share, 9)) for share in fractions]
    kept = [grid.index(round(1 - share, 9)) for share in fractions]
    along = np.array([0.0, *grid])
    morf, lerf = (
        float(np.trapezoid(np.array([0.0, *losses]), along)) for losses in (highest, lowest)
    )
    return float(np.mean(highest[gone])), float(np.mean(lowest[kept])), morf, lerf


def _values(
    loaded: LoadedModel,
    encoding: Encoding,
    variants: Sequence[Sequence[int]],
    positions: Sequence[int],
    perturbation: Perturbation,
    settings: FaithfulnessSettings,
) -> Float[np.ndarray, " variant"]:
    """Return the log-probability of the outcome's tokens under each variant."""
    steps = [position - 1 for position in positions]
    parts = []
    for start in range(0, len(variants), settings.batch_size):
        some = variants[start : start + settings.batch_size]
        probs = perturbation.run(loaded, encoding, some, settings.seed)
        parts.append(probs[:, steps].astype(np.float64).sum(axis=1))
    return np.concatenate(parts)
