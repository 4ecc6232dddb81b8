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
from attnprobe.measures.head_roles import HEAD_ROLES, head_roles
from attnprobe.measures.roles import match_roles, role_order, sort_roles
from attnprobe.measures.runs import (
    MEASURES,
    Measure,
    StepMassRun,
    find_measure,
    measure,
    roles_by_style,
)

__all__ = [
    "EPSILON",
    "HEAD_ROLES",
    "MEASURES",
    "Measure",
    "StepMass",
    "StepMassRun",
    "density",
    "enrichment",
    "find_measure",
    "head_roles",
    "match_roles",
    "mean_over_steps",
    "measure",
    "role_density",
    "role_enrichment",
    "role_mass",
    "role_order",
    "roles_by_style",
    "sink_mass",
    "sort_roles",
    "span_mass",
]
