"""Draw instances, keep each in one split only, and write them as records."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnprobe.errors import DatasetError
from attnprobe.tasks.sequences.family import Family, Number, Parameters
from attnprobe.tasks.sequences.registry import FAMILIES, SPLITS
from attnprobe.tasks.sequences.settings import MIN_HISTORY, SequenceSettings
from attnprobe.tasks.styles import Problem, Segment, record_of
from attnprobe.types import Record

MAX_DRAWS = 4000
MIN_UNITS = 200
"""Least range of a real-valued history, in units of its last printed digit: the 2 % that an answer
may be off are then four such units."""
_ASKED = {
    ("en", "integer"): "Continue the sequence with the next {n} numbers.",
    ("en", "real"): "Continue the sequence with the next {n} numbers, rounded to {d} decimals.",
    ("zh", "integer"): "请续写数列，给出接下来的{n}个数。",
    ("zh", "real"): "请续写数列，给出接下来的{n}个数，保留{d}位小数。",
}


@dataclass(frozen=True, slots=True)
class Instance:
    """One sequence of a family."""

    family: Family
    parameters: Parameters
    terms: tuple[Number, ...]
    """History and answer, as they are printed."""


def generate(settings: SequenceSettings | None = None) -> Iterator[Record]:
    """Yield the records of a dataset of number sequences.

    A problem depends on seed, family, split, sizes and number format only, not on which other
    families or styles are asked for, nor on how many problems; neither does its place among them.

    Args:
        settings: What to make.

    Yields:
        For each family and problem, its record in every style.

    Raises:
        DatasetError: If no sequence of a family fits the sizes and the number format.
    """
    settings = settings or SequenceSettings()
    for name in settings.chosen_families:
        for number, instance in enumerate(instances(FAMILIES[name], settings)):
            problem = problem_of(instance, settings, number)
            for style in settings.styles:
                yield record_of(problem, style, split=settings.split)


def generate_tests(settings: SequenceSettings | None = None) -> Iterator[Record]:
    """Yield the three test splits, the random walk with the held-out families."""
    settings = settings or SequenceSettings()
    for split in ("seen", "unseen-parameters", "unseen"):
        yield from generate(settings.for_split(split))
    yield from generate(settings.for_split("unseen", ("random_walk",)))


def instances(family: Family, settings: SequenceSettings) -> Iterator[Instance]:
    """Yield different instances of one family, as many as the settings ask for."""
    drawn: set[tuple[Number, ...]] = set()
    for number in range(settings.n_per_family):
        instance = _draw(family, settings, number, drawn)
        drawn.add(instance.terms)
        yield instance


def problem_of(instance: Instance, settings: SequenceSettings, number: int) -> Problem:
    """Write out an instance: instruction, history, derivation, answer and oracle sources."""
    family, fmt, n_history = instance.family, settings.number_format, settings.history
    shown = [fmt.text(term) for term in instance.terms]
    places = range(n_history, len(shown))
    asked = _ASKED[settings.language, family.kind].format(n=settings.horizon, d=fmt.decimals)
    return Problem(
        item=f"{family.name}-{settings.split}-{number:04d}",
        task=family.name,
        instruction=asked,
        given=(Segment("history", fmt.separator.join(shown[:n_history])),),
        steps=tuple(
            family.step(instance.terms[:place], instance.parameters, shown[place], fmt)
            for place in places
        ),
        answer=tuple(shown[n_history:]),
        history=tuple(shown[:n_history]),
        separator=fmt.separator,
        language=settings.language,
        coarse=settings.coarse,
        meta=_meta(instance, settings),
    )


def _meta(instance: Instance, settings: SequenceSettings) -> dict[str, Any]:
    family, n_history = instance.family, settings.history
    return {
        "family": family.name,
        "kind": family.kind,
        "chaotic": family.chaotic,
        "control": family.control,
        "seed": settings.seed,
        "parameters": dict(instance.parameters),
        "number_format": settings.number_format.as_dict(),
        "history": list(instance.terms[:n_history]),
        "oracle": [
            [_where(source, n_history) for source in family.sources(place, instance.parameters)]
            for place in range(n_history, len(instance.terms))
        ],
    }


def _where(source: int, n_history: int) -> list[str | int]:
    """Say where a source lies: in the history, or among earlier answer numbers."""
    return ["history", source] if source < n_history else ["answer", source - n_history]


def _draw(
    family: Family, settings: SequenceSettings, number: int, drawn: set[tuple[Number, ...]]
) -> Instance:
    rng = _generator(family, settings, number)
    far = settings.split == "unseen-parameters"
    for _ in range(MAX_DRAWS):
        parameters = family.draw(rng, settings.shape, far=far)
        terms = family.unroll(parameters, settings.shape) if parameters["start"] else None
        if terms is None or tuple(terms) in drawn or not _moves(family, terms, settings):
            continue
        if split_of(terms) == settings.split:
            return Instance(family, parameters, tuple(terms))
    raise DatasetError(
        "no new sequence fits the sizes and the number format",
        where=f"family '{family.name}', split '{settings.split}', problem {number}",
        got=f"{MAX_DRAWS} draws, history {settings.history}, horizon {settings.horizon}, "
        f"digits {settings.number_format.digits}, decimals {settings.number_format.decimals}",
        fix="allow more digits, shorten history or horizon, or ask for fewer problems",
    )


def _moves(family: Family, terms: list[Number], settings: SequenceSettings) -> bool:
    """Say whether a sequence is more than a constant, and real values more than rounding."""
    history = terms[: settings.history]
    if family.kind == "integer":
        return len(set(terms)) >= 3
    return max(history) - min(history) >= MIN_UNITS / 10**settings.number_format.decimals


def split_of(terms: Sequence[Number]) -> str:
    """Return the one split that may hold a sequence.

    It follows from the first twelve terms alone, whatever family, seed or length they come with, so
    no sequence is ever in two splits, of one dataset or of several.
    """
    text = " ".join(repr(float(term)) for term in terms[:MIN_HISTORY])
    return SPLITS[_digest(text) % len(SPLITS)]


def _generator(family: Family, settings: SequenceSettings, number: int) -> np.random.Generator:
    name = _digest(f"{family.name}/{settings.split}")
    return np.random.default_rng(np.random.SeedSequence([settings.seed, name, number]))


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
