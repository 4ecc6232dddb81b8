"""What the reference model reads: plain number text, and records of the trained families.

Everything follows from (seed, number of the chunk), and every sequence belongs to the split
`train`, as the data module decides it from the first twelve terms.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from attnprobe.errors import DatasetError
from attnprobe.tasks.sequences import SequenceSettings, families_of, instances
from attnprobe.tasks.sequences.generation import Instance, problem_of
from attnprobe.tasks.styles import NumberFormat, operand, record_of
from attnprobe.types import Record
from reference.wider import family_of

STYLES = ("direct", "stepwise", "coarse")
SHARES = {
    "arithmetic": 0.7, "geometric": 1.0, "second_difference": 1.2, "order2_recurrence": 1.6,
    "modular": 1.6, "run_length": 0.7, "copy_reverse": 0.8, "logistic_map": 0.8, "euler_ode": 0.8,
}  # fmt: skip
"""How often each trained family comes, relative to each other."""
PER_CHUNK = 2048
LONGEST = 400
"""Longer texts are left out, so that no batch outgrows the memory it is planned for."""
PROMPT_WEIGHT = 0.5
"""What a number of the prompt weighs in the loss, where one of the target weighs 1.

Later terms of a history follow from earlier ones and block sums from the terms, so they teach the
same as the target does, for no more computation; words of an instruction weigh 0."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """What a chunk is made of."""

    plain: float = 0.1
    """Share of plain number text."""
    wider: float = 0.25
    """Share of records with parameters outside the ranges of the data."""
    varied: float = 0.2
    """Share of records with other lengths, digits, decimals and separators than the default."""
    chinese: float = 0.15
    """Share of records with Chinese instructions."""
    practice: float = 0.0
    """Share of texts that practise computations and how to find their parameters."""
    families: dict[str, float] = field(default_factory=lambda: dict(SHARES))
    """How often each trained family comes, relative to each other."""


@dataclass(frozen=True, slots=True)
class Example:
    """One text in tokens."""

    ids: list[int]
    weights: list[float]
    """What each token weighs in the loss, as the token to be predicted."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of similar length, padded on the right: no later token is ever seen, so no mask."""

    ids: torch.Tensor
    weights: torch.Tensor
    n_tokens: int
    """Without padding."""


def batches_of(
    tokenizer: Any, seed: int, chunk: int, mixture: Mixture, tokens_per_batch: int
) -> list[Batch]:
    """Make one chunk of texts and cut it into batches, in mixed order."""
    rng = np.random.default_rng([seed, chunk])
    texts = [text for _ in range(PER_CHUNK) if (text := _draw(rng, mixture))]
    examples = [e for e in _encoded(tokenizer, texts) if len(e.ids) <= LONGEST]
    examples.sort(key=lambda example: len(example.ids))
    groups = list(_grouped(examples, tokens_per_batch))
    return [_padded(groups[k], tokenizer.pad_token_id) for k in rng.permutation(len(groups))]


def _draw(rng: np.random.Generator, mixture: Mixture) -> list[tuple[str, float]] | None:
    """Draw a text as pieces with their weight in the loss."""
    try:
        if rng.random() < mixture.plain:
            return _plain(rng)
        if mixture.practice and rng.random() < mixture.practice:
            return _practice(rng)
        instance, settings = draw_instance(rng, mixture)
        style = STYLES[int(rng.integers(3))]
        record = record_of(problem_of(instance, settings, 0), style, split="train")
    except DatasetError:  # sizes that a family cannot fill, or blocks that a coarse reading cannot
        return None
    return pieces_of(record)


def draw_instance(rng: np.random.Generator, mixture: Mixture) -> tuple[Instance, SequenceSettings]:
    """Draw a new sequence of the split `train`."""
    names = families_of("train")
    shares = np.array([mixture.families.get(name, 0) for name in names])
    name = names[int(rng.choice(len(names), p=shares / shares.sum()))]
    settings = SequenceSettings(
        families=(name,), styles=STYLES, split="train", n_per_family=1,
        seed=int(rng.integers(2**62)),
        language="zh" if rng.random() < mixture.chinese else "en",
    )  # fmt: skip
    if rng.random() < mixture.varied:
        settings = _varied(rng, settings)
    family = family_of(name, wider=rng.random() < mixture.wider)
    return next(iter(instances(family, settings))), settings


def _varied(rng: np.random.Generator, settings: SequenceSettings) -> SequenceSettings:
    digits = int(rng.integers(4, 7))
    decimals = int(rng.integers(1, digits - 2))  # two digits at least stay before the point
    fmt = NumberFormat(digits, decimals, (" ", " ", ", ")[int(rng.integers(3))])
    horizon = (3, 3, 6)[int(rng.integers(3))]
    history = int(rng.integers(12, 22))
    return replace(settings, history=history, horizon=horizon, number_format=fmt)


def pieces_of(record: Record) -> list[tuple[str, float]]:
    """Cut a record into pieces: instruction, numbers of the prompt, target."""
    pieces: list[tuple[str, float]] = []
    for segment in record.prompt:
        weight = 0.0 if segment.role == "instruction" else PROMPT_WEIGHT
        pieces.append((segment.text + record.joiner, weight))
    return [*pieces, (record.target_text, 1.0)]


