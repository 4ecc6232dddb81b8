"""How well models tell passed from failed items, and how much better than others."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float64, Int

from attnprobe.contrasts.auroc import auroc, auroc_interval, pairs_of, ranks_within_tasks

HEADS, BASELINES, BOTH = "heads", "all baselines", "heads and baselines"
"""Names of the models that are no single baseline."""


def judge(
    scores: Float64[np.ndarray, " item"],
    passed: Bool[np.ndarray, " item"],
    task: Int[np.ndarray, " item"],
    confidence: float | None = None,
) -> tuple[float, float, float]:
    """Return the AUROC of scores within tasks and, where a confidence is given, its interval."""
    pairs = pairs_of(ranks_within_tasks(scores[:, None], task), passed)
    if confidence is None:
        return float(auroc(pairs)[0]), np.nan, np.nan
    low, high = auroc_interval(pairs, confidence)
    return float(auroc(pairs)[0]), float(low[0]), float(high[0])


def judged_models(
    scores: Mapping[str, Float64[np.ndarray, " item"]],
    null: Mapping[str, Float64[np.ndarray, " permutation"]],
    passed: Bool[np.ndarray, " item"],
    task: Int[np.ndarray, " item"],
    confidence: float,
    n_bootstrap: int,
    seed: int,
) -> xr.Dataset:
    """Say how well the scores of each model tell passed from failed items of one task.

    Args:
        scores: By model; NaN in tasks without both outcomes.
        null: By model: the AUROC under permutations of the outcomes.
        passed: Outcome of each item.
        task: Task of each item, as a number.
        confidence: Coverage of intervals.
        n_bootstrap: Resamples of the interval of a difference.
        seed: Of the resamples.

    Returns:
        Over `model`: `auroc`, `low`, `high`, `p`, `gain`, `gain_low`, `gain_high`, `over_best`,
        `over_best_low`, `over_best_high`, `null_mean`; the attribute `best` names the best single
        baseline.
    """
    names = list(scores)
    judged = np.array([judge(scores[n], passed, task, confidence) for n in names])
    reached = [
        (1 + (null[name] >= value - 1e-9).sum()) / (1 + len(null[name]))
        for name, value in zip(names, judged[:, 0], strict=True)
    ]
    gains, best = np.full((2, len(names), 3), np.nan), ""
    if BASELINES in scores:
        single = [name for name in names if name not in (HEADS, BASELINES, BOTH)]
        best = max(single, key=lambda name: judged[names.index(name), 0])
        for name in (HEADS, BOTH):
            for kind, base in enumerate((BASELINES, best)):
                apart = _pairs_apart(scores[name], scores[base], passed, task)
                gains[kind, names.index(name)] = _gain(apart, confidence, n_bootstrap, seed)
    columns = {
        "auroc": judged[:, 0], "low": judged[:, 1], "high": judged[:, 2], "p": np.array(reached),
        "gain": gains[0, :, 0], "gain_low": gains[0, :, 1], "gain_high": gains[0, :, 2],
        "over_best": gains[1, :, 0], "over_best_low": gains[1, :, 1],
        "over_best_high": gains[1, :, 2],
        "null_mean": np.array([null[name].mean() for name in names]),
    }  # fmt: skip
    n_folds = len({int(number) for number in task[~np.isnan(scores[HEADS])]})
    return xr.Dataset(
        {name: ("model", column) for name, column in columns.items()},
        coords={"model": names},
        attrs={"n_folds": n_folds, "best": best},
    )


def _pairs_apart(
    better: Float64[np.ndarray, " item"],
    base: Float64[np.ndarray, " item"],
    passed: Bool[np.ndarray, " item"],
    task: Int[np.ndarray, " item"],
) -> list[Float64[np.ndarray, "_ _"]]:
    """Say for each pair of each task how much more one model has it right than another."""
    apart = []
    for number in np.unique(task):
        up, down = (task == number) & passed, (task == number) & ~passed
        if up.any() and down.any():
            apart.append(_wins(better[up], better[down]) - _wins(base[up], base[down]))
    return apart


def _gain(
    apart: list[Float64[np.ndarray, "_ _"]], confidence: float, n_bootstrap: int, seed: int
) -> tuple[float, float, float]:
    """Difference of two AUROCs, its interval from resampled passed and failed items of each task.

    The models are taken as they are: what it would be to learn them from other items is not in it.
    """
    rng = np.random.default_rng([seed, 1])
    n_pairs, sums = sum(one.size for one in apart), np.zeros(n_bootstrap)
    for one in apart:
        up, down = (
            rng.multinomial(n, np.full(n, 1 / n), size=n_bootstrap).astype(float) for n in one.shape
        )
        sums += ((up @ one) * down).sum(axis=1)
    edge = (1 - confidence) / 2
    low, high = np.quantile(sums / n_pairs, [edge, 1 - edge])
    return float(sum(one.sum() for one in apart)) / n_pairs, float(low), float(high)


def _wins(
    up: Float64[np.ndarray, " up"], down: Float64[np.ndarray, " down"]
) -> Float64[np.ndarray, "up down"]:
    """Say for each pair whether the passed item is higher, ties counting half."""
    apart = up[:, None] - down
    return (apart > 0) + 0.5 * (apart == 0)
