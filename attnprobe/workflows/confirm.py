"""A run and its model → whether heads chosen on one half of it hold, and matter, on the other."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from attnprobe.attention.ablating import MODES
from attnprobe.contrasts import Contrast, contrast, select_styles
from attnprobe.contrasts.confirmation import Confirmation, head_rows
from attnprobe.contrasts.controls import judged_heads, strongest_heads, summarised
from attnprobe.contrasts.inference import SCOPES
from attnprobe.contrasts.inputs import require_seed
from attnprobe.contrasts.splitting import Heads, matched_heads, split_items, split_unit
from attnprobe.errors import ContrastError, SelectionError, nearest
from attnprobe.measures import find_measure, measure
from attnprobe.models import LoadedModel
from attnprobe.store import Run
from attnprobe.workflows.choosing import chosen_records, require_heads
from attnprobe.workflows.intervening import INTERVENTIONS, Intervening, intervene
from attnprobe.workflows.reloading import reload_model


@dataclass(frozen=True, slots=True)
class ConfirmSettings:
    """What heads are chosen by, on what, and what is done to them."""

    a: str
    """Style that positive differences favour."""
    b: str
    """Style it is held against."""
    measure: str = "enrichment"
    """A measure by name."""
    query: str = "answer"
    """Role of the steps that look, and whose log-probability counts."""
    key: str = "history"
    """Role that is looked at, and that a knockout hides."""
    by: str = "auto"
    """`task`: halves of whole tasks, for claims about new ones (12 tasks at least); `item`: halves
    of each task, for these tasks only; `auto`: the first where there are enough tasks."""
    top: int = 5
    """Heads to choose."""
    n_draws: int = 10
    """Sets of random heads they are held against."""
    interventions: tuple[str, ...] = tuple(INTERVENTIONS)
    """What is done to heads; see `INTERVENTIONS`."""
    mode: str = "mean"
    """What takes the place of an ablated head's output: `mean`, `resample` or `zero`."""
    written: bool = False
    """Whether the model also writes, greedily, for the pass rate."""
    records: int | None = None
    """Interventions on at most so many records of each style, spread over tasks; None for all."""
    n_references: int = 64
    """Records of the first half over which a head's mean output is taken."""
    batch_size: int = 8
    """Cuts that share a forward pass."""
    seed: int = 0
    """Of the split, the random heads, and the resamples behind intervals."""

    def __post_init__(self) -> None:
        require_seed(self.seed)
        for name in ("top", "n_draws", "records", "n_references", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SelectionError(
                    "too small", where=f"--{name.replace('_', '-')}", got=value, expected="≥ 1"
                )
        if not self.interventions:
            raise SelectionError("nothing to do", where="--do", expected=", ".join(INTERVENTIONS))
        for what, asked, known in (
            ("intervention", self.interventions, INTERVENTIONS), ("ablation", (self.mode,), MODES)
        ):  # fmt: skip
            for name in asked:
                if name not in known:
                    raise SelectionError(
                        f"no such {what}", where="confirm", got=name, fix=nearest(name, known)
                    )


def confirm(
    run: Run,
    settings: ConfirmSettings,
    model: str | LoadedModel | None = None,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Confirmation:
    """Choose heads on one half of the items, then judge them and intervene on the other half.

    Heads that were picked because they differ most would seem to differ too much where they were
    picked. Here the other half knows nothing of the choice: its estimates are unbiased, and it
    is tested for the chosen heads alone. Then the model runs again over that half. `knockout`
    hides the key role from the query role in the chosen heads; `ablation` replaces their output at
    the steps of the query role. As many random heads of the same layers are the control, in
    several draws; each record is its own pair.

    That an intervention changes nothing does not show that heads do nothing: others may stand in
    for them.

    Args:
        run: An open run with both styles.
        settings: What to do.
        model: The model or its name, where it is not found under the name in the run.
        device: Where it runs.
        trust_remote_code: Run the code that comes with it.
        on_progress: Called with records done and records in all.

    Returns:
        The chosen heads on both halves, and what changes without them and without random ones.

    Raises:
        SelectionError: If a style, role or measure is not there.
        ContrastError: If there are too few tasks or items for the split, or too few other heads.
        ModelError: If the model is not there, or is another than that of the run.
    """
    require_heads(settings.measure, "heads are chosen")
    tasks = _paired_items(run, settings)
    by = split_unit(tasks, settings.by)
    rng = np.random.default_rng(settings.seed)
    halves = split_items(tasks, by, rng)
    ids = [_ids_of(run, settings, half) for half in halves]
    first = _chosen_by(run, settings, by, ids[0])
    chosen = strongest_heads(first.effects, settings.top)
    there = {int(layer): first.effects["head"].values.tolist() for layer in first.effects["layer"]}
    sets = matched_heads(chosen, there, settings.n_draws, rng)
    rows = head_rows(chosen, first.effects, _judged(run, settings, by, ids[1], chosen))
    plan, refused = _plan(settings, chosen, sets, has_key=first.key is not None)
    loaded = reload_model(run, model, device=device, trust_remote_code=trust_remote_code)
    asked = chosen_records(run, settings.records, ids[1])
    references = [run.encoding(one) for one in ids[0][: settings.n_references]]
    found = intervene(run, asked, loaded, plan, references, on_progress)
    table = run.records.loc[asked]
    changed, draws, failed = summarised(
        found, table["task"].tolist(), table["style"].tolist(), plan.names, by, settings.seed
    )
    stated = asdict(settings) | {
        "by": by, "scope": SCOPES[by], "unit": first.unit, "n_first": len(halves[0]),
        "n_second": len(halves[1]), "n_tasks_first": len({tasks[one] for one in halves[0]}),
        "n_tasks_second": len({tasks[one] for one in halves[1]}), "n_records": len(asked),
        "model": loaded.name, "random_heads": [list(map(list, one)) for one in sets],
    }  # fmt: skip
    few = (
        f"{settings.n_draws} sets of random heads: there are only {len(sets)} different ones of "
        "the same layers",
    )
    refused = (*refused, *failed, *(few if len(sets) < settings.n_draws else ()))
    return Confirmation(first.title, rows, changed, draws, stated, refused)


def _paired_items(run: Run, settings: ConfirmSettings) -> dict[str, str]:
    """Map each item that has both styles to its task."""
    ids = select_styles(run, (settings.a, settings.b), None)
    table = run.records.loc[ids]
    in_b = set(table.loc[table["style"] == settings.b, "item"])
    own = table[(table["style"] == settings.a) & table["item"].isin(in_b)]
    if not len(own):
        raise ContrastError(
            "no item has both styles", where=str(run.path),
            expected=f"records of the same item in '{settings.a}' and '{settings.b}'",
            fix="give records that belong together the same 'item'",
        )  # fmt: skip
    return {str(item): str(task) for item, task in zip(own["item"], own["task"], strict=True)}


def _ids_of(run: Run, settings: ConfirmSettings, items: Sequence[str]) -> list[str]:
    wanted = set(items)
    by_item = run.records["item"]
    styles = select_styles(run, (settings.a, settings.b), None)
    return [one for one in styles if by_item[one] in wanted]


def _chosen_by(run: Run, settings: ConfirmSettings, by: str, ids: Sequence[str]) -> Contrast:
    unit: Literal["task", "item"] = "task" if by == "task" else "item"
    with _on_half("the half that heads are chosen on"):
        found = contrast(
            run, a=settings.a, b=settings.b, measure=settings.measure, query=settings.query,
            key=settings.key, by=unit, ids=ids, rng=settings.seed,
        )  # fmt: skip
    if found.filler:
        raise ContrastError(
            "the role that is looked at is lacking in one of the styles, so that nothing can be "
            "hidden there", got=f"'{settings.key}'", fix="name a role that both styles have",
        )  # fmt: skip
    return found


def _judged(run: Run, settings: ConfirmSettings, by: str, ids: Sequence[str], chosen: Heads) -> Any:
    """Estimate and test the chosen heads, and no others, on the other half."""
    key = settings.key if find_measure(settings.measure).has_key else None
    values = measure(run, settings.measure, query=settings.query, key=key, ids=list(ids))
    with _on_half("the half that heads are judged on"):
        return judged_heads(values, (settings.a, settings.b), chosen, by, settings.seed)


@contextmanager
def _on_half(where: str) -> Iterator[None]:
    """Say on which half of the items something was too little."""
    try:
        yield
    except ContrastError as error:
        raise ContrastError(
            error.what, where=", ".join(filter(None, (where, error.where))), got=error.got,
            expected=error.expected, fix=error.fix,
        ) from error  # fmt: skip


def _plan(
    settings: ConfirmSettings, chosen: Heads, sets: Sequence[Heads], *, has_key: bool
) -> tuple[Intervening, tuple[str, ...]]:
    wanted = [one for one in settings.interventions if has_key or not INTERVENTIONS[one].needs_key]
    refused = tuple(
        f"{one}: '{settings.measure}' has no role that could be hidden"
        for one in settings.interventions
        if one not in wanted
    )
    return Intervening(
        query=settings.query, key=settings.key, sets=(chosen, *sets), names=tuple(wanted),
        mode=settings.mode, written=settings.written, batch_size=settings.batch_size,
        seed=settings.seed,
    ), refused  # fmt: skip
