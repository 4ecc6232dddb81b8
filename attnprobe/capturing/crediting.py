"""Attributions of a captured record, each by passes of its own over the unpadded tokens."""

from dataclasses import replace

from attnprobe.attribution import Focus, attribute, find_method, spread
from attnprobe.errors import AttnprobeError
from attnprobe.models import LoadedModel
from attnprobe.types import Attribution, Capture, Encoding


def credited(
    loaded: LoadedModel, capture: Capture, methods: tuple[str, ...], target: str
) -> Capture:
    """Add attributions to a capture.

    Args:
        loaded: The model that was captured.
        capture: What is known so far.
        methods: Which methods.
        target: What each credits to the tokens before it.

    Returns:
        The capture with them.

    Raises:
        AttnprobeError: Of the kind that `attribute` raises, naming the record.
    """
    encoding = capture.encoding
    try:
        found = {method: _found(loaded, encoding, method, target) for method in methods}
    except AttnprobeError as error:
        where = ", ".join(filter(None, (f"record '{encoding.record.id}'", error.where)))
        raise type(error)(
            error.what, where=where, got=error.got, expected=error.expected, fix=error.fix
        ) from error
    return replace(capture, attributions=found)


def _found(loaded: LoadedModel, encoding: Encoding, method: str, target: str) -> Attribution:
    """Attribute one record; methods that cost a pass for each source are asked for its segments."""
    n_prompt, n_tokens = encoding.n_prompt, encoding.n_tokens
    if not find_method(method).by_span:
        return attribute(loaded.model, encoding.ids, n_prompt, method, target)
    spans = [span for span in encoding.spans if len(span)]
    focus = Focus(spans=spans)
    found = attribute(loaded.model, encoding.ids, n_prompt, method, target, focus)
    return spread(found, spans, n_prompt, n_tokens)
