"""Virtual tokens before a text: keys that a model learned (P-Tuning v2, prefix tuning)."""

from dataclasses import replace

import numpy as np

from attnprobe.errors import EncodeError
from attnprobe.types import PREFIX, VIRTUAL_ID, Encoding, Span


def with_prefix(encoding: Encoding, n_virtual: int) -> Encoding:
    """Put virtual tokens before a text, as a span of the role `prefix`.

    They count as part of the prompt, so that positions are those of the keys that the model sees.
    They are no sinks, and are never queries.

    Args:
        encoding: Without virtual tokens.
        n_virtual: How many keys the model puts before the text.

    Returns:
        The encoding with them; the same one if there are none.

    Raises:
        EncodeError: If a segment has their role.
    """
    if not n_virtual:
        return encoding
    if any(span.role == PREFIX for span in encoding.spans):
        record = encoding.record
        raise EncodeError(
            "a segment has the role of the model's virtual tokens",
            where=f"{record.where or 'record'} (id '{record.id}')", got=f"role '{PREFIX}'",
            fix="give the segment another role",
        )  # fmt: skip
    ids = np.full(n_virtual, VIRTUAL_ID, np.int32)
    texts = tuple(f"[{PREFIX} {number}]" for number in range(n_virtual))
    moved = (Span(s.start + n_virtual, s.stop + n_virtual, s.role) for s in encoding.spans)
    return replace(
        encoding,
        ids=np.concatenate([ids, encoding.ids]),
        texts=texts + encoding.texts,
        spans=(Span(0, n_virtual, PREFIX), *moved),
        n_prompt=encoding.n_prompt + n_virtual,
        sinks=tuple(sink + n_virtual for sink in encoding.sinks),
    )
