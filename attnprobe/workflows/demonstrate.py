"""The whole flow on a small dataset, in one call."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnprobe.contrasts import Contrast, contrast
from attnprobe.errors import StoreError
from attnprobe.figures import draw, save
from attnprobe.models import REFERENCE
from attnprobe.panels import head_panel, segment_panels
from attnprobe.records import write_records
from attnprobe.tasks.sequences import SequenceSettings, generate
from attnprobe.workflows.extract import ExtractSettings, extract
from attnprobe.workflows.score import score_run

FAMILIES = (
    "arithmetic",
    "geometric",
    "second_difference",
    "order2_recurrence",
    "modular",
    "logistic_map",
)
STYLES = ("stepwise", "coarse")
ITEMS_PER_FAMILY = 6


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What the demo found, and where it lies."""

    contrast: Contrast
    """Coarse − stepwise: how much more the answer looks at the history."""
    files: tuple[Path, ...]
    """Dataset, run, contrast and figures."""
    scores: list[dict[str, Any]]
    """How often the model was right, by style; empty where it was shown the targets."""


def demonstrate(
    out: str | Path,
    model: str = REFERENCE,
    decode: str | None = None,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Demonstration:
    """Make a dataset, capture a model over it, contrast two styles and draw the result.

    36 problems of six families, each in the styles `stepwise` and `coarse`. A second call
    continues what a first one left unfinished. A model that writes no answers that can be read is
    best shown the targets.

    Args:
        out: Folder for everything that is written.
        model: A model name (see `load_model`).
        decode: `greedy`: the model writes its answers; `gold`: it is shown the targets; None for
            `greedy` with the reference model, which was trained on such problems, else `gold`.
        on_progress: Called with records done and records in all.

    Returns:
        The contrast, the files, and how often the model was right.

    Raises:
        StoreError: If there is a file in place of the folder, or a run with other settings in it.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise StoreError("the demo writes a folder", where=str(out), got="a file",
                         fix="use another -o")  # fmt: skip
    data = out / "data.jsonl"
    settings = SequenceSettings(FAMILIES, STYLES, split="seen", n_per_family=ITEMS_PER_FAMILY)
    write_records(generate(settings), data)
    decode = decode or ("greedy" if model == REFERENCE else "gold")
    chosen = ExtractSettings(decode=decode, batch_size=36 if decode == "greedy" else None)
    with extract(data, model, out / "run", chosen, on_progress=on_progress) as run:
        scores = score_run(run, ("style",)) if decode == "greedy" else []
        found = contrast(run, a="coarse", b="stepwise", query="answer", key="history")
        segments = segment_panels(run, "coarse", "stepwise")
    figures = [
        save(draw(head_panel(found)), out / "heads.png"),
        save(draw(segments), out / "segments.png"),
    ]
    files = (data, out / "run", found.save(out / "contrast.csv"), *figures)
    return Demonstration(found, files, scores)
