"""The frozen values that pass between the stages, and the one off-by-one of the whole project."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int32

N_POSITION_SINKS = 4
"""How many first positions are set apart as sinks (Xiao et al. 2024 keep the first four)."""

VIRTUAL_ID = -1
"""Id of a virtual token: a learned key before the text that is no token and has no query of its
own (P-Tuning v2, prefix tuning)."""

PREFIX = "prefix"
"""Role of the virtual tokens."""


def step_query(n_prompt: int, step: int) -> int:
    """Return the query row at which the `step`-th predicted token is read.

    The token at position `n_prompt + step` is predicted from the row before it. Everything else
    that needs this off-by-one calls this function.
    """
    return n_prompt - 1 + step


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt or target that plays one role."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """One problem in one style of prompting."""

    id: str
    """Unique within a dataset."""
    item: str
    """The problem; records of the same item in different styles are a pair."""
    style: str
    """The way of prompting."""
    prompt: tuple[Segment, ...]
    """What the model is given."""
    target: tuple[Segment, ...] = ()
    """What it should answer; empty when only generation is wanted."""
    task: str = ""
    """The problem family, the unit of claims about new tasks."""
    split: str = ""
    """`train`, `seen`, `unseen-parameters`, `unseen`, or a name of the user's."""
    joiner: str = "\n"
    """Text between neighbouring segments, and between prompt and target."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the dataset knows (JSON values)."""
    where: str = ""
    """File and line it was read from, for error messages."""

    @property
    def prompt_text(self) -> str:
        """The prompt as the model reads it, with the joiner that leads over to the target."""
        return self.joiner.join(s.text for s in self.prompt) + self.joiner

    @property
    def target_text(self) -> str:
        """The target as the model should write it."""
        return self.joiner.join(s.text for s in self.target)


@dataclass(frozen=True, slots=True)
class Span:
    """A segment in tokens: the half-open range `[start, stop)`."""

    start: int
    stop: int
    role: str

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class KeyGroup:
    """A run of keys whose attention is summed: a span, or the part of one that is (or is no) sink.

    Groups partition the tokens, so a row's masses over all groups sum to 1, and a span's mass is
    the sum over its groups, with or without the sinks.
    """

    start: int
    stop: int
    span: int
    """Index into the spans."""
    is_sink: bool

    def __len__(self) -> int:
        return self.stop - self.start


def n_virtual(ids: Int32[np.ndarray, " token"]) -> int:
    """Return how many virtual tokens stand at the beginning."""
    return int((ids == VIRTUAL_ID).cumprod().sum())


def key_groups(spans: Sequence[Span], sinks: Sequence[int]) -> tuple[KeyGroup, ...]:
    """Cut spans at their sinks: each sink position is a group of its own.

    Args:
        spans: A partition of the tokens, in order.
        sinks: Positions set apart.

    Returns:
        Groups in order, a partition of the same tokens.
    """
    apart = set(sinks)
    groups: list[KeyGroup] = []
    for index, span in enumerate(spans):
        start = span.start
        for position in range(span.start, span.stop):
            if position in apart:
                if start < position:
                    groups.append(KeyGroup(start, position, index, is_sink=False))
                groups.append(KeyGroup(position, position + 1, index, is_sink=True))
                start = position + 1
        if start < span.stop:
            groups.append(KeyGroup(start, span.stop, index, is_sink=False))
    return tuple(groups)


@dataclass(frozen=True, slots=True)
class Encoding:
    """A record in tokens."""

    record: Record
    ids: Int32[np.ndarray, " token"]
    """Token ids of prompt + target, without padding; virtual tokens first, if there are any."""
    texts: tuple[str, ...]
    """Readable text of each token."""
    spans: tuple[Span, ...]
    """Partition of all tokens."""
    n_prompt: int
    """How many tokens belong to the prompt, virtual ones included."""
    sinks: tuple[int, ...]
    """Positions set apart as sinks: the first four of the text, and every BOS. Virtual tokens are
    none, whatever they draw: they have a role of their own."""
    generated: str | None = None
    """What the model wrote after the prompt; None where the tokens are the record's own target."""

    @property
    def n_tokens(self) -> int:
        """Length of prompt + target, virtual tokens included."""
        return len(self.ids)

    @property
    def n_virtual(self) -> int:
        """How many virtual tokens come before the text."""
        return n_virtual(self.ids)

    @property
    def queries(self) -> range:
        """Every position that has a query: all but those of virtual tokens."""
        return range(self.n_virtual, self.n_tokens)

    @property
    def given(self) -> Int32[np.ndarray, " given"]:
        """The ids that the model is given: all but those of virtual tokens."""
        return self.ids[self.n_virtual :]

    @property
    def n_steps(self) -> int:
        """How many tokens are predicted."""
        return self.n_tokens - self.n_prompt

    @property
    def groups(self) -> tuple[KeyGroup, ...]:
        """The key groups that masses are summed over."""
        return key_groups(self.spans, self.sinks)

    @property
    def step_queries(self) -> range:
        """The query rows at which the target tokens are read, one per step."""
        return range(step_query(self.n_prompt, 0), step_query(self.n_prompt, self.n_steps))

    @property
    def digest(self) -> str:
        """Half a SHA-256 of everything that shapes a capture of this record: what went in.

        What the model wrote is left out, so that the digest is the same before and after.
        """
        stop = self.n_tokens if self.generated is None else self.n_prompt
        spans = tuple(span for span in self.spans if span.stop <= stop)
        sinks = tuple(sink for sink in self.sinks if sink < stop)
        parts = (_described(self.record), self.n_prompt, spans, sinks, self.texts[:stop])
        return hashlib.sha256(repr(parts).encode() + self.ids[:stop].tobytes()).hexdigest()[:32]


