"""A run in which a model got some records right and others wrong → which heads tell them apart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from attnprobe.contrasts import PassFail, PredictionSettings, discriminate, predict_passes
from attnprobe.contrasts.predicting import Prediction
from attnprobe.errors import ContrastError, RecordError, SelectionError, nearest
from attnprobe.measures import match_roles, measure
from attnprobe.store import Run
from attnprobe.tasks.scoring import score_record
from attnprobe.types import Encoding
from attnprobe.workflows.choosing import require_heads

OUTCOMES = {
    "written": "the answer that the model wrote was right",
    "shown": "shown the right answer, the model would have predicted each of its tokens",
}
"""What passing can be."""


@dataclass(frozen=True, slots=True)
class PassFailSettings:
    """What is measured, of which records, and what passing is."""

    measure: str = "enrichment"
    """A measure by name."""
    query: str = "answer"
    """Role of the steps that look; of `shown`, also of those that must be predicted."""
    key: str = "history"
    """Role that is looked at; unused by measures without one."""
    style: str | None = None
    """Style of the records; the run's only one by default."""
    outcome: str = "written"
    """One of `OUTCOMES`: `written` needs a run that was decoded, `shown` one that was not."""
    difficulty: str | None = None
    """Number in the records' meta that says how hard they are, for the baseline of difficulty."""
    n_permutations: int = 10_000
    """Permutations of the outcomes within tasks, for the heads one by one."""
    prediction: PredictionSettings = field(default_factory=PredictionSettings)
    """How the models that predict passing are made; its seed is the seed of everything."""
    models: bool = True
    """Whether they are made: they take most of the time."""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise SelectionError(
                "no such outcome", where="--outcome", got=self.outcome,
                fix=nearest(self.outcome, OUTCOMES),
            )  # fmt: skip


def pass_fail(
    run: Run, settings: PassFailSettings | None = None, *, ids: Sequence[str] | None = None,
    **asked: Any,
) -> PassFail:  # fmt: skip
    """Say which heads look otherwise where the model passes, and whether that says anything new.

    Each head gets an AUROC within tasks; a model of some heads predicts passing in tasks that it
    did not learn from, and is held against models that know no head: `length` (tokens of the
    prompt, tokens of the target), `difficulty` (a number in the records' meta if one is named;
    else how many numbers are asked for, the size of the largest, and how often the same item was
    passed in the run's other styles) and `log-probability` (of the answer: mean and smallest).

    An association only: a model that is about to fail may look elsewhere for whatever reason makes
    it fail. `confirm` intervenes.

    Args:
        run: An open run.
        settings: What to measure; or give its fields by name.
        ids: Records to take; None for all of the style.
        asked: Fields of `PassFailSettings`, instead of `settings`.

    Returns:
        The heads, the models, and what was left out.

    Raises:
        SelectionError: If the run holds no outcomes of that kind, or no such style, measure, role.
        ContrastError: If all or none passed, or there is too little to test.
        RecordError: If a record says nothing to score against.
    """
    settings = settings or PassFailSettings(**asked)
    chosen = require_heads(settings.measure, "records are told apart by heads")
    style, key = _style(run, settings.style), settings.key if chosen.has_key else None
    _check_outcome(run, settings.outcome)
    table = run.records if ids is None else run.records.loc[list(ids)]
    own = table.loc[table["style"] == style]
    first = own.drop_duplicates("item")
    passed = {str(one): _passed(run, str(one), settings) for one in first.index}
    scored = [one for one, outcome in passed.items() if outcome is not None]
    if not scored:
        raise ContrastError(
            "there is nothing to score", where=f"style '{style}'",
            got=f"{len(own)} records, {len(first) - len(scored)} of them negative controls",
        )  # fmt: skip
    values = measure(run, settings.measure, query=settings.query, key=key, ids=scored)
    there = np.asarray(~np.isnan(values.values).all(axis=(1, 2)))
    kept = [one for one, has_value in zip(scored, there, strict=True) if has_value]
    rows, outcomes = values.values[there], np.array([bool(passed[one]) for one in kept])
    tasks = table.loc[kept, "task"].astype(str).to_numpy(dtype=object)
    seed = settings.prediction.seed
    effects = discriminate(
        rows, outcomes, tasks, n_permutations=settings.n_permutations,
        confidence=settings.prediction.confidence, rng=seed,
    )  # fmt: skip
    prediction, refused = None, ()
    if settings.models:
        known, lacking = _baselines(run, kept, settings, style)
        prediction, refused = _predicted(rows, outcomes, tasks, known, settings.prediction)
        refused = (*refused, *lacking)
    chosen = np.zeros(rows.shape[1:], int) if prediction is None else prediction.n_chosen
    return PassFail(
        effects=effects.assign_coords(
            layer=values["layer"].values, head=values["head"].values
        ).assign(n_folds_chosen=(("layer", "head"), chosen)),
        models=None if prediction is None else prediction.models,
        measure=settings.measure, query=settings.query, key=key, style=style,
        outcome=settings.outcome,
        dropped={
            "further ones of the same item": len(own) - len(first),
            "negative controls": len(first) - len(scored),
            "without a value": len(scored) - len(kept),
        },
        refused=refused, settings=asdict(settings) | {"style": style},
    )  # fmt: skip


def _style(run: Run, asked: str | None) -> str:
    styles = list(dict.fromkeys(run.records["style"]))
    if not styles:
        raise RecordError("the run has no records yet", where=str(run.path))
    if asked is None:
        if len(styles) > 1:
            raise SelectionError(
                "the run has several styles, and passing is told from failing within one",
                where=str(run.path), got=", ".join(styles), fix="name one with --style",
            )  # fmt: skip
        return str(styles[0])
    if asked not in styles:
        raise SelectionError(
            "the run has no such style", got=f"'{asked}'", fix=nearest(asked, styles)
        )
    return asked


