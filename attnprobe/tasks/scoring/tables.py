"""Scores of many records as a table: pass rates with intervals and chance, and errors."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from attnprobe.errors import SelectionError, nearest
from attnprobe.tasks.scoring.records import RecordScore
from attnprobe.tasks.scoring.rules import Target

KEYS = ("style", "split", "task", "language")
"""What a table can be broken down by."""

_MAX_OTHERS = 200


@dataclass(frozen=True, slots=True)
class _Scored:
    """A score with what a blind answer would have got in its place."""

    score: RecordScore
    chance: float | None
    coarse_chance: float | None


def score_table(
    scores: Iterable[RecordScore], by: Sequence[str] = ("style", "split")
) -> list[dict[str, Any]]:
    """Break scores down into a table, in the order in which the groups first appear.

    **Chance** is the pass rate of answering another record's true answer: the mean over the other
    items of the same task, split, language and style. It is what knowing the family alone is
    worth, and is to be read beside each pass rate, because block values are easier by themselves.

    Args:
        scores: Scores of records.
        by: Any of `KEYS`.

    Returns:
        Rows with the keys in `by` and:

        - `records`; `n`, those with a pass rate (negative controls have none);
        - `pass_rate`, `pass_low`, `pass_high` (Wilson, 95 %), `chance`: the fine column;
        - `coarse_n`, `coarse_rate`, `coarse_low`, `coarse_high`, `coarse_chance`: block values;
        - `exact`: share of answers equal to the true one, whatever the tolerance;
        - `parsed`: share of texts whose answer was read in full; `coverage`: share of all numbers
          asked for that was read;
        - `step_pass`: share of numbers within the rule; `step_passes`: the same for the first,
          second … number of the answer;
        - `first_failure`: mean place of the first number outside the rule, counted from 1, where
          an answer without one counts as one past its end;
        - `derivation`: share of written step lines whose result is right;
        - `mae`, `nrmse`, `smape`: means over the records with any number read, so to be read
          beside `coverage`;
        - `valid_steps`: mean valid prediction time of the chaotic families, in steps.

        What does not apply is None.

    Raises:
        SelectionError: If `by` names something else.
    """
    for key in by:
        if key not in KEYS:
            raise SelectionError(
                "unknown key of the table", where="by", got=f"'{key}'", fix=nearest(key, KEYS)
            )
    groups: dict[tuple[str, ...], list[_Scored]] = defaultdict(list)
    for scored in _with_chance(list(scores)):
        groups[tuple(getattr(scored.score, key) for key in by)].append(scored)
    return [dict(zip(by, group, strict=True)) | _row(rows) for group, rows in groups.items()]


def wilson(passed: int, n: int) -> tuple[float, float] | tuple[None, None]:
    """Return the 95 % Wilson score interval of a pass rate (Wilson 1927); Nones when n is 0."""
    if n == 0:
        return None, None
    from scipy.stats import binomtest

    interval = binomtest(passed, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _row(group: Sequence[_Scored]) -> dict[str, Any]:
    scores = [scored.score for scored in group]
    passed = [score.passed for score in scores if score.passed is not None]
    coarse = [score.coarse_passed for score in scores if score.coarse_passed is not None]
    low, high = wilson(sum(passed), len(passed))
    coarse_low, coarse_high = wilson(sum(coarse), len(coarse))
    longest = max(score.rule.horizon for score in scores)
    lines = [passes for score in scores for passes in score.derivation_passes or ()]
    counted = [score for score in scores if score.rule.counts]
    return {
        "records": len(scores),
        "n": len(passed),
        "pass_rate": _mean(passed),
        "pass_low": low,
        "pass_high": high,
        "chance": _mean(scored.chance for scored in group),
        "coarse_n": len(coarse),
        "coarse_rate": _mean(coarse),
        "coarse_low": coarse_low,
        "coarse_high": coarse_high,
        "coarse_chance": _mean(scored.coarse_chance for scored in group),
        "exact": _mean(score.is_exact for score in scores),
        "parsed": _mean(score.coverage == 1 for score in scores),
        "coverage": sum(len(score.answer) for score in scores)
        / sum(score.rule.horizon for score in scores),
        "step_pass": _mean(p for score in counted for p in score.step_passes),
        "step_passes": [
            _mean(s.step_passes[place] for s in counted if place < len(s.step_passes))
            for place in range(longest)
        ],
        "first_failure": _mean(s.first_failure or s.rule.horizon + 1 for s in counted),
        "derivation": _mean(lines),
        "mae": _mean(score.mae for score in scores),
        "nrmse": _mean(score.nrmse for score in scores),
        "smape": _mean(score.smape for score in scores),
        "valid_steps": _mean(score.valid_steps for score in scores),
    }


def _with_chance(scores: Sequence[RecordScore]) -> list[_Scored]:
    families: dict[tuple[str, ...], dict[str, RecordScore]] = defaultdict(dict)
    for score in scores:
        families[_family(score)].setdefault(score.item, score)
    circles = {key: sorted(items) for key, items in families.items()}
    places = {
        (key, item): place for key, circle in circles.items() for place, item in enumerate(circle)
    }
    scored: list[_Scored] = []
    for score in scores:
        key = _family(score)
        place = places[key, score.item]
        after = [*circles[key][place + 1 :], *circles[key][:place]][:_MAX_OTHERS]
        scored.append(_scored_among(score, [families[key][item] for item in after]))
    return scored


def _scored_among(score: RecordScore, others: Sequence[RecordScore]) -> _Scored:
    """Score blind answers: those of the other items, of a large family those next in a circle."""
    if not score.rule.counts:
        return _Scored(score, None, None)
    coarse = score.rule.coarse
    return _Scored(
        score,
        _chance(score.rule.answer, [other.rule.answer for other in others]),
        coarse and _chance(coarse, [o.rule.coarse for o in others if o.rule.coarse]),
    )


def _family(score: RecordScore) -> tuple[str, ...]:
    return score.task, score.split, score.language, score.style


def _chance(target: Target, others: Sequence[Target]) -> float | None:
    return _mean(target.accepts(other.values[: len(target.values)]) for other in others)


def _mean(values: Iterable[float | bool | None]) -> float | None:
    numbers = [float(value) for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
