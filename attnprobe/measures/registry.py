"""The registry of measures: what each is called, what it needs of a run, and how it is taken."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attnprobe.errors import SelectionError, nearest
from attnprobe.measures.arrays import (
    role_density,
    role_enrichment,
    role_lift,
    role_mass,
    sink_mass,
)
from attnprobe.measures.credit import credit, credit_share
from attnprobe.measures.head_roles import step_scores
from attnprobe.measures.influence import rollout, total_enrichment, total_influence
from attnprobe.measures.profiles import DistanceProfile
from attnprobe.measures.recency import enrichment_beyond_recency
from attnprobe.measures.rows import content_distance, content_entropy, distance, entropy
from attnprobe.measures.sinks import measured_sink_mass
from attnprobe.measures.values import value_norm_enrichment, value_norm_mass

NEEDS = {
    "step_mass": "attention of the steps, summed by segment: --keep rows, steps, pooled or full",
    "rows": "attention rows of the steps: --keep rows or full",
    "full": "every attention row, of every layer and head: --keep full",
    "value_norms": "the lengths of moved values, beside rows: --keep rows --keep value_norms",
    "attribution": "a stored attribution: --attribute METHOD",
}
"""What a measure may need of a run, and what gives it."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure that can be asked for by name."""

    unit: str
    description: str
    """One sentence for captions and exports."""
    per_step: Callable[[Any], np.ndarray] | None = None
    """From what is needed of one record (`StepMass`, `StepRows`, `LayerMaps` or `Credit`), values
    [layer, head, step, key_role], or [layer, head, step] without `has_key`; axes that the measure
    does not have have length 1. NaN where it is undefined."""
    has_key: bool = True
    """Whether it is taken per key role; if not, it speaks of the query alone."""
    needs: str = "step_mass"
    """One of `NEEDS`."""
    axes: tuple[str, ...] = ("layer", "head")
    """Which of these it has values for."""
    across: Callable[[Iterable[Any]], Iterator[np.ndarray]] | None = None
    """In place of `per_step`, where a record's values depend on the others: takes all records, and
    yields the values of each in turn."""
    where_undefined: str = ""
    """What to do where it is undefined everywhere though the roles are there, for messages."""
    method: str | None = None
    """Of an attribution: which one; the run's only one by default."""

    def values(self, records: Iterable[Any]) -> Iterator[np.ndarray]:
        """Measure records, in order."""
        if self.across is not None:
            return self.across(records)
        if self.per_step is None:
            raise SelectionError(
                "this measure measures nothing", got="neither per_step nor across",
                expected="one of the two",
            )  # fmt: skip
        return map(self.per_step, records)


def beyond_profile(profile: DistanceProfile) -> Measure:
    """Make a measure like `enrichment_beyond_recency`, with the distance profile of other text.

    Args:
        profile: What `distance_profile` found in a run of neutral text, of all layers and heads
            that will be measured.
    """

    def across(records: Iterable[Any]) -> Iterator[np.ndarray]:
        return enrichment_beyond_recency(records, profile)

    return replace(MEASURES["enrichment_beyond_recency"], across=across)