def _check_outcome(run: Run, outcome: str) -> None:
    decode = run.settings.get("decode", "gold")
    if outcome == "written" and decode == "gold":
        raise SelectionError(
            "there is nothing to score: the model was shown the targets and wrote nothing",
            where=str(run.path), got="decode 'gold'",
            fix="extract again, into another folder, with --decode greedy; or ask with --outcome "
            "shown whether it would have predicted each token of the answer",
        )  # fmt: skip
    if outcome == "shown" and decode != "gold":
        raise SelectionError(
            "the model was shown no right answers: it wrote its own", where=str(run.path),
            got=f"decode '{decode}'", fix="ask with --outcome written whether they are right",
        )  # fmt: skip


def _passed(run: Run, record_id: str, settings: PassFailSettings) -> bool | None:
    """Say whether a record passed; None for a negative control."""
    encoding = run.encoding(record_id)
    if settings.outcome == "written":
        return score_record(encoding.record, encoding.generated or "").passed
    if encoding.record.meta.get("control"):
        return None
    steps = run.predictions(record_id)
    asked = match_roles(settings.query, steps["step_role"].values.tolist())
    if not asked:
        raise RecordError(
            "no predicted token has the role that tells whether the record passed",
            where=f"record '{record_id}'", got=f"'{settings.query}'",
            expected="a role of the target, such as answer",
        )  # fmt: skip
    hits = steps["predicted"].values[asked] == steps["target"].values[asked]
    return bool(hits.all())


def _predicted(
    values: Float[np.ndarray, "item layer head"],
    passed: np.ndarray,
    tasks: np.ndarray,
    baselines: Mapping[str, np.ndarray],
    settings: PredictionSettings,
) -> tuple[Prediction | None, tuple[str, ...]]:
    try:
        return predict_passes(values, passed, tasks, baselines, settings), ()
    except ContrastError as error:
        return None, (f"a model that predicts passing: {error}",)


def _baselines(
    run: Run, ids: Sequence[str], settings: PassFailSettings, style: str
) -> tuple[dict[str, Float[np.ndarray, "record _"]], tuple[str, ...]]:
    """Gather what may explain passing without any head, and say what cannot be gathered."""
    table = run.records.loc[list(ids)]
    found = {
        "length": table[["n_prompt", "n_steps"]].to_numpy(float),
        "difficulty": _difficulty(run, ids, settings, style),
        "log-probability": np.array([_log_prob(run, one, settings.query) for one in ids]),
    }
    empty = [
        name
        for name, columns in found.items()
        if not _varies(columns, table["task"].to_numpy(object))
    ]
    return (
        {name: columns for name, columns in found.items() if name not in empty},
        tuple(
            f"a baseline of {name}: it does not vary within any task, or no record says it"
            for name in empty
        ),
    )


def _varies(columns: Float[np.ndarray, "record _"], tasks: np.ndarray) -> bool:
    known = np.where(np.isnan(columns), np.inf, columns)  # NaN alone would differ from itself
    return any(len(np.unique(known[tasks == one], axis=0)) > 1 for one in set(tasks.tolist()))


def _difficulty(
    run: Run, ids: Sequence[str], settings: PassFailSettings, style: str
) -> Float[np.ndarray, "record _"]:
    encodings = [run.encoding(one) for one in ids]
    if settings.difficulty is not None:
        return np.array([[_stated(encoding, settings.difficulty)] for encoding in encodings])
    elsewhere = _passed_elsewhere(run, settings, style)
    return np.array([[*_sizes(one), elsewhere.get(one.record.item, math.nan)] for one in encodings])


def _stated(encoding: Encoding, name: str) -> float:
    value = encoding.record.meta.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        numbers = [
            key for key, one in encoding.record.meta.items()
            if isinstance(one, int | float) and not isinstance(one, bool)
        ]  # fmt: skip
        raise SelectionError(
            "a record does not say how hard it is", where=f"record '{encoding.record.id}'",
            got=f"meta['{name}'] = {value!r}", expected="a number", fix=nearest(name, numbers),
        )  # fmt: skip
    return float(value)


def _sizes(encoding: Encoding) -> tuple[float, float]:
    """Return how many numbers are asked for, and the logarithm of the largest."""
    answer = encoding.record.meta.get("answer")
    listed = answer if isinstance(answer, list | tuple) else [answer]
    sizes = [abs(float(one)) for one in listed if isinstance(one, int | float)]
    return float(len(listed)), math.log2(1 + max(sizes)) if sizes else math.nan


def _passed_elsewhere(run: Run, settings: PassFailSettings, style: str) -> dict[str, float]:
    """Return in which share of the other styles' records each item was passed."""
    outcomes: dict[str, list[bool]] = {}
    for record_id, row in run.records[run.records["style"] != style].iterrows():
        try:
            passed = _passed(run, str(record_id), settings)
        except RecordError:
            continue  # a style without such an answer says nothing
        if passed is not None:
            outcomes.setdefault(str(row["item"]), []).append(passed)
    return {item: sum(passed) / len(passed) for item, passed in outcomes.items()}


def _log_prob(run: Run, record_id: str, query: str) -> tuple[float, float]:
    """Return the mean and the smallest log-probability of the answer's tokens."""
    steps = run.predictions(record_id)
    asked = match_roles(query, steps["step_role"].values.tolist())
    if not asked:
        return math.nan, math.nan
    values = steps["log_prob"].values[asked].astype(float)
    return float(values.mean()), float(values.min())
