"""The tokens of another answer, one for each predicted token of a record."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int32

from attnprobe.encode.records import encode
from attnprobe.errors import AttnprobeError, RecordError, nearest
from attnprobe.types import Encoding, Record, Segment

ANSWER = "answer"
"""Role that a foil given as plain text replaces."""


def foil_ids(
    encoding: Encoding, tokenizer: Any, name: str, *, chat: bool = False
) -> Int32[np.ndarray, " step"]:
    """Return the tokens of a record's foil: what each predicted token is held against.

    The record's meta has it under a name of the dataset's choice: a text, in the place of the
    target's answer, or an object from roles of the target to texts. Where target and foil are the
    same, so are their tokens, and there is nothing to explain.

    Args:
        encoding: Of the record with its own target.
        tokenizer: That it was encoded with.
        name: Of the entry of `meta`.
        chat: As the record was encoded.

    Returns:
        A token id for each of the record's steps.

    Raises:
        RecordError: If there is no such entry, it is no foil, or it has another number of tokens.
    """
    record = encoding.record
    where = f"{record.where or 'record'} (id '{record.id}')"
    other = replace(record, target=_replaced(record, name, where))
    try:
        found = encode(other, tokenizer, chat=chat)
    except AttnprobeError as error:
        raise RecordError(
            f"the foil cannot be encoded: {error.what}", where=where, got=error.got,
            expected=error.expected, fix=f"change meta.{name}",
        ) from error  # fmt: skip
    ids = found.ids[found.n_prompt :]
    if len(ids) != encoding.n_steps:
        raise RecordError(
            "the foil has another number of tokens than the target", where=where, got=len(ids),
            expected=encoding.n_steps, fix=f"let meta.{name} be as many tokens long",
        )  # fmt: skip
    return ids


def _replaced(record: Record, name: str, where: str) -> tuple[Segment, ...]:
    """Return the target with the foil's texts in the place of its own."""
    if name not in record.meta:
        raise RecordError(
            f"the record has no foil: its meta has no '{name}'", where=where,
            fix=nearest(name, record.meta),
        )  # fmt: skip
    given, roles = record.meta[name], [segment.role for segment in record.target]
    if isinstance(given, str):
        given = {ANSWER if ANSWER in roles or len(roles) != 1 else roles[0]: given}
    if not isinstance(given, Mapping) or not all(isinstance(text, str) for text in given.values()):
        raise RecordError(
            f"meta.{name} is no foil", where=where, got=repr(given)[:80],
            expected="a text, or an object from roles of the target to texts",
        )  # fmt: skip
    if unknown := [role for role in given if roles.count(role) != 1]:
        raise RecordError(
            f"meta.{name} speaks of a role that the target does not have once", where=where,
            got=f"'{unknown[0]}'", fix=nearest(unknown[0], roles),
        )  # fmt: skip
    return tuple(
        Segment(segment.role, given.get(segment.role, segment.text)) for segment in record.target
    )
