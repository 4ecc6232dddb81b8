"""Maths problems as records: drawn by seed, split by template, written in styles."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from random import Random

from attnprobe import types
from attnprobe.errors import DatasetError, nearest
from attnprobe.tasks import styles
from attnprobe.tasks.maths import arithmetic, geometry, proportions, rationals, word_problems
from attnprobe.tasks.maths.derivation import Step
from attnprobe.tasks.maths.template import Language, Problem, Template

TEMPLATES: dict[str, Template] = {
    template.name: template
    for group in (arithmetic, rationals, proportions, word_problems, geometry)
    for template in group.TEMPLATES
}
"""Every template by name, group by group."""

HELD_OUT = (
    "precedence",
    "remainder_division",
    "fraction_subtraction",
    "decimal_multiplication",
    "discount",
    "weighted_average",
    "pursuit",
    "chicken_rabbit",
    "two_step_equation",
)
"""A choice of templates to hold out as `unseen`: from every group, each with a relative that is
trained."""

SPLITS = ("train", "seen", "unseen")
LANGUAGES: dict[str, tuple[Language, ...]] = {"en": ("en",), "zh": ("zh",), "both": ("en", "zh")}
_INSTRUCTION = {"en": "Solve the problem below.", "zh": "解答下面的题目。"}
_MAX_REDRAWS = 1000


@dataclass(frozen=True, slots=True)
class MathsSettings:
    """What a dataset of maths problems holds.

    Raises:
        DatasetError: If a name is unknown or a size impossible.
    """

    n: int = 1000
    """Problems in all, spread evenly over the templates; the first ones get what is left over."""
    language: str = "en"
    """`en`, `zh`, or `both`: each problem in both, on the same side of the split."""
    styles: tuple[str, ...] = ("direct", "stepwise", "coarse")
    """Names in `styles.STYLES`."""
    merge: int = 2
    """How many derivation steps the style `coarse` merges into one."""
    templates: tuple[str, ...] = ()
    """Which templates; empty for all 44."""
    unseen: tuple[str, ...] = ()
    """Templates whose problems all go to the split `unseen`, such as `HELD_OUT`."""
    train_share: float = 0.7
    """Share of the other problems that goes to `train`, in every template; the rest is `seen`."""
    splits: tuple[str, ...] = SPLITS
    """Which splits to write."""
    seed: int = 0
    """The same seed gives the same bytes."""

    def __post_init__(self) -> None:
        for option, kind, names, known in (
            ("language", "language", (self.language,), LANGUAGES),
            ("styles", "style", self.styles, styles.STYLES),
            ("templates", "template", self.templates, TEMPLATES),
            ("unseen", "template", self.unseen, self.templates or TEMPLATES),
            ("splits", "split", self.splits, SPLITS),
        ):
            for name in names:
                if name not in known:
                    raise DatasetError(
                        f"unknown {kind}", where=option, got=f"'{name}'", fix=nearest(name, known)
                    )
            if len(set(names)) < len(names):
                raise DatasetError(f"the same {kind} twice", where=option, got=", ".join(names))
        if self.n < len(self.chosen):
            raise DatasetError(
                "too few problems",
                where="n",
                got=self.n,
                expected=f"one for each of {len(self.chosen)} templates or more",
                fix="ask for more problems or name fewer templates",
            )
        if not 0 <= self.train_share <= 1:
            raise DatasetError(
                "share is out of range",
                where="train_share",
                got=self.train_share,
                expected="0 to 1",
            )
        if not self.styles:
            raise DatasetError("no style to write", where="styles", fix="name one or more")
        styles.CoarseReading("merge", self.merge)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The templates, in the order of `TEMPLATES`."""
        return tuple(name for name in TEMPLATES if name in (self.templates or TEMPLATES))