def _plain(rng: np.random.Generator) -> list[tuple[str, float]]:
    """Bare sequences with their block sums, lines of derivations, sums, products, remainders."""
    kind = int(rng.integers(4))
    if kind == 3:
        return [("\n".join(_line(rng) for _ in range(6)), 1.0)]
    if kind == 2:
        return [(_sums(rng), 1.0)]
    instance, settings = draw_instance(rng, Mixture(wider=0.4, varied=0.5))
    problem = problem_of(instance, settings, 0)
    if kind == 1:
        return [("\n".join(step.text for step in problem.steps), 1.0)]
    return [(problem.separator.join([*problem.history, *problem.answer]), 1.0)]


def _sums(rng: np.random.Generator) -> str:
    """Random numbers of one size, then the sums of every three, counted back from the end."""
    decimals = 2 * int(rng.integers(2))
    top = 10 ** int(rng.integers(1, 5))
    values = rng.integers(-top if rng.random() < 0.4 else 0, top, 3 * int(rng.integers(2, 6)))
    sums = values.reshape(-1, 3).sum(1)
    return "\n".join(" ".join(_shown(v, decimals) for v in vs) for vs in (values, sums))


PRACTISED = {
    "order2_recurrence": 3.0, "geometric": 2.0, "second_difference": 1.0, "logistic_map": 1.0
}  # fmt: skip
"""Families whose steps are practised, and how often: those that compute with more than a carry."""


def _practice(rng: np.random.Generator) -> list[tuple[str, float]]:
    """Single steps of several sequences; or a few terms of one, and the steps that follow them.

    The terms are a window of a training sequence that is longer, so that they are no sequence by
    themselves; the first of them are small numbers, which give constants away most easily.
    """
    mixture = Mixture(wider=0.3, varied=0.3, families=PRACTISED)
    if rng.random() < 0.5:
        return [("\n".join(_step_somewhere(rng, mixture) for _ in range(6)), 1.0)]
    instance, settings = draw_instance(rng, mixture)
    count = int(rng.integers(4, 10))
    start = int(rng.integers(len(instance.terms) - count - 2)) if rng.random() < 0.5 else 0
    fmt = settings.number_format
    given = fmt.separator.join(fmt.text(term) for term in instance.terms[start : start + count])
    steps = [_step_at(instance, settings, start + count + k) for k in range(3)]
    return [("\n".join([given, *steps]), 1.0)]


def _step_somewhere(rng: np.random.Generator, mixture: Mixture) -> str:
    instance, settings = draw_instance(rng, mixture)
    return _step_at(instance, settings, int(rng.integers(2, len(instance.terms))))


def _step_at(instance: Instance, settings: SequenceSettings, place: int) -> str:
    fmt, terms = settings.number_format, instance.terms
    return instance.family.step(
        terms[:place], instance.parameters, fmt.text(terms[place]), fmt
    ).text


def _line(rng: np.random.Generator) -> str:
    """One computation on random numbers, as steps are written."""
    kind = int(rng.integers(4))
    if kind == 0:
        a, b, c = (int(v) for v in rng.integers(-9999, 10000, 3) // 10 ** rng.integers(0, 4, 3))
        return f"{operand(str(a))} + {operand(str(b))} - {operand(str(c))} = {a + b - c}"
    if kind == 1:
        k, x, c = (int(rng.integers(-9, 10)), int(rng.integers(-9999, 10000)),
                   int(rng.integers(-99, 100)))  # fmt: skip
        return (
            f"{operand(str(k))}*{operand(str(x))} {'+' if c >= 0 else '-'} {abs(c)} = {k * x + c}"
        )
    if kind == 2:
        p = int(rng.integers(11, 48))
        a, x, c = (int(v) for v in rng.integers(0, p, 3))
        return f"({a}*{x} + {c}) mod {p} = {(a * x + c) % p}"
    rate, x = int(rng.integers(50, 400)) / 100, int(rng.integers(1, 9999)) / 100
    return f"{rate:.2f}*{x:.2f} = {rate * x:.2f}"


def _shown(value: int, decimals: int) -> str:
    return f"{value / 10**decimals:.{decimals}f}"


def _encoded(tokenizer: Any, texts: list[list[tuple[str, float]]]) -> Iterator[Example]:
    """Tokenize pieces by themselves: this tokenizer never merges across a line break."""
    flat = [text for pieces in texts for text, _ in pieces]
    encoded = iter(tokenizer(flat, add_special_tokens=False)["input_ids"])
    for pieces in texts:
        ids, weights = [tokenizer.bos_token_id], [0.0]
        for _, weight in pieces:
            part = next(encoded)
            ids += part
            weights += [weight] * len(part)
        yield Example([*ids, tokenizer.eos_token_id], [*weights, 1.0])


def _grouped(examples: list[Example], tokens_per_batch: int) -> Iterator[list[Example]]:
    """Cut texts, sorted by length, into batches of about equally many tokens."""
    group: list[Example] = []
    for example in examples:
        if group and (len(group) + 1) * len(example.ids) > tokens_per_batch:
            yield group
            group = []
        group.append(example)
    yield group


def _padded(group: list[Example], pad: int) -> Batch:
    width = max(len(example.ids) for example in group)
    ids = torch.full((len(group), width), pad)
    weights = torch.zeros(len(group), width)
    for row, example in enumerate(group):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        weights[row, : len(example.ids)] = torch.tensor(example.weights)
    return Batch(ids, weights, sum(len(example.ids) for example in group))
