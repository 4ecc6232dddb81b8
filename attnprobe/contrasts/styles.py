"""`contrast`: two styles of a run, paired by item."""

from collections.abc import Sequence
from typing import Any, Literal

import xarray as xr

from attnprobe.contrasts.concluding import conclude, numbers_of, unit_of
from attnprobe.contrasts.filler import with_filler
from attnprobe.contrasts.inference import Inference
from attnprobe.contrasts.pairing import pair_styles
from attnprobe.contrasts.questions import (
    NO_TEXT,
    Answers,
    Question,
    ask,
    coords_of,
    lacking,
    read_answers,
    require_one_model,
    require_same_shape,
    role_fault,
)
from attnprobe.contrasts.result import Contrast
from attnprobe.contrasts.sameness import require_same_answers
from attnprobe.errors import ContrastError
from attnprobe.measures import find_measure, match_roles, roles_by_style, sort_roles
from attnprobe.measures.runs import unfinished


def contrast(
    run: Any,
    *,
    a: str,
    b: str,
    measure: str = "enrichment",
    query: str = "answer",
    key: str = "history",
    by: Literal["task", "item"] = "task",
    over: str = "head",
    interaction: str | None = None,
    levels: tuple[str, str] = ("seen", "unseen"),
    other: Any = None,
    filler: str = "*",
    ids: Sequence[str] | None = None,
    n_flips: int = 10_000,
    n_bootstrap: int = 2000,
    confidence: float = 0.95,
    screening: str = "bh",
    scale: str = "difference",
    rng: int = 0,
) -> Contrast:
    """Compare two styles of prompting, head by head, over the items that have both.

    A key role that both styles have is compared directly. One that a single style has is held
    against filler of the same length in the other (`contrasts.filler`), and the result says so.

    Args:
        run: An open run.
        a: Style; positive differences mean that it has more of the measure.
        b: Style to hold it against.
        measure: One of `attnprobe.measures.MEASURES`.
        query: Role of the steps that look; `step_*` takes several roles as one.
        key: Role that is looked at; unused by measures without one (`sink_mass`).
        by: `task` for claims about new tasks (6 at least), `item` for these tasks only.
        over: `head` for layer × head, `layer` for means over the heads of a layer, `whole` for
            one mean over all, `span` for every query role by every key role that both styles have,
            means over layers and heads (`query` and `key` are not used then).
        interaction: A column of the table of records, such as `split`: ask whether a − b is another
            in one group of items than in another, instead of whether it is 0.
        levels: The two groups of the interaction, first minus second.
        other: Run that style b is read from; of the same model.
        filler: Roles that filler is taken from, as a pattern.
        ids: Records to take, of either style; None for all.
        n_flips: Sign flips, or permutations of labels.
        n_bootstrap: Resamples of the interval.
        confidence: Coverage of the interval.
        screening: False discovery rate of `q`: `bh`, or `by` for any dependence.
        scale: `difference`, or `log-ratio` for measures of amounts.
        rng: Seed.

    Returns:
        The contrast: effects per head, the omnibus test, the pairs behind them, what was left out.

    Raises:
        SelectionError: If a style, a role or the measure is not there.
        ContrastError: If a role is missing and has no filler, nothing pairs or differs, there are
            too few tasks for the claim, or `other` is of another model, has other problems under
            the same names, or is measured by another yardstick (`enrichment_beyond_recency`).
    """
    inference = Inference(by, n_flips, n_bootstrap, confidence, screening, scale, rng)
    question = ask(measure, query, key, over, interaction, levels)
    values, refused, filled = _values(run, other, (a, b), question, filler, ids)
    found = conclude(
        lambda reduce: (pair_styles(reduce(values), a, b), coords_of(reduce(values))),
        run, question, inference,
    )  # fmt: skip
    settings = {
        "a": a, "b": b, "measure": measure, "query": question.query, "by": by,
        "over": question.over,
        **({"key": question.key} if question.key else {}),
        **({"interaction": interaction, "levels": ", ".join(levels)} if interaction else {}),
        **({"filler": filler} if filled else {}),
        **({"b_run": str(getattr(other, "path", "another run"))} if other is not None else {}),
        **numbers_of(inference),
    }  # fmt: skip
    return Contrast(
        effects=found.effects,
        a=levels[0] if interaction else a,
        b=levels[1] if interaction else b,
        measure=measure,
        query=question.query,
        key=question.key,
        unit=unit_of(measure, scale, values),
        n_pairs=len(found.pairs.items),
        dropped=found.pairs.dropped,
        settings=settings,
        over=question.over,
        within=f"{a} − {b}" if interaction else None,
        filler=filled,
        omnibus=found.omnibus,
        refused=(*refused, *found.refused),
        notice=unfinished(run, other),
    )


