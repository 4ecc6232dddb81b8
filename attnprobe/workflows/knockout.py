"""A run and its model → what changes when attention from one role to another is cut."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from attnprobe.attention import Edge, Survey, knockout
from attnprobe.contrasts.inputs import require_seed
from attnprobe.contrasts.interventions import BEYOND, Changes, Outcomes, changes
from attnprobe.errors import AttnprobeError, ContrastError, SelectionError
from attnprobe.measures.roles import require_role, sort_roles
from attnprobe.models import LoadedModel
from attnprobe.store import Run
from attnprobe.types import Encoding
from attnprobe.workflows.choosing import chosen_records, require_units
from attnprobe.workflows.cuts import edges_between, outcome_positions, random_edges, spans_of_role
from attnprobe.workflows.outcomes import log_probs, refuse_virtual
from attnprobe.workflows.passes import passes
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
    """Of the resamples behind the intervals, and of random keys."""
    n_random: int = 1
    """Random cuts that each is held against: the same queries kept from as many other keys,
    averaged; 0 for none."""

    def __post_init__(self) -> None:
        require_seed(self.seed)
        for name in ("window", "stride", "records", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SelectionError(
                    "too small", where=f"--{name.replace('_', '-')}", got=value, expected="≥ 1"
                )
        if self.n_random < 0:
            raise SelectionError("too small", where="--random", got=self.n_random, expected="≥ 0")
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
        `passed`, for every window of layers, key role and style. `beyond_random` is the difference
        of the log-probability under a cut from that under cuts of as many other keys, in the
        records that have so many; where there are too few of them, the settings' `no_control` says
        so.

    Raises:
        ModelError: If the model is not there, or is another than that of the run.
        SelectionError: If there is no such role or layer, or a cut would leave a row empty.
        ContrastError: If there are too few tasks or items.
    """
    settings = settings or KnockoutSettings()
    ids = chosen_records(run, settings.records)
    _check_roles(run, ids, settings)
    require_units(run, ids, settings.by)
    loaded = reload_model(run, model, device=device, trust_remote_code=trust_remote_code)
    windows = _windows(settings, loaded)
    found: dict[str, list[np.ndarray]] = {"log_prob": [], "passed": [], "random": []}
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

    def outcomes(before: np.ndarray, after: np.ndarray) -> Outcomes:
        shape = len(ids), len(windows), len(settings.keys)
        return Outcomes(
            before=before, after=after.reshape(shape), tasks=tuple(listed["task"]),
            styles=tuple(listed["style"]), windows=tuple(map(_named, windows)),
            spans=settings.keys,
        )  # fmt: skip

    stacked = {name: np.array(values) for name, values in found.items() if values}
    plain = {
        name: outcomes(values[:, 0], values[:, 1:])
        for name, values in stacked.items()
        if name != "random"
    }
    title, told = f"attention from {settings.query} cut", asdict(settings) | {"model": loaded.name}
    how: dict[str, Any] = {"by": settings.by, "rng": settings.seed}
    done = changes(plain, title, settings=told, **how)
    if not settings.n_random:
        return done
    control, cut = stacked["random"], plain["log_prob"].after
    after = np.where(np.isnan(control.reshape(cut.shape)), np.nan, cut)
    try:
        beyond = changes(
            {BEYOND: outcomes(control.reshape(cut.shape), after)}, title, lenient=True, **how
        )
    except ContrastError as error:
        return replace(done, settings={**done.settings, "no_control": [str(error)]})
    why = {"no_control": left_out} if (left_out := beyond.settings.get("left_out")) else {}
    effects = {**done.effects, **beyond.effects}
    return replace(done, effects=effects, settings={**done.settings, **why})


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
        edges_between(encoding, settings.query, key, window)
        for window in windows
        for key in settings.keys
    ]
    in_target = any(
        span.start >= encoding.n_prompt for span in spans_of_role(encoding, settings.query)
    )
    role = settings.outcome or (settings.query if in_target else None)
    positions = outcome_positions(encoding, role)
    found = {"log_prob": np.full(1 + len(cuts), np.nan), "random": np.full(len(cuts), np.nan)}
    if settings.written:
        found["passed"] = np.full(1 + len(cuts), np.nan)
    every = [[], *cuts]
    there = [place for place, edges in enumerate(every) if edges or not place]
    if not positions or len(there) < 2:
        return found
    log_prob = _log_probs(loaded, encoding, positions, [every[place] for place in there], settings)
    found["log_prob"][there] = log_prob
    if settings.written:
        for start in range(0, len(there), settings.batch_size):
            places = there[start : start + settings.batch_size]
            some = [every[place] for place in places]
            found["passed"][places] = passes(loaded, encoding, positions[0], some)
    controls = _controls(encoding, cuts, settings)
    drawn = [edges for some in controls for edges in some]
    values = iter(_log_probs(loaded, encoding, positions, drawn, settings))
    for place, some in enumerate(controls):
        if some:
            found["random"][place] = np.mean([next(values) for _ in some])
    return found


def _log_probs(
    loaded: LoadedModel,
    encoding: Encoding,
    positions: Sequence[int],
    cuts: Sequence[Sequence[Edge]],
    settings: KnockoutSettings,
) -> list[float]:
    """Return the log-probability of predicted tokens, summed, under each cut."""
    steps = [position - 1 for position in positions]
    found: list[float] = []
    for start in range(0, len(cuts), settings.batch_size):
        some = cuts[start : start + settings.batch_size]
        with knockout(loaded.model, per_example=some):
            probs = log_probs(loaded, [encoding.ids.tolist()] * len(some), first=encoding.n_prompt)
        found += probs[:, steps].sum(1).tolist()
    return found


def _controls(
    encoding: Encoding, cuts: Sequence[Sequence[Edge]], settings: KnockoutSettings
) -> list[list[list[Edge]]]:
    """Draw random cuts for each: the same keys in all windows; none where there are too few."""
    found: list[list[list[Edge]]] = []
    for place, edges in enumerate(cuts):
        seed = [settings.seed, place % len(settings.keys), *encoding.record.id.encode()]
        rng = np.random.default_rng(seed)
        drawn = [
            random_edges(encoding, edges, rng) for _ in range(settings.n_random if edges else 0)
        ]
        found.append([one for one in drawn if one])
    return found


def default_keys(run: Run, ids: Iterable[str]) -> tuple[str, ...]:
    """Return the roles of prompts in reading order: what a sweep cuts unless told otherwise."""
    return sort_roles(
        span.role
        for record_id in ids
        for encoding in (run.encoding(record_id),)
        for span in encoding.spans
        if span.stop <= encoding.n_prompt
    )