MEASURES: dict[str, Measure] = {
    "enrichment": Measure(
        "bits",
        "log2 of a span's share of the attention over its share of the visible keys, sinks set "
        "apart; 0 where attention is even",
        role_enrichment,
    ),
    "enrichment_beyond_recency": Measure(
        "bits",
        "log2 of a span's share of the attention over the share that its distance alone gives it, "
        "sinks set apart; 0 where distance explains all",
        needs="rows",
        across=enrichment_beyond_recency,
        where_undefined="no other span has the distances of this one; take a profile of neutral "
        "text (`beyond_profile`), or choose roles that occur in one record, the key first",
    ),
    "lift": Measure(
        "ratio",
        "a span's share of the attention over its share of the visible keys, sinks set apart; 1 "
        "where attention is even",
        role_lift,
    ),
    "mass": Measure("probability", "attention on the whole span, its sinks included", role_mass),
    "density": Measure(
        "probability per key",
        "attention on the whole span per visible key, its sinks included",
        role_density,
    ),
    "total_influence": Measure(
        "probability",
        "attention on the whole span, directly or by way of the tokens predicted before, each head "
        "by itself",
        total_influence,
        needs="rows",
    ),
    "total_enrichment": Measure(
        "bits",
        "log2 of a span's share of the total influence of the prompt over its share of the "
        "prompt's visible keys, sinks set apart; 0 where attention is even",
        total_enrichment,
        needs="rows",
    ),
    "rollout": Measure(
        "share",
        "what of the span reaches the step through the layers up to this one, by the mean weights "
        "of all heads and half for the residual stream",
        rollout,
        needs="full",
        axes=("layer",),
    ),
    "value_norm_mass": Measure(
        "share",
        "the span's share of what the head fetches: attention times the length of the value moved "
        "through the output matrix",
        value_norm_mass,
        needs="value_norms",
    ),
    "value_norm_enrichment": Measure(
        "bits",
        "log2 of a span's share of what the head fetches over its share of the visible keys, sinks "
        "set apart; 0 where every key brings the same",
        value_norm_enrichment,
        needs="value_norms",
    ),
    "sink_mass": Measure(
        "probability",
        "attention on the sinks: the first positions and BOS",
        sink_mass,
        has_key=False,
    ),
    "measured_sink_mass": Measure(
        "probability",
        "attention on the keys that are sinks of the head in this record: of the first positions, "
        "BOS and delimiters, those of a mean weight above 0.3",
        measured_sink_mass,
        has_key=False,
        needs="rows",
    ),
    "entropy": Measure(
        "bits",
        "entropy of the attention over keys, sinks included; 0 where one key takes all",
        entropy,
        has_key=False,
        needs="rows",
    ),
    "content_entropy": Measure(
        "bits",
        "entropy of the attention over keys, sinks set apart; 0 where one key takes all",
        content_entropy,
        has_key=False,
        needs="rows",
    ),
    "distance": Measure(
        "tokens",
        "mean distance from query to key, weighted by attention, sinks included",
        distance,
        has_key=False,
        needs="rows",
    ),
    "content_distance": Measure(
        "tokens",
        "mean distance from query to key, weighted by attention, sinks set apart",
        content_distance,
        has_key=False,
        needs="rows",
    ),
    **{
        role: Measure(
            "probability", description, step_scores(role), has_key=False, needs="rows"
        )
        for role, description in (
            ("previous_token", "attention on the token right before the query"),
            ("duplicate_token", "attention on earlier occurrences of the query's own token"),
            ("induction", "attention on what followed earlier occurrences of the query's token"),
            ("retrieval", "share of predicted tokens that stand earlier in the text of which the "
             "strongest weight is on an occurrence"),
        )
    },
    "attribution": Measure(
        "",
        "credit of the span for the predicted tokens, summed",
        credit,
        needs="attribution",
        axes=(),
    ),
    "attribution_share": Measure(
        "share",
        "the span's share of the absolute credit for a predicted token",
        credit_share,
        needs="attribution",
        axes=(),
    ),
}  # fmt: skip
"""Every measure by name; that of an attribution may name it: `attribution:attn_lrp`."""


def find_measure(name: str) -> Measure:
    """Look a measure up by name.

    Args:
        name: One of `MEASURES`; `attribution:METHOD` takes one of several stored attributions.

    Raises:
        SelectionError: If there is none of that name.
    """
    known, colon, method = name.partition(":")
    if known not in MEASURES:
        raise SelectionError(
            "no measure of that name", got=f"'{name}'", fix=nearest(known, MEASURES)
        )
    found = MEASURES[known]
    if not colon:
        return found
    if found.needs != "attribution" or not method:
        raise SelectionError(
            "this measure takes no name after a colon", got=f"'{name}'",
            expected=f"'{known}'" if method else f"'{known}:METHOD'",
        )  # fmt: skip
    return replace(found, method=method)