def _values(
    run: Any,
    other: Any,
    styles: tuple[str, str],
    question: Question,
    filler: str,
    ids: Sequence[str] | None,
) -> tuple[xr.DataArray, tuple[str, ...], str | None]:
    """Measure two styles; also say what was refused, and which style was given filler."""
    answers = (
        read_answers(run, styles, question, ids)
        if other is None
        else _joined(run, other, styles, question, ids)
    )
    values = answers.values
    absent = lacking(values, styles, question)
    if not absent:
        return values, refusals(answers), None
    has = next((style for style in styles if style not in absent), None)
    if has is None or other is not None or not _only_key_is_lacking(run, absent[0], question):
        source = run if other is None or absent[0] == styles[0] else other
        raise role_fault(source, absent if other is not None else styles, question,
                         " and ".join(absent))  # fmt: skip
    values = with_filler(run, values, question, has, absent[0], filler)
    return values, refusals(answers, question.key), absent[0]


def _joined(
    run: Any, other: Any, styles: tuple[str, str], question: Question, ids: Sequence[str] | None
) -> Answers:
    """Read one style from each of two runs."""
    require_same_shape(run, other)
    require_one_model(run, other)
    if find_measure(question.measure).across is not None:
        raise ContrastError(
            "this measure finds out from all records together what distance alone gives, so two "
            "runs would be held against two yardsticks",
            got=f"'{question.measure}' over two runs",
            expected="one run that has both styles",
            fix="extract both styles into one run, or choose another measure",
        )
    if styles[0] == styles[1]:
        raise ContrastError("a style does not differ from itself", got=f"'{styles[0]}' twice")
    parts = [
        read_answers(source, (style,), question, ids)
        for source, style in zip((run, other), styles, strict=True)
    ]
    require_same_answers(run, other, styles, ids)
    return Answers(join([part.values for part in parts]), _unshared(run, other, styles, question))


def _unshared(
    run: Any, other: Any, styles: tuple[str, str], question: Question
) -> dict[str, tuple[str, ...]]:
    """Map each style to the key roles that it alone has."""
    if question.key is None:
        return {}
    keys = [
        set(roles_by_style(source)[style][1]) - NO_TEXT
        for source, style in zip((run, other), styles, strict=True)
    ]
    alone = keys[0] - keys[1], keys[1] - keys[0]
    return {style: sort_roles(own) for style, own in zip(styles, alone, strict=True)}


def join(parts: Sequence[xr.DataArray]) -> xr.DataArray:
    """Put measures of several runs under one another, with the roles that all of them have."""
    return xr.concat(parts, "record", join="inner", combine_attrs="override")


def _only_key_is_lacking(run: Any, style: str, question: Question) -> bool:
    """Tell whether a style has the queries, and the key nowhere."""
    queries, keys = roles_by_style(run)[style]
    return bool(
        question.key
        and match_roles(question.query, queries)
        and not match_roles(question.key, keys)
    )


def refusals(answers: Answers, filled: str | None = None) -> tuple[str, ...]:
    """Word which roles are not compared, and why; `filled` is held against filler."""
    reasons = []
    for style, roles in answers.unshared.items():
        given = match_roles(filled, roles) if filled else []
        left = [role for place, role in enumerate(roles) if place not in given]
        if left:
            them = "it" if len(left) == 1 else "them"
            reasons.append(f"{', '.join(left)}: only {style} has {them}, so not compared directly")
    return tuple(reasons)
