"""Measures of a run: where each head looks, as labelled arrays with units."""

from attnprobe.measures.arrays import (
    EPSILON,
    StepMass,
    density,
    enrichment,
    mean_over_steps,
    role_density,
    role_enrichment,
    role_mass,
    sink_mass,
    span_mass,
)
from attnprobe.measures.credit import Credit
from attnprobe.measures.head_roles import HEAD_ROLES, head_roles
from attnprobe.measures.influence import LayerMaps, solve_steps
from attnprobe.measures.profiles import DistanceProfile, beyond_recency, bin_of, fit_profile
from attnprobe.measures.recency import enrichment_beyond_recency
from attnprobe.measures.registry import MEASURES, NEEDS, Measure, beyond_profile, find_measure
from attnprobe.measures.roles import match_roles, role_order, sort_roles
from attnprobe.measures.rows import StepRows
from attnprobe.measures.runs import (
    StepMassRun,
    by_head,
    distance_profile,
    measure,
    roles_by_style,
)
from attnprobe.measures.sinks import SINK_WEIGHT, find_sinks

__all__ = [
    "EPSILON", "HEAD_ROLES", "MEASURES", "NEEDS", "SINK_WEIGHT", "Credit", "DistanceProfile",
    "LayerMaps", "Measure", "StepMass", "StepMassRun", "StepRows", "beyond_profile",
    "beyond_recency", "bin_of", "by_head", "density", "distance_profile", "enrichment",
    "enrichment_beyond_recency", "find_measure", "find_sinks", "fit_profile", "head_roles",
    "match_roles", "mean_over_steps", "measure", "role_density", "role_enrichment", "role_mass",
    "role_order", "roles_by_style", "sink_mass", "solve_steps", "sort_roles", "span_mass",
]  # fmt: skip
