"""Every method over problems of known sources: where it points, and whether that matters."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnprobe.attention import Edge, knockout
from attnprobe.attribution import METHODS, Focus, attribute
from attnprobe.measures.pointing import chance, pointing
from attnprobe.models import LoadedModel
from attnprobe.workflows.outcomes import log_probs
from attnprobe.workflows.perturbing import PERTURBATIONS
from attnprobe.workflows.removing import Removal, losses_along
from attributing.subjects import Subject, subjects

KNOCKOUT = "knockout"
METHOD_NAMES = (*METHODS, KNOCKOUT)
LOGIT = ("attn_lrp", "alti_logit", "grad_attention")
"""Methods that are asked for the logit: they are made for it; the others for the
log-probability."""
PARAMS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"points": 4, "max_points": 64},
    "shapley": {"samples": 10},
}
"""Fewer points and orders than by default, so that the table takes minutes."""
REMOVAL = Removal(batch_size=16)


def scores(loaded: LoadedModel, subject: Subject, method: str) -> np.ndarray:
    """Credit every token for each number of the answer: [number, token]; 0 after it."""
    encoding = subject.encoding
    if method == KNOCKOUT:
        return np.nan_to_num(_knocked_out(loaded, subject))
    by_span = METHODS[method].by_span
    focus = Focus(spans=subject.columns if by_span else None, target_spans=subject.numbers)
    target = "logit" if method in LOGIT else "logprob"
    found = attribute(
        loaded.model, encoding.ids, encoding.n_prompt, method, target, focus,
        **PARAMS.get(method, {}),
    ).scores  # fmt: skip
    return np.nan_to_num(_by_token(found, subject) if by_span else found).astype(np.float64)


def _by_token(found: np.ndarray, subject: Subject) -> np.ndarray:
    """Spread the credit of each column evenly over its tokens."""
    whole = np.zeros((len(found), subject.encoding.n_tokens))
    for column, (start, stop) in enumerate(subject.columns):
        whole[:, start:stop] = found[:, column, None] / (stop - start)
    return whole


def _knocked_out(loaded: LoadedModel, subject: Subject) -> np.ndarray:
    """Credit a column with what is lost where no token after it sees it."""
    encoding = subject.encoding
    n_tokens = encoding.n_tokens  # the first token stays: heads rest on it; after the last is none
    columns = [(start, stop) for start, stop in subject.columns if start and stop < n_tokens]
    cuts = [[], *([Edge(None, None, (stop, None), (start, stop))] for start, stop in columns)]
    lost = np.zeros((len(subject.numbers), encoding.n_tokens))
    found: list[np.ndarray] = []
    for first in range(0, len(cuts), REMOVAL.batch_size):
        some = cuts[first : first + REMOVAL.batch_size]
        with knockout(loaded.model, per_example=some):
            ids = [encoding.ids.tolist()] * len(some)
            found += list(log_probs(loaded, ids, first=encoding.n_prompt))
    for row, number in enumerate(subject.numbers):
        values = [float(one[number.start - 1 : number.stop - 1].sum()) for one in found]
        for (start, stop), value in zip(columns, values[1:], strict=True):
            lost[row, start:stop] = (values[0] - value) / (stop - start)
    return lost


def pointed(subject: Subject, found: np.ndarray) -> list[list[float]]:
    """Hold the credit of terms against the true sources, for each number that is predicted."""
    told = []
    for number, correct in enumerate(subject.correct):
        if correct:
            terms = [found[number, term.start : term.stop] for term in subject.candidates(number)]
            credit = np.array([one.sum() for one in terms])
            told.append(list(pointing(credit, subject.truth(number)).values()))
    return told


def by_chance(subject: Subject) -> list[list[float]]:
    """What a random ranking would reach, for each number that is predicted."""
    truths = [subject.truth(n) for n, correct in enumerate(subject.correct) if correct]
    return [list(chance(len(truth), int(truth.sum())).values()) for truth in truths]


def losses(
    loaded: LoadedModel, subject: Subject, rankings: Sequence[np.ndarray]
) -> dict[str, list[Any]]:
    """Take tokens away in the order of each ranking, by each perturbation."""
    encoding = subject.encoding
    positions = [at for number in subject.numbers for at in range(number.start, number.stop)]
    ranked = [one.sum(0)[: encoding.n_prompt] for one in rankings]
    return {
        name: losses_along(loaded, encoding, positions, ranked, how, REMOVAL).tolist()
        for name, how in PERTURBATIONS.items()
    }


def measure(
    loaded: LoadedModel,
    families: Iterable[str],
    sizes: tuple[int, int],
    file: Path,
    on_family: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Measure every method on problems of each family; what the file holds is not done again.

    Args:
        loaded: The model.
        families: By name.
        sizes: Problems of each family, and how many of them are also taken apart.
        file: Lines of answers, added to as they come.
        on_family: Called with the name of each family that is done.

    Returns:
        Facts of each problem.
    """
    n_problems, n_taken_apart = sizes
    known = {(row["record"], row["losses"] is not None): row for row in _lines(file)}
    rows = []
    for family in families:
        for place, subject in enumerate(subjects(loaded, family, n_problems)):
            record, apart = subject.encoding.record.id, place < n_taken_apart
            row = known.get((record, True)) or (None if apart else known.get((record, False)))
            if row is None:
                row = {"family": family, "record": record, **_facts(loaded, subject, apart)}
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")
            rows.append(row if apart else row | {"losses": None})
        on_family(family)
    return rows


def _facts(loaded: LoadedModel, subject: Subject, apart: bool) -> dict[str, Any]:
    found = {method: scores(loaded, subject, method) for method in METHOD_NAMES}
    return {
        "pointing": {method: pointed(subject, credit) for method, credit in found.items()},
        "chance": by_chance(subject),
        "losses": losses(loaded, subject, list(found.values())) if apart else None,
    }


def _lines(file: Path) -> list[dict[str, Any]]:
    """Read what is there; a line that was cut off is done again."""
    if not file.is_file():
        return []
    whole = file.read_text(encoding="utf-8").rpartition("\n")
    if whole[2]:
        file.write_text(whole[0] + whole[1], encoding="utf-8")
    return [json.loads(line) for line in whole[0].splitlines()]
