"""A world of hops: the answer looks at the step before it, and only the first step at a source."""

from collections.abc import Iterator

import numpy as np

from attnprobe.contrasts.flips import sign_flip_test
from attnprobe.measures.influence import total_influence
from attnprobe.measures.rows import StepRows
from validation.study import ALPHA, N_TASKS, Expectation, Outcome, Study, at_most, power

N_HEADS, N_CHAINS, N_ITEMS = 64, 4, 10
N_INSTRUCTION, N_HISTORY, N_STEPS = 10, 12, 4
N_PROMPT = N_INSTRUCTION + N_HISTORY
HOP = 0.7
"""What of a step's attention goes one hop back, in the heads that chain."""


def rows_of(rng: np.random.Generator, to_history: bool) -> StepRows:
    """Draw the rows of one record; chains end in the history, or in the instruction."""
    n_keys = N_PROMPT + N_STEPS
    queries = N_PROMPT - 1 + np.arange(N_STEPS)
    visible = np.arange(n_keys) <= queries[:, None]
    noise = np.where(visible, rng.gamma(0.5, size=(N_HEADS, N_STEPS, n_keys)), 0)
    weights = noise / noise.sum(-1, keepdims=True)
    source = np.zeros((N_STEPS, n_keys))
    span = slice(N_INSTRUCTION, N_PROMPT) if to_history else slice(0, N_INSTRUCTION)
    source[0, span] = 1 / len(range(*span.indices(n_keys)))
    source[np.arange(1, N_STEPS), queries[1:]] = 1  # the token that the step before predicted
    weights[:N_CHAINS] = (1 - HOP) * weights[:N_CHAINS] + HOP * source
    keys = np.arange(n_keys)
    return StepRows(
        weights=weights[None], visible=visible[None], queries=queries,
        apart=np.zeros(n_keys, bool),
        members=((keys >= N_INSTRUCTION) & (keys < N_PROMPT))[:, None], key_roles=("history",),
        asked=np.array([N_STEPS - 1]), ids=keys, texts=("",) * n_keys,
        sinks=np.zeros(n_keys, bool),
    )  # fmt: skip


def hops(rng: np.random.Generator) -> Outcome:
    """Test the last step's mass on the history, and its total influence."""
    found: dict[str, list[np.ndarray]] = {"mass": [], "total influence": []}
    for _ in range(N_TASKS * N_ITEMS):
        sides = [rows_of(rng, to_history) for to_history in (True, False)]
        direct = [rows.weights[0, :, -1] @ rows.members[:, 0] for rows in sides]
        total = [total_influence(rows)[0, :, 0, 0] for rows in sides]
        found["mass"].append(direct[0] - direct[1])
        found["total influence"].append(total[0] - total[1])
    outcome: dict[str, float] = {}
    for name, differences in found.items():
        units = np.stack(differences).reshape(N_TASKS, N_ITEMS, N_HEADS).mean(axis=1)
        significant = sign_flip_test(units, 10_000, rng).p_adjusted < ALPHA
        outcome[f"{name}: chains"] = significant[:N_CHAINS].mean()
        outcome[f"{name}: other heads"] = significant[N_CHAINS:].any()
    return outcome


def studies() -> Iterator[Study]:
    """List the studies of this file."""
    yield Study(
        "planted/chain of 4 hops",
        "4 of 64 heads look one step back; the first step looks at the history in one style, at "
        "the instruction in the other",
        100, hops,
        (
            Expectation("mass: chains", "the last hop is the same in both styles", 0.0, 0.05),
            power("total influence: chains"),
            at_most("total influence: other heads"),
            at_most("mass: other heads"),
        ),
    )  # fmt: skip
