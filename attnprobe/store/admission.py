"""What a capture must be before it is stored: whole, finite, and shaped as the run is."""

from collections.abc import Sequence

import numpy as np

from attnprobe.errors import StoreError
from attnprobe.types import VIRTUAL_ID, Capture, Encoding, Masses, Rows, is_source


def admit(capture: Capture, n_layers: int, n_heads: int, methods: Sequence[str] = ()) -> None:
    """Refuse a capture that does not fit its own encoding or the run.

    Args:
        capture: What is to be stored.
        n_layers: Layers of the run.
        n_heads: Heads of the run.
        methods: Attribution methods of the run.

    Raises:
        StoreError: Naming the record, the part and the fault.
    """
    encoding = capture.encoding
    where, n_groups = f"record '{encoding.record.id}'", len(encoding.groups)
    _partition(capture, where)
    _shape("log_probs", capture.log_probs, (encoding.n_steps,), where)
    _shape("predicted", capture.predicted, (encoding.n_steps,), where)
    _shape("errors", capture.errors, (n_layers,), where)
    _queries("visible_queries", capture.visible_queries, encoding, where)
    n_visible = len(capture.visible_queries)
    _shape("visible", capture.visible, (n_layers, n_visible, n_groups), where)
    if not np.isfinite(capture.errors).all():
        raise StoreError(
            "the certificate is no number", where=where, got=capture.errors.tolist(),
            expected="one finite error per layer",
        )  # fmt: skip
    if np.isnan(capture.log_probs).any():
        raise StoreError("a log-probability is NaN", where=where)
    if capture.visible.size and capture.visible.min() < 0:
        raise StoreError("a number of visible keys is negative", where=where)
    if capture.rows is not None:
        _rows(capture.rows, n_layers, n_heads, encoding, where)
    for name, masses in (("step_mass", capture.step_mass), ("pooled", capture.pooled)):
        if masses is not None:
            _masses(name, masses, (n_layers, n_heads, n_groups), encoding, where)
    if capture.value_norms is not None:
        _value_norms(capture.value_norms, (n_layers, n_heads, encoding.n_tokens), where)
    for method in methods:
        _attribution(capture, method, where)


def _partition(capture: Capture, where: str) -> None:
    encoding = capture.encoding
    edges = [0, *(span.stop for span in encoding.spans)]
    starts = [span.start for span in encoding.spans]
    if not encoding.n_tokens or starts != edges[:-1] or edges[-1] != encoding.n_tokens:
        raise StoreError(
            "the spans do not partition the tokens", where=where,
            got=[(span.start, span.stop) for span in encoding.spans],
            expected=f"0 to {encoding.n_tokens} without gap or overlap",
        )  # fmt: skip
    if encoding.n_prompt < 1 or encoding.n_prompt > encoding.n_tokens:
        raise StoreError(
            "the prompt must hold at least one token, and no more than there are",
            where=where,
            got=encoding.n_prompt,
        )
    _virtual(encoding, where)
    if len(encoding.texts) != encoding.n_tokens:
        raise StoreError(
            "token texts are missing", where=where, got=len(encoding.texts),
            expected=encoding.n_tokens,
        )  # fmt: skip


def _virtual(encoding: Encoding, where: str) -> None:
    """Virtual tokens come before the text, and a prompt is more than they are."""
    n_virtual = encoding.n_virtual
    if (encoding.given < 0).any():
        raise StoreError(
            "a token id is negative", where=where, got=int(encoding.given.min()),
            expected=f"{VIRTUAL_ID} for virtual tokens, before all others",
        )  # fmt: skip
    if n_virtual >= encoding.n_prompt:
        raise StoreError(
            "the prompt holds virtual tokens alone", where=where, got=f"{n_virtual} of them",
            expected=f"fewer than the {encoding.n_prompt} tokens of the prompt",
        )  # fmt: skip


def _rows(rows: Rows, n_layers: int, n_heads: int, encoding: Encoding, where: str) -> None:
    _queries("rows.queries", rows.queries, encoding, where)
    n_rows, n_tokens = len(rows.queries), encoding.n_tokens
    _shape("rows.start", rows.start, (n_rows,), where)
    _shape("rows.length", rows.length, (n_rows,), where)
    stops = rows.start.astype(np.int64) + rows.length
    if n_rows and (rows.start.min() < 0 or rows.length.min() < 1 or stops.max() > n_tokens):
        raise StoreError(
            "a row reaches outside the record or is empty", where=where,
            expected=f"rows of at least one key within 0 to {n_tokens}",
        )  # fmt: skip
    n_pairs = int(rows.length.sum(dtype=np.int64))
    _shape("rows.weights", rows.weights, (n_layers, n_heads, n_pairs), where)


def _masses(
    name: str, masses: Masses, expected: tuple[int, int, int], encoding: Encoding, where: str
) -> None:
    _queries(f"{name}.queries", masses.queries, encoding, where)
    n_layers, n_heads, n_groups = expected
    _shape(f"{name}.mass", masses.mass, (n_layers, n_heads, len(masses.queries), n_groups), where)


def _value_norms(norms: np.ndarray, expected: tuple[int, int, int], where: str) -> None:
    _shape("value_norms", norms, expected, where)
    good = np.isfinite(norms) & (norms >= 0)
    if not good.all():
        layer, head, token = map(int, np.argwhere(~good)[0])
        raise StoreError(
            "a length in `value_norms` is none",
            where=f"{where}, layer position {layer}, head position {head}, token {token}",
            got=float(norms[layer, head, token]), expected="a finite number, 0 or more",
        )  # fmt: skip


def _attribution(capture: Capture, method: str, where: str) -> None:
    encoding, attribution = capture.encoding, capture.attributions.get(method)
    if attribution is None:
        raise StoreError(
            f"the capture lacks the attribution '{method}', which the run keeps", where=where
        )
    name, shape = f"attributions['{method}']", (encoding.n_steps, encoding.n_tokens)
    _shape(f"{name}.scores", attribution.scores, shape, where)
    _shape(f"{name}.delta", attribution.delta, shape[:1], where)
    source = is_source(encoding.n_prompt, encoding.n_steps)
    good = np.isfinite(attribution.scores) == source
    if not good.all():
        step, token = map(int, np.argwhere(~good)[0])
        raise StoreError(
            f"a score of `{name}` cannot be stored", where=f"{where}, step {step}, token {token}",
            got=float(attribution.scores[step, token]),
            expected="finite numbers before the step's token, NaN from there on",
        )  # fmt: skip
    if np.isinf(attribution.delta).any():
        raise StoreError(f"`{name}.delta` is infinite", where=where)


def _queries(name: str, queries: np.ndarray, encoding: Encoding, where: str) -> None:
    first, stop = encoding.n_virtual, encoding.n_tokens
    ascending = bool((np.diff(queries) > 0).all())
    if len(queries) and not (ascending and queries[0] >= first and queries[-1] < stop):
        raise StoreError(
            f"`{name}` is not in order", where=where,
            expected=f"ascending positions below {stop}"
            + (f", from {first} on: virtual tokens have no queries" if first else ""),
        )  # fmt: skip


def _shape(name: str, array: np.ndarray, expected: tuple[int, ...], where: str) -> None:
    if array.shape != expected:
        raise StoreError(
            f"`{name}` has the wrong shape", where=where, got=array.shape, expected=expected
        )
