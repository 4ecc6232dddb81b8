"""What heads fetch, not only where they look: weights times the length of what they bring."""

import numpy as np
from jaxtyping import Float

from attnprobe.errors import MeasureError
from attnprobe.measures.arrays import divide, enrichment
from attnprobe.measures.rows import StepRows


def value_norm_mass(rows: StepRows) -> Float[np.ndarray, "layer head asked key_role"]:
    """A span's share of what a head fetches: Σ ‖α f(x)‖ over its keys, over that of all keys.

    Source: Kobayashi et al. 2020 (arXiv 2004.10102): α is the weight, f(x) the key's value moved
    through the part of the output matrix that belongs to the head. Sinks are mostly keys of large
    weights and short values; by this measure they shrink. Over all keys the shares sum to 1, so
    that heads and layers compare, which the lengths themselves do not.

    It misleads because lengths have no direction: vectors that cancel, or that point where nothing
    reads them, count like those that decide.
    """
    fetched = _fetched(rows)
    total = np.broadcast_to(fetched.sum(-1, keepdims=True), (*fetched.shape[:3], _n_roles(rows)))
    return divide(fetched @ rows.members.astype(fetched.dtype), total)


def value_norm_enrichment(rows: StepRows) -> Float[np.ndarray, "layer head asked key_role"]:
    """Enrichment of what a head fetches, in bits: `value_norm_mass` among the keys that are no
    sinks, over the share of the visible keys; 0 where every key brings the same.
    """
    counted = rows.counted[:, rows.asked]
    fetched = np.where(counted[:, None], _fetched(rows), 0)
    total = np.broadcast_to(fetched.sum(-1, keepdims=True), (*fetched.shape[:3], _n_roles(rows)))
    members = rows.members.astype(fetched.dtype)
    n_keys = counted.astype(fetched.dtype) @ members
    n_visible = counted.sum(-1, keepdims=True).astype(fetched.dtype)
    return enrichment(divide(fetched @ members, total), n_keys[:, None], n_visible[:, None])


def _fetched(rows: StepRows) -> Float[np.ndarray, "layer head asked key"]:
    """Return weight times length, of the steps asked for."""
    if rows.value_norms is None:
        raise MeasureError(
            "the lengths of moved values are missing", fix="extract again with --keep value_norms"
        )
    return rows.weights[:, :, rows.asked] * rows.value_norms[:, :, None]


def _n_roles(rows: StepRows) -> int:
    return rows.members.shape[1]
