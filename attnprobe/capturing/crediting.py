"""Attributions of a captured record, each by passes of its own over the unpadded tokens."""

from dataclasses import replace

from attnprobe.attribution import attribute
from attnprobe.errors import AttnprobeError
from attnprobe.models import LoadedModel
from attnprobe.types import Capture


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
        found = {
            method: attribute(loaded.model, encoding.ids, encoding.n_prompt, method, target)
            for method in methods
        }
    except AttnprobeError as error:
        where = ", ".join(filter(None, (f"record '{encoding.record.id}'", error.where)))
        raise type(error)(
            error.what, where=where, got=error.got, expected=error.expected, fix=error.fix
        ) from error
    return replace(capture, attributions=found)
