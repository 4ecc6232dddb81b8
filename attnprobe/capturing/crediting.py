"""Attributions of a captured record, each by passes of its own over the unpadded tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from attnprobe.attribution import Focus, all_params, attribute, find_method, find_target, spread
from attnprobe.encode import foil_ids
from attnprobe.errors import AttnprobeError, SelectionError, nearest
from attnprobe.models import LoadedModel
from attnprobe.types import Attribution, Capture, Encoding

BY = ("token", "segment")
"""What a method is asked to credit: each token by itself, or each segment as a whole, whose score
is then spread evenly over its tokens."""


@dataclass(frozen=True, slots=True)
class Crediting:
    """Which methods credit the tokens of each record, for what, and how."""

    methods: tuple[str, ...] = ()
    """By their names in `attnprobe.attribution.METHODS`."""
    target: str = "logprob"
    """What they credit to the tokens before it."""
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By method: settings that differ from its own, and `by`, one of `BY`, where tokens or segments
    shall be credited other than the method does by itself."""
    foil: str | None = None
    """Of the target `contrast`: the entry of a record's meta that holds its foil (see `foil_ids`);
    None for the model's most probable other token."""
    chat: bool = False
    """Whether records are encoded in the chat template: a foil is, too."""

    def __post_init__(self) -> None:
        if unasked := sorted(set(self.params) - set(self.methods)):
            raise SelectionError(
                "settings of a method that is not asked for", where="--attribute",
                got=f"'{unasked[0]}'", fix=nearest(unasked[0], self.methods),
            )  # fmt: skip
        if self.foil is not None and not find_target(self.target).against_foil:
            raise SelectionError(
                "this target takes no foils", where="--attribute-foil",
                got=f"target '{self.target}'", expected="--attribute-target contrast",
            )  # fmt: skip
        for method in self.methods:
            self.described(method)

    def by(self, method: str) -> str:
        """Say what a method is asked to credit.

        Raises:
            SelectionError: If that is nothing it could.
        """
        found = self.params.get(method, {}).get("by")
        if found is None:
            return BY[find_method(method).by_span]
        if found not in BY:
            raise SelectionError(
                "nothing that could be credited", where=f"method '{method}', by", got=repr(found),
                fix=nearest(str(found), BY),
            )  # fmt: skip
        return str(found)

    def own(self, method: str) -> dict[str, Any]:
        """Return the settings of a method that are its own."""
        return {name: value for name, value in self.params.get(method, {}).items() if name != "by"}

    def described(self, method: str) -> dict[str, Any]:
        """Write down everything that shapes the scores of a method, for a run to keep.

        Raises:
            SelectionError: If there is no such method, target or setting.
        """
        found = all_params(method, self.target, self.own(method))
        found |= {} if self.by(method) == "token" else {"by": self.by(method)}
        return found if self.foil is None else found | {"foil": f"meta.{self.foil}"}


def credited(loaded: LoadedModel, capture: Capture, crediting: Crediting) -> Capture:
    """Add attributions to a capture.

    Args:
        loaded: The model that was captured.
        capture: What is known so far.
        crediting: Which methods, for what, and how.

    Returns:
        The capture with them.

    Raises:
        AttnprobeError: Of the kind that `attribute` raises, naming the record.
    """
    encoding = capture.encoding
    try:
        found = {name: _found(loaded, encoding, name, crediting) for name in crediting.methods}
    except AttnprobeError as error:
        named = f"record '{encoding.record.id}'"
        where = error.where or named
        if encoding.record.id not in where:
            where = f"{named}, {where}"
        raise type(error)(
            error.what, where=where, got=error.got, expected=error.expected, fix=error.fix
        ) from error
    return replace(capture, attributions=found)


def _found(
    loaded: LoadedModel, encoding: Encoding, method: str, crediting: Crediting
) -> Attribution:
    n_prompt, n_tokens, name = encoding.n_prompt, encoding.n_tokens, crediting.foil
    spans = [span for span in encoding.spans if len(span)]
    whole = crediting.by(method) == "segment"
    tokenizer, chat = loaded.tokenizer, crediting.chat
    focus = Focus(
        spans=spans if whole else None,
        foils=None if name is None else foil_ids(encoding, tokenizer, name, chat=chat),
    )
    found = attribute(
        loaded.model, encoding.ids, n_prompt, method, crediting.target, focus,
        **crediting.own(method),
    )  # fmt: skip
    return spread(found, spans, n_prompt, n_tokens) if whole else found
