"""Where the terms of a sequence stand among tokens, and which of them an answer follows from."""

import re

from attnprobe.errors import DatasetError
from attnprobe.types import Encoding, Span

_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


def term_spans(encoding: Encoding, role: str) -> tuple[Span, ...]:
    """Find the printed terms of a role.

    Args:
        encoding: Of a record of number sequences.
        role: Such as `history` or `answer`.

    Returns:
        A span for each term, with the role `history_1`, `history_2` …
    """
    found: list[Span] = []
    for span in encoding.spans:
        if span.role != role:
            continue
        at = [token for token in range(span.start, span.stop) for _ in encoding.texts[token]]
        text = "".join(encoding.texts[span.start : span.stop])
        for match in _NUMBER.finditer(text):
            start, stop = at[match.start()], at[match.end() - 1] + 1
            found.append(Span(start, stop, f"{role}_{len(found) + 1}"))
    return tuple(found)


def oracle_spans(encoding: Encoding) -> tuple[tuple[Span, ...], ...]:
    """Find the terms that the rule computes each number of the answer from.

    A model that was not told the rule's parameters needs other terms as well, to work them out; no
    term but these enters the computation itself.

    Args:
        encoding: Of a record of number sequences, whose meta holds an `oracle`.

    Returns:
        For each number of the answer, the spans of its sources, in the history or among earlier
        numbers of the answer.

    Raises:
        DatasetError: If the record has no oracle, or its terms are not those that are printed.
    """
    record = encoding.record
    oracle = record.meta.get("oracle")
    where = f"record '{record.id}'"
    if not oracle:
        raise DatasetError(
            "it is not known what the answer follows from", where=where,
            expected="a record of number sequences, with meta.oracle",
        )  # fmt: skip
    there = {role: term_spans(encoding, role) for role in ("history", "answer")}
    found = tuple(len(spans) for spans in there.values())
    expected = len(record.meta["history"]), len(oracle)
    if found != expected:
        raise DatasetError(
            "the printed terms are not those of the sequence", where=where,
            got=f"{found[0]} in the history and {found[1]} in the answer",
            expected=f"{expected[0]} and {expected[1]}",
        )  # fmt: skip
    return tuple(tuple(there[role][place] for role, place in sources) for sources in oracle)
