"""`contrast_runs`: the same records under two models."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from attnprobe.contrasts.concluding import conclude, numbers_of, unit_of
from attnprobe.contrasts.inference import Inference
from attnprobe.contrasts.pairing import Pairs, by_item, pair_sides, pair_styles
from attnprobe.contrasts.questions import (
    Question,
    ask,
    coords_of,
    lacking,
    read_answers,
    require_same_shape,
    role_fault,
)
from attnprobe.contrasts.result import Contrast
from attnprobe.contrasts.sameness import require_same_prompts
from attnprobe.errors import ContrastError
from attnprobe.measures.runs import unfinished


def contrast_runs(
    run: Any,
    other: Any,
    *,
    style: str | None = None,
    a: str | None = None,
    b: str | None = None,
    measure: str = "enrichment",
    query: str = "answer",
    key: str = "history",
    by: Literal["task", "item"] = "task",
    over: str = "head",
    interaction: str | None = None,
    levels: tuple[str, str] = ("seen", "unseen"),
    names: tuple[str, str] | None = None,
    ids: Sequence[str] | None = None,
    n_flips: int = 10_000,
    n_bootstrap: int = 2000,
    confidence: float = 0.95,
    screening: str = "bh",
    scale: str = "difference",
    rng: int = 0,
) -> Contrast:
    """Compare two runs of the same records, head by head: a fine-tuned model with its base, say.

    With `style`, the measure itself is compared in that style. With `a` and `b`, the difference
    between these styles is: (a − b) in the one run minus (a − b) in the other. Items are paired
    either way, so the tests are those of `contrast`. What a run holds does not matter: a run on
    tasks tells what changed on the tasks, a run on general questions what changed besides.

    Args:
        run: An open run; positive differences mean that it has more of the measure.
        other: Run to hold it against, of a model with the same layers and heads.
        style: The style to compare in, or
        a: the first of two styles, and
        b: the second.
        measure: One of `attnprobe.measures.MEASURES`.
        query: Role of the steps that look.
        key: Role that is looked at.
        by: `task` or `item`.
        over: `head`, `layer`, `whole` or `span`.
        interaction: A column such as `split`: ask whether the change is another in one group than
            in another.
        levels: The two groups of the interaction.
        names: What to call the runs; the names of their folders by default.
        ids: Records to take; None for all.
        n_flips: Sign flips, or permutations of labels.
        n_bootstrap: Resamples of the interval.
        confidence: Coverage of the interval.
        screening: `bh` or `by`.
        scale: `difference` or `log-ratio`.
        rng: Seed.

    Returns:
        The contrast.

    Raises:
        SelectionError: If a style, a role or the measure is not there.
        ContrastError: If the runs are of different shape, share no items, have different prompts
            under one name, do not differ, or there are too few tasks for the claim.
    """
    inference = Inference(by, n_flips, n_bootstrap, confidence, screening, scale, rng)
    question = ask(measure, query, key, over, interaction, levels)
    styles = _styles(style, a, b, scale)
    require_same_shape(run, other)
    names = names or (_name(run, "the first run"), _name(other, "the second run"))
    if names[0] == names[1]:
        names = f"{names[0]} (1)", f"{names[1]} (2)"
    read = [_read(source, styles, question, ids) for source in (run, other)]
    require_same_prompts(run, other, styles, ids)

    def paired(reduce: Any) -> tuple[Pairs, dict[str, np.ndarray]]:
        reduced = xr.align(*map(reduce, read), join="inner", exclude=("record",))
        sides = [_side(values, styles) for values in reduced]
        return pair_sides(sides[0], sides[1], names, "run"), coords_of(reduced[0])

    found = conclude(paired, run, question, inference)
    within = " − ".join(styles)
    settings = {
        "styles": ", ".join(styles), "run": names[0], "other": names[1], "measure": measure,
        "query": question.query, "by": by, "over": question.over,
        **({"key": question.key} if question.key else {}),
        **({"interaction": interaction, "levels": ", ".join(levels)} if interaction else {}),
        **numbers_of(inference),
    }  # fmt: skip
    return Contrast(
        effects=found.effects,
        a=levels[0] if interaction else names[0],
        b=levels[1] if interaction else names[1],
        measure=measure,
        query=question.query,
        key=question.key,
        unit=unit_of(measure, scale, read[0]),
        n_pairs=len(found.pairs.items),
        dropped=found.pairs.dropped,
        settings=settings,
        over=question.over,
        within=f"{within}, {names[0]} − {names[1]}" if interaction else within,
        omnibus=found.omnibus,
        refused=found.refused,
        notice=unfinished(run, other),
    )


def _styles(style: str | None, a: str | None, b: str | None, scale: str) -> tuple[str, ...]:
    if (style is None) == (a is None and b is None) or (style is None and None in (a, b)):
        raise ContrastError(
            "name one style to compare the runs in, or two whose difference is compared",
            got=f"style={style!r}, a={a!r}, b={b!r}",
            expected="style, or both a and b",
        )
    if style is None and scale == "log-ratio":
        raise ContrastError(
            "a difference between styles has no ratio between runs",
            got="a and b on the scale 'log-ratio'",
            fix="compare one style, or use the scale 'difference'",
        )
    return (style,) if style is not None else (str(a), str(b))


def _name(run: Any, otherwise: str) -> str:
    path = getattr(run, "path", None)
    return path.name if path is not None and path.name else otherwise


def _read(
    run: Any, styles: tuple[str, ...], question: Question, ids: Sequence[str] | None
) -> xr.DataArray:
    values = read_answers(run, styles, question, ids).values
    if absent := lacking(values, styles, question):
        raise role_fault(run, styles, question, " and ".join(absent))
    return values


def _side(values: xr.DataArray, styles: tuple[str, ...]) -> dict[str, tuple[str, np.ndarray]]:
    """Map each item to its task and its values in a style, or the difference of two."""
    if len(styles) == 1:
        return by_item(values, styles[0])
    pairs = pair_styles(values, styles[0], styles[1])
    return {
        str(item): (str(task), difference)
        for item, task, difference in zip(
            pairs.items, pairs.tasks, pairs.first - pairs.second, strict=True
        )
    }
