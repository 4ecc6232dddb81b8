"""A run and its model → what changes when attention from one role to another is cut."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from attnprobe.attention import Edge, Survey, knockout
from attnprobe.capturing import Decoding, generate
from attnprobe.contrasts.interventions import Changes, Outcomes, changes
from attnprobe.encode.generated import text_with_offsets
from attnprobe.errors import AttnprobeError, RecordError, SelectionError
from attnprobe.measures.roles import match_roles, require_role, sort_roles
from attnprobe.models import LoadedModel
from attnprobe.store import Run
from attnprobe.tasks.scoring import score_record
from attnprobe.types import Encoding, Span, step_query
from attnprobe.workflows.outcomes import log_probs, prefix, refuse_virtual
from attnprobe.workflows.reloading import reload_model


@dataclass(frozen=True, slots=True)
class KnockoutSettings:
    """What is cut, and what is looked at meanwhile."""

    query: str = "answer"
    """Role of the tokens that shall not look: predicted ones, at the positions that predict them,
    or ones of the prompt. `step_*` takes several roles as one."""
    keys: tuple[str, ...] = ("history",)
    """Roles that they shall not look at, each by itself."""
    layers: tuple[int, ...] | None = None
    """Layers; all if None."""
    window: int | None = None
    """With it, not all those layers at once but windows of so many of them, one after another."""
    stride: int | None = None
    """Layers from the begin of one window to the next; None for windows that do not overlap."""
    outcome: str | None = None
    """Role whose log-probability is looked at; None for `query`, or the whole target where that is
    of the prompt."""
    written: bool = False
    """Whether the model also writes, greedily, from the first token of `outcome` on, for the pass
    rate. Every token that it writes is kept from looking."""
    records: int | None = None
    """At most so many records of each style, the first ones."""
    batch_size: int = 8
    """Cuts that share a forward pass."""
    by: Literal["task", "item"] = "task"
    """`task` for claims about new tasks, `item` for these tasks only."""
    seed: int = 0
    """Of the resamples behind the intervals."""

    def __post_init__(self) -> None:
        for name in ("window", "stride", "records", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SelectionError(
                    "too small", where=f"--{name.replace('_', '-')}", got=value, expected="≥ 1"
                )
        if self.stride is not None and self.window is None:
            raise SelectionError("a stride needs windows", where="--stride", fix="add --window")
        if not self.keys:
            raise SelectionError("nothing to cut", where="--to", expected="a role, such as history")
        if self.by not in ("task", "item"):
            raise SelectionError(
                "unknown unit of inference", where="--by", got=self.by, expected="task or item"
            )


def knockout_changes(
    run: Run,
    settings: KnockoutSettings | None = None,
    model: str | LoadedModel | None = None,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Changes:
    """Cut attention between roles in a run's model, and see its predictions change.

    Every record is run again, with and without each cut, and paired with itself. Only the direct
    path is cut; see `attnprobe.attention.knockout`.

    Args:
        run: An open run.
        settings: What to cut.
        model: The model or its name, where it is not found under the name in the run.
        device: Where it runs.
        trust_remote_code: Run the code that comes with it.
        on_progress: Called with records done and records in all.

    Returns:
        Changes of `log_prob` (the sum over the outcome's tokens, nats) and, with `written`, of
        `passed`, for every window of layers, key role and style.

    Raises:
        ModelError: If the model is not there, or is another than that of the run.
        SelectionError: If there is no such role or layer, or a cut would leave a row empty.
        ContrastError: If there are too few tasks or items.
    """
    settings = settings or KnockoutSettings()
    ids = chosen_records(run, settings.records)
    _check_roles(run, ids, settings)
    loaded = reload_model(run, model, device=device, trust_remote_code=trust_remote_code)
    windows = _windows(settings, loaded)
    found: dict[str, list[np.ndarray]] = {"log_prob": [], "passed": []}
    on_progress(0, len(ids))
    for done, record_id in enumerate(ids, start=1):
        encoding = run.encoding(record_id)
        try:
            for name, values in _outcomes(loaded, encoding, windows, settings).items():
                found[name].append(values)
        except AttnprobeError as error:
            where = ", ".join(filter(None, (f"record '{record_id}'", error.where)))
            raise type(error)(
                error.what, where=where, got=error.got, expected=error.expected, fix=error.fix
            ) from error
        on_progress(done, len(ids))
    listed = run.records.loc[ids]
    outcomes = {
        name: Outcomes(
            before=np.array([one[0] for one in values]),
            after=np.array([one[1:] for one in values]).reshape(len(ids), len(windows), -1),
            tasks=tuple(listed["task"]),
            styles=tuple(listed["style"]),
            windows=tuple(map(_named, windows)),
            spans=settings.keys,
        )
        for name, values in found.items()
        if values
    }
    return changes(
        outcomes, f"attention from {settings.query} cut", by=settings.by, rng=settings.seed,
        settings=asdict(settings) | {"model": loaded.name},
    )  # fmt: skip


def chosen_records(run: Run, most: int | None) -> list[str]:
    """List the ids of the first records of each style.

    Raises:
        RecordError: If the run has none.
    """
    listed = run.records
    chosen = listed if most is None else listed.groupby("style", sort=False).head(most)
    if not len(chosen):
        raise RecordError("the run has no records yet", where=str(run.path))
    return [str(record_id) for record_id in chosen.index]


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


def _check_roles(run: Run, ids: Sequence[str], settings: KnockoutSettings) -> None:
    roles = {span.role for record_id in ids for span in run.encoding(record_id).spans}
    require_role(settings.query, roles, "query role")
    for key in settings.keys:
        require_role(key, roles, "key role")
    if settings.outcome is not None:
        require_role(settings.outcome, roles, "outcome role")


def _windows(settings: KnockoutSettings, loaded: LoadedModel) -> list[tuple[int, ...] | None]:
    """Cut the layers into windows; None stands for all layers."""
    if settings.window is None:
        return [settings.layers]
    layers = settings.layers or Survey(loaded.model).layers
    stride = settings.stride or settings.window
    return [layers[first : first + settings.window] for first in range(0, len(layers), stride)]


def _named(window: tuple[int, ...] | None) -> str:
    if window is None:
        return "all"
    first, last = window[0], window[-1]
    if list(window) != list(range(first, last + 1)):
        return ",".join(map(str, window))
    return str(first) if first == last else f"{first}-{last}"


def _outcomes(
    loaded: LoadedModel,
    encoding: Encoding,
    windows: Sequence[tuple[int, ...] | None],
    settings: KnockoutSettings,
) -> dict[str, np.ndarray]:
    """Return outcomes of one record: without a cut, then with each; NaN where it has none."""
    refuse_virtual(encoding)
    cuts = [
        _edges(encoding, settings.query, key, window) for window in windows for key in settings.keys
    ]
    in_target = any(
        span.start >= encoding.n_prompt for span in spans_of_role(encoding, settings.query)
    )
    role = settings.outcome or (settings.query if in_target else None)
    positions = outcome_positions(encoding, role)
    found = {"log_prob": np.full(1 + len(cuts), np.nan)}
    if settings.written:
        found["passed"] = np.full(1 + len(cuts), np.nan)
    there = [place for place, edges in enumerate([[], *cuts]) if edges or not place]
    if not positions or len(there) < 2:
        return found
    every = [[], *cuts]
    for start in range(0, len(there), settings.batch_size):
        places = there[start : start + settings.batch_size]
        some = [every[place] for place in places]
        with knockout(loaded.model, per_example=some):
            probs = log_probs(loaded, [encoding.ids.tolist()] * len(some), first=encoding.n_prompt)
        steps = [position - 1 for position in positions]
        found["log_prob"][places] = probs[:, steps].sum(1)
        if settings.written:
            found["passed"][places] = _passed(loaded, encoding, positions[0], some)
    return found


def _edges(encoding: Encoding, query: str, key: str, window: tuple[int, ...] | None) -> list[Edge]:
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


def _passed(
    loaded: LoadedModel, encoding: Encoding, first: int, cuts: Sequence[Sequence[Edge]]
) -> list[float]:
    """Let the model write from a position on, and score the texts; NaN where nothing can be."""
    record, n_left = encoding.record, encoding.n_tokens - first
    limit = 2 * n_left + 16
    if loaded.max_tokens is not None:
        limit = min(limit, loaded.max_tokens - first)
    until_end = [
        [edge._replace(queries=_open(edge.queries, first)) for edge in edges] for edges in cuts
    ]
    begun = prefix(encoding, first)
    decoding = Decoding("greedy", max(1, limit), batch_size=len(cuts))
    with knockout(loaded.model, per_example=until_end):
        written = [
            one for _, some in generate(loaded, [begun] * len(cuts), decoding) for one in some
        ]
    passed = []
    for one in written:
        text, _ = text_with_offsets(
            encoding.ids[: encoding.n_prompt].tolist(), _text_ids(one, encoding, loaded),
            loaded.tokenizer,
        )  # fmt: skip
        passed.append(_score(record, text))
    return passed


def _open(queries: Any, first: int) -> tuple[int, int | None]:
    """Let queries that predict what is written go on to whatever end."""
    start, stop = queries
    return (start, None) if stop >= first else (start, stop)


def _text_ids(written: Encoding, encoding: Encoding, loaded: LoadedModel) -> list[int]:
    """Return the target's tokens, without special ones at the end."""
    ids = written.ids[encoding.n_prompt :].tolist()
    special = set(loaded.tokenizer.all_special_ids)
    while ids and ids[-1] in special:
        ids.pop()
    return ids


def _score(record: Any, text: str) -> float:
    passed = score_record(record, text).passed
    return float("nan") if passed is None else float(passed)


def default_keys(run: Run, ids: Iterable[str]) -> tuple[str, ...]:
    """Return the roles of prompts in reading order: what a sweep cuts unless told otherwise."""
    return sort_roles(
        span.role
        for record_id in ids
        for encoding in (run.encoding(record_id),)
        for span in encoding.spans
        if span.stop <= encoding.n_prompt
    )
