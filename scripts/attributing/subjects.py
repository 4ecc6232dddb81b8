"""Problems whose answers a model predicts, and what they are known to follow from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from attnprobe.encode import encode
from attnprobe.models import LoadedModel
from attnprobe.tasks.sequences import SequenceSettings, find_family, generate
from attnprobe.tasks.sequences.oracle import oracle_spans, term_spans
from attnprobe.types import Encoding, Span

SEED = 2000
"""Of the test problems, as in the results."""
LOOKED_AT = 50
"""Problems of a family among which correctly predicted ones are looked for."""


@dataclass(frozen=True)
class Subject:
    """A problem with numbers that the model predicts."""

    encoding: Encoding
    history: tuple[Span, ...]
    """Its terms."""
    numbers: tuple[Span, ...]
    """The numbers of its answer."""
    correct: tuple[bool, ...]
    """Whether the model predicts all tokens of each."""
    sources: tuple[tuple[Span, ...], ...]
    """What each follows from."""

    @property
    def terms(self) -> tuple[Span, ...]:
        """All terms, of history and answer."""
        return self.history + self.numbers

    def candidates(self, number: int) -> tuple[Span, ...]:
        """Return the terms before a number of the answer."""
        return self.terms[: len(self.history) + number]

    def truth(self, number: int) -> np.ndarray:
        """Tell which of the candidates are true sources."""
        return np.array([term in self.sources[number] for term in self.candidates(number)])

    @property
    def columns(self) -> list[tuple[int, int]]:
        """Cut the tokens into terms, each with what stands between it and the next, and the rest.

        The prompt's other segments are a column each.
        """
        starts = {term.start for term in self.terms}
        starts |= {span.start for span in self.encoding.spans if len(span)}
        edges = [*sorted(starts), self.encoding.n_tokens]
        return [(a, b) for a, b in pairwise(edges) if a < b]


def subjects(loaded: LoadedModel, family: str, n_problems: int) -> Iterator[Subject]:
    """Yield the first test problems of a family of which the model predicts a number or more."""
    split = "unseen" if find_family(family).held_out else "seen"
    settings = SequenceSettings(
        families=(family,), styles=("direct",), split=split, n_per_family=LOOKED_AT, seed=SEED
    )
    found = 0
    for record in generate(settings):
        encoding = encode(
            record, loaded.tokenizer, max_tokens=loaded.max_tokens, n_ids=loaded.n_ids
        )
        numbers = term_spans(encoding, "answer")
        correct = predicted(loaded, encoding, numbers)
        if any(correct):
            history = term_spans(encoding, "history")
            yield Subject(encoding, history, numbers, correct, oracle_spans(encoding))
            found += 1
        if found == n_problems:
            return


@torch.inference_mode()
def predicted(loaded: LoadedModel, encoding: Encoding, numbers: Sequence[Span]) -> tuple[bool, ...]:
    """Tell which numbers have the most probable tokens only, each after the true ones before it."""
    ids = torch.from_numpy(encoding.ids.astype(np.int64)).to(loaded.device)
    best = loaded.model(input_ids=ids[None]).logits[0].argmax(-1)
    same = best[:-1] == ids[1:]
    return tuple(bool(same[span.start - 1 : span.stop - 1].all()) for span in numbers)