def generate(settings: MathsSettings) -> Iterator[types.Record]:
    """Draw the problems and write each in every style.

    Args:
        settings: What the dataset holds.

    Yields:
        Records, template by template. `item` is `maths-<template>-<number>`, followed by the
        language where there are two. `meta` holds `kind` ("exact"), `template`, `group`,
        `operands`, `answer_text`, `lowest_terms` and what every record of a style holds.

    Raises:
        DatasetError: If a template has fewer different problems than asked for.
    """
    counts = _spread(settings.n, len(settings.chosen))
    trained = _train_counts(settings, counts)
    for name, count, n_train in zip(settings.chosen, counts, trained, strict=True):
        rest = "unseen" if name in settings.unseen else "seen"
        for index, problem in enumerate(draw_problems(TEMPLATES[name], count, settings.seed)):
            split = "train" if index < n_train else rest
            if split in settings.splits:
                yield from _records(problem, index, split, settings)


def draw_problems(template: Template, count: int, seed: int) -> tuple[Problem, ...]:
    """Draw different problems of a template.

    No two have the same operands in whatever order, so that a problem and its mirror image never
    fall on two sides of a split.

    Raises:
        DatasetError: If the template does not have so many.
    """
    digest = hashlib.sha256(f"maths/{seed}/{template.name}".encode()).digest()
    rng = Random(int.from_bytes(digest))
    problems: list[Problem] = []
    known: set[tuple[str, ...]] = set()
    for _ in range(count):
        for _ in range(_MAX_REDRAWS):
            problem = Problem(template, template.draw(rng))
            key = tuple(sorted(operand.text for operand in problem.operands))
            if key not in known:
                break
        else:
            raise DatasetError(
                "template has no more different problems",
                where=f"template '{template.name}'",
                got=f"{len(problems)} problems",
                expected=f"{count}",
                fix="ask for fewer problems",
            )
        known.add(key)
        problems.append(problem)
    return tuple(problems)


def _spread(total: int, parts: int) -> list[int]:
    return [total // parts + (index < total % parts) for index in range(parts)]


def _train_counts(settings: MathsSettings, counts: Sequence[int]) -> list[int]:
    """Share the training problems out by largest remainder, so that their number is exact."""
    share = Fraction(str(settings.train_share))
    quotas = [
        Fraction(0) if name in settings.unseen else share * count
        for name, count in zip(settings.chosen, counts, strict=True)
    ]
    trained = [int(quota) for quota in quotas]
    left = int(sum(quotas, Fraction(1, 2))) - sum(trained)
    by_remainder = sorted(range(len(quotas)), key=lambda i: trained[i] - quotas[i])
    for index in by_remainder[:left]:
        trained[index] += 1
    return trained


def _records(
    problem: Problem, index: int, split: str, settings: MathsSettings
) -> Iterator[types.Record]:
    languages = LANGUAGES[settings.language]
    for language in languages:
        item = f"maths-{problem.template.name}-{index:04d}"
        item += f"-{language}" if len(languages) > 1 else ""
        written = _to_write(problem, item, language, settings.merge)
        for style in settings.styles:
            record = styles.record_of(written, style, split=split)
            if style in ("coarse", "coarse-filler"):
                record = _with_merged_steps(record, problem.merged_steps(settings.merge))
            yield record


def _to_write(problem: Problem, item: str, language: Language, merge: int) -> styles.Problem:
    template = problem.template
    return styles.Problem(
        item=item,
        task=template.name,
        instruction=_INSTRUCTION[language],
        given=(types.Segment("question", problem.question(language)),),
        steps=tuple(_step_to_write(step) for step in problem.steps),
        answer=tuple(number.text for number in problem.answer),
        separator=template.separator[language],
        language=language,
        coarse=styles.CoarseReading("merge", merge),
        meta={
            "kind": "exact",
            "template": template.name,
            "group": template.group,
            "operands": [operand.json for operand in problem.operands],
            "answer_text": problem.answer_text(language),
            "lowest_terms": template.lowest_terms,
        },
    )


def _step_to_write(step: Step) -> styles.Step:
    expression, _, result = str(step).rpartition(" = ")
    return styles.Step(expression, result)


def _with_merged_steps(record: types.Record, lines: Sequence[str]) -> types.Record:
    """Write merged steps by the derivation itself.

    Styles merge by replacing equal numbers in the text, which may meet a number that only happens
    to be equal; the derivation knows which result is meant.
    """
    *_, answer = record.target
    fill = styles.filler if record.style == "coarse-filler" else str
    steps = (types.Segment(f"step_{k}", fill(line)) for k, line in enumerate(lines, start=1))
    return replace(record, target=(*steps, answer))
