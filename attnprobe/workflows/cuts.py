"""Which attention to cut: between roles, and at random elsewhere."""

from collections.abc import Sequence

import numpy as np

from attnprobe.attention import Edge
from attnprobe.measures.roles import match_roles
from attnprobe.types import Encoding, Span, step_query


def spans_of_role(encoding: Encoding, role: str) -> list[Span]:
    """Return the spans of a role, or of all roles of a pattern such as `step_*`."""
    roles = [span.role for span in encoding.spans]
    return [encoding.spans[place] for place in match_roles(role, roles)]


def outcome_positions(encoding: Encoding, role: str | None) -> list[int]:
    """Return the positions of the predicted tokens of a role; all of them for None."""
    n_prompt = encoding.n_prompt
    if role is None:
        return list(range(n_prompt, encoding.n_tokens))
    spans = [span for span in spans_of_role(encoding, role) if span.start >= n_prompt]
    return [position for span in spans for position in range(span.start, span.stop)]


def edges_between(
    encoding: Encoding, query: str, key: str, window: tuple[int, ...] | None
) -> list[Edge]:
    """Return the edges from one role to another that are before it, or none."""
    edges = []
    for span in spans_of_role(encoding, query):
        start, stop = span.start, span.stop
        if start >= encoding.n_prompt:  # what is predicted looks from the position before it
            first = start - encoding.n_prompt
            start = step_query(encoding.n_prompt, first)
            stop = step_query(encoding.n_prompt, first + len(span))
        edges += [
            Edge(window, None, (start, stop), (other.start, other.stop))
            for other in spans_of_role(encoding, key)
            if other.start < stop
        ]
    return edges


def random_edges(
    encoding: Encoding, edges: Sequence[Edge], rng: np.random.Generator
) -> list[Edge] | None:
    """Cut as many keys, drawn from elsewhere, from the same queries.

    They are drawn from the tokens that all of these queries see and that are not cut, but for
    sinks, on which heads rest.

    Args:
        encoding: The record.
        edges: What is cut.
        rng: Where chance comes from.

    Returns:
        The other edges; None where there are not as many tokens elsewhere.
    """
    found: list[Edge] = []
    for queries in dict.fromkeys(edge.queries for edge in edges):
        own = [edge for edge in edges if edge.queries == queries]
        cut = {at for edge in own for at in range(edge.keys[0], edge.keys[1] or encoding.n_tokens)}
        elsewhere = sorted(set(range(1, queries[0])) - cut - set(encoding.sinks))
        if len(elsewhere) < len(cut):
            return None
        drawn = sorted(rng.choice(elsewhere, len(cut), replace=False).tolist())
        found += [Edge(own[0].layers, None, queries, (at, at + 1)) for at in drawn]
    return found