def _described(record: Record) -> str:
    """Write down a record without the place it was read from."""
    segments = [[(s.role, s.text) for s in part] for part in (record.prompt, record.target)]
    names = (record.id, record.item, record.style, record.task, record.split, record.joiner)
    return json.dumps([names, segments, dict(record.meta)], default=repr)


@dataclass(frozen=True, slots=True)
class Rows:
    """Softmax rows of chosen queries, ragged: row r covers keys `[start[r], start[r] + length[r])`.

    Keys outside that range were not visible and weigh exactly 0.
    """

    queries: Int32[np.ndarray, " row"]
    """Query position of each row, ascending."""
    start: Int32[np.ndarray, " row"]
    """First key of each row."""
    length: Int32[np.ndarray, " row"]
    """Keys in each row."""
    weights: Float32[np.ndarray, "layer head pair"]
    """The rows one after another; `pair` runs over (row, key)."""


@dataclass(frozen=True, slots=True)
class Masses:
    """Attention summed over key groups, for some queries."""

    queries: Int32[np.ndarray, " query"]
    """Query position of each row, ascending."""
    mass: Float32[np.ndarray, "layer head query group"]
    """Probability mass; sums to 1 over `group`."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """What each token contributed to every prediction after it, by one method."""

    scores: Float32[np.ndarray, "step source"]
    """Credit of the source tokens; NaN for those that do not come before the step's token."""
    delta: Float32[np.ndarray, " step"]
    """A step's sum of scores minus what it should be; NaN where the method promises no sum."""
    method: str
    """Name in the registry of methods."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """What was credited and how: `target`, `unit`, and the method's own settings (JSON values)."""


def is_source(n_prompt: int, n_steps: int) -> Bool[np.ndarray, "step source"]:
    """Tell which tokens come before the token that a step predicts, and so can have a share in it.

    Returns:
        True for the `n_prompt + i` tokens before the token of step i.
    """
    return np.tri(n_steps, n_prompt + n_steps, step_query(n_prompt, 0), dtype=bool)


@dataclass(frozen=True, slots=True)
class Capture:
    """What one forward pass showed about one record, with the proof that it is true."""

    encoding: Encoding
    visible: Int32[np.ndarray, "layer query group"]
    """Keys that the mask left visible, per layer, for the `visible_queries`, by key group."""
    visible_queries: Int32[np.ndarray, " query"]
    """Every query that `rows`, `step_mass` or `pooled` speaks of, ascending."""
    log_probs: Float32[np.ndarray, " step"]
    """Natural log-probability of each target token, in nats."""
    predicted: Int32[np.ndarray, " step"]
    """The most probable token id at each step."""
    errors: Float32[np.ndarray, " layer"]
    """Worst relative error of the certificate, per layer."""
    batch_size: int = 1
    """Records that shared the forward pass (fewer than planned where memory ran out)."""
    rows: Rows | None = None
    step_mass: Masses | None = None
    pooled: Masses | None = None
    value_norms: Float32[np.ndarray, "layer head key"] | None = None
    """How long the vector is that a head fetches from each key when it pays it all its weight: the
    key's value, moved through the output matrix."""
    attributions: Mapping[str, Attribution] = field(default_factory=dict)
    """By name of the method."""


@runtime_checkable
class Sink(Protocol):
    """Where captures go. The store's writer is one; a list in a notebook can be another."""

    def append(self, capture: Capture, /) -> None:
        """Take one capture, in the order of the records."""
        ...
