"""Predicting which records pass, task by task: heads, and what may explain them away."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Float64, Int, Shaped

from attnprobe.contrasts.auroc import Ranks, permuted, ranks_within_tasks
from attnprobe.contrasts.inputs import (
    outcomes_of,
    require_items_of_heads,
    require_seed,
    task_names,
)
from attnprobe.contrasts.judging import BASELINES, BOTH, HEADS, judge, judged_models
from attnprobe.errors import ContrastError

_Plans = dict[str, tuple[np.ndarray, bool]]
"""By model: its features that are no heads, and whether it is given heads."""


@dataclass(frozen=True, slots=True)
class PredictionSettings:
    """How a model that predicts passing is made and tested."""

    n_heads: int = 10
    """Heads that a model is given: those which tell passed from failed records best in the tasks
    that it learns from."""
    strength: float = 1.0
    """Inverse of the L2 penalty on standardised features (scikit-learn's C)."""
    n_permutations: int = 200
    """Permutations of the outcomes within tasks; each repeats the whole procedure."""
    n_bootstrap: int = 2000
    """Resamples of the interval of a difference between two models."""
    confidence: float = 0.95
    """Coverage of intervals."""
    seed: int = 0
    """Of permutations and resamples."""

    def __post_init__(self) -> None:
        require_seed(self.seed)
        counts = self.n_heads, self.n_permutations, self.n_bootstrap
        if min(counts) < 1 or self.strength <= 0 or not 0 < self.confidence < 1:
            raise ContrastError(
                "the settings of the prediction make no sense",
                got=f"n_heads={self.n_heads}, strength={self.strength:g}, "
                f"n_permutations={self.n_permutations}, n_bootstrap={self.n_bootstrap}, "
                f"confidence={self.confidence:g}",
                expected="at least one each, a strength above 0, confidence between 0 and 1",
            )


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """How well passing is predicted in tasks that a model did not learn from."""

    models: xr.Dataset
    """Over `model`: `auroc` with `low` and `high`; `p`, one-sided by permuting outcomes within
    tasks; where there are heads, `gain`, the AUROC less that of all baselines together, with
    `gain_low` and `gain_high`, and `over_best`, the AUROC less that of the best single baseline
    (which can be better than all together), likewise; `null_mean`, the mean AUROC under
    permutation. The intervals take the models as they were learned."""
    n_chosen: Int[np.ndarray, "layer head"]
    """In how many folds the model of heads was given each head."""
    scores: Mapping[str, Float64[np.ndarray, " item"]] = field(default_factory=dict)
    """By model: what it says of each item, higher for passing; to be compared within a task. NaN
    in tasks of which all items passed, or none."""


def predict_passes(
    values: Float[np.ndarray, "item layer head"],
    passed: Shaped[np.ndarray, " item"],
    tasks: Sequence[str] | np.ndarray,
    baselines: Mapping[str, Float[np.ndarray, "item _"]] | None = None,
    settings: PredictionSettings | None = None,
) -> Prediction:
    """Predict passing from heads, and from what has nothing to do with them, by logistic models.

    Every task is left out once. The heads that a model is given are chosen in the other tasks
    alone, and its weights learned there: a choice that had seen the task left out would find heads
    that predict it in noise. Features are held against the mean of their task, so that no model
    gains from telling tasks apart, and all are judged within the tasks left out. The null repeats
    the whole procedure, choice included, with outcomes permuted within tasks.

    Heads that predict no better than prompt length, difficulty or the answer's probability show
    nothing that these do not: see `gain` and `over_best`.

    Args:
        values: A measure of each head; NaN where an item has none.
        passed: Outcome of each item: truth values, or 1 and 0.
        tasks: Task of each item.
        baselines: By name: features that are no heads; NaN where an item has none.
        settings: How models are made and tested.

    Returns:
        What each model reaches: heads alone, each baseline, all of them, and heads with them.

    Raises:
        ContrastError: If fewer than two tasks have both passed and failed items; if shapes do not
            match, values are infinite, or an outcome or a task is missing.
    """
    settings, baselines = settings or PredictionSettings(), dict(baselines or {})
    _check(values, passed, tasks, baselines)
    passed = outcomes_of(passed)
    names, task = np.unique(task_names(tasks), return_inverse=True)
    flat = values.reshape(len(values), -1).astype(np.float64)
    ranks = ranks_within_tasks(flat, task)
    _require_tasks(names, task, passed)
    folds = _Folds(ranks, _centred(flat, task), settings)
    others = {name: _centred(np.asarray(own, float), task) for name, own in baselines.items()}
    joined = np.hstack([np.zeros((len(flat), 0)), *others.values()])
    plans: _Plans = {HEADS: (joined[:, :0], True)}
    plans |= {name: (own, False) for name, own in others.items()}
    if others:
        plans |= {BASELINES: (joined, False), BOTH: (joined, True)}
    scores = folds.run(passed, plans)
    given = [folds.choices(passed)[number] for number in np.unique(task[~np.isnan(scores[HEADS])])]
    chosen = np.bincount(np.concatenate(given), minlength=flat.shape[1])
    null = _null(folds, passed, plans, settings)
    told = judged_models(
        scores, null, passed, task, settings.confidence, settings.n_bootstrap, settings.seed
    )
    return Prediction(told.assign_attrs(asdict(settings)), chosen.reshape(values.shape[1:]), scores)


def _check(
    values: np.ndarray, passed: np.ndarray, tasks: Sequence[str] | np.ndarray,
    baselines: Mapping[str, np.ndarray],
) -> None:  # fmt: skip
    require_items_of_heads(values=values)
    sizes = {"outcomes": len(passed), "tasks": len(tasks)}
    sizes |= {f"rows of '{name}'": len(own) for name, own in baselines.items()}
    for name, size in sizes.items():
        if size != len(values):
            raise ContrastError(
                "values, outcomes, tasks and baselines must match item by item",
                got=f"values of {len(values)} items, {size} {name}",
            )
    for name, features in {HEADS: values, **baselines}.items():
        if n_infinite := int(np.isinf(features).sum()):
            raise ContrastError(
                "a model cannot learn from infinite values", where=f"'{name}'",
                got=f"{n_infinite} of {np.size(features)} values",
                expected="finite values, and NaN where there is none",
            )  # fmt: skip
        if name != HEADS and np.ndim(features) != 2:
            raise ContrastError(
                "a baseline must have the axes item and feature", where=f"'{name}'",
                got=f"shape {np.shape(features)}",
            )  # fmt: skip
    for name in baselines:
        if name in (HEADS, BASELINES, BOTH):
            raise ContrastError("a baseline needs another name", got=f"'{name}'")


def _require_tasks(
    names: np.ndarray, task: Int[np.ndarray, " item"], passed: Bool[np.ndarray, " item"]
) -> None:
    mixed = [name for i, name in enumerate(names) if len(set(passed[task == i].tolist())) == 2]
    if len(mixed) < 2:
        raise ContrastError(
            "no model can be tried on a task that it did not learn from",
            got=f"{len(mixed)} of {len(names)} tasks with both passed and failed items"
            + (f" ('{mixed[0]}')" if mixed else ""),
            expected="at least two",
            fix="add task families that the model neither always nor never gets right",
        )


def _centred(
    values: Float64[np.ndarray, "item feature"], task: Int[np.ndarray, " item"]
) -> Float64[np.ndarray, "item feature"]:
    """Hold features against the mean of their task; 0 where an item has none."""
    centred = np.zeros_like(values)
    present = ~np.isnan(values)
    for number in range(int(task.max()) + 1):
        own = task == number
        sums, sizes = np.where(present, values, 0.0)[own].sum(axis=0), present[own].sum(axis=0)
        mean = sums / np.maximum(sizes, 1)
        centred[own] = np.where(present[own], values[own] - mean, 0.0)
    return centred


class _Folds:
    """Leaves every task out once."""

    def __init__(
        self, ranks: Ranks, heads: Float64[np.ndarray, "item head"], settings: PredictionSettings
    ) -> None:
        self.ranks, self._heads, self._settings = ranks, heads, settings
        self._member = np.zeros((ranks.n_tasks, len(heads)))
        self._member[ranks.task, np.arange(len(heads))] = 1.0
        self._squares = self._member @ ranks.centred**2

    def scores(
        self,
        passed: Bool[np.ndarray, " item"],
        others: Float64[np.ndarray, "item feature"],
        chosen: Sequence[Int[np.ndarray, " _"]],
    ) -> Float64[np.ndarray, " item"]:
        """Score the items of each task by a model that learned from the other tasks."""
        scores = np.full(len(passed), np.nan)
        for number in range(self.ranks.n_tasks):
            own = self.ranks.task == number
            if passed[own].all() or not passed[own].any():
                continue
            features = np.hstack([self._heads[:, chosen[number]], others])
            scores[own] = self._fit(features[~own], passed[~own], features[own])
        return scores

    def no_choices(self) -> list[Int[np.ndarray, " _"]]:
        """Give no model a head."""
        return [np.array([], int)] * self.ranks.n_tasks

    def choices(self, passed: Bool[np.ndarray, " item"]) -> list[Int[np.ndarray, " _"]]:
        """Choose heads for each task left out, without looking at its outcomes.

        The statistic is the one that heads are tested by, of the other tasks.
        """
        sums = (self._member * passed) @ self.ranks.centred
        n_all, n_passed = self._member.sum(axis=1), self._member @ passed
        share = n_passed * (n_all - n_passed) / np.maximum(n_all * (n_all - 1), 1)
        variances = share[:, None] * self._squares
        chosen = []
        for number in range(self.ranks.n_tasks):
            rest = np.arange(self.ranks.n_tasks) != number
            deviation = np.sqrt(variances[rest].sum(axis=0))
            apart = np.divide(
                np.abs(sums[rest].sum(axis=0)), deviation, out=np.zeros_like(deviation),
                where=deviation > 0,
            )  # fmt: skip
            chosen.append(np.argsort(-apart, kind="stable")[: self._settings.n_heads])
        return chosen

    def run(
        self, passed: Bool[np.ndarray, " item"], plans: _Plans
    ) -> dict[str, Float64[np.ndarray, " item"]]:
        """Score items by every model that is planned."""
        chosen, none = self.choices(passed), self.no_choices()
        return {
            name: self.scores(passed, others, chosen if with_heads else none)
            for name, (others, with_heads) in plans.items()
        }

    def _fit(
        self,
        known: Float64[np.ndarray, "known feature"],
        passed: Bool[np.ndarray, " known"],
        asked: Float64[np.ndarray, "asked feature"],
    ) -> Float64[np.ndarray, " asked"]:
        from sklearn.linear_model import LogisticRegression

        scale = known.std(axis=0)
        varies = scale > 1e-12 * np.abs(known).max(axis=0, initial=1.0)
        if not varies.any() or passed.all() or not passed.any():
            return np.zeros(len(asked))
        model = LogisticRegression(C=self._settings.strength, solver="newton-cholesky")
        model.fit(known[:, varies] / scale[varies], passed)
        return model.decision_function(asked[:, varies] / scale[varies])


def _null(
    folds: _Folds,
    passed: Bool[np.ndarray, " item"],
    plans: _Plans,
    settings: PredictionSettings,
) -> dict[str, Float64[np.ndarray, " permutation"]]:
    """Repeat the whole procedure with outcomes permuted within tasks."""
    rng = np.random.default_rng(settings.seed)
    found: dict[str, list[float]] = {name: [] for name in plans}
    for labels in permuted(passed, folds.ranks, settings.n_permutations, rng):
        for outcome in labels.astype(bool):
            for name, scores in folds.run(outcome, plans).items():
                found[name].append(judge(scores, outcome, folds.ranks.task)[0])
    return {name: np.array(values) for name, values in found.items()}
