"""The whole flow on a small dataset, in one call."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attnprobe.contrasts import Contrast, contrast
from attnprobe.figures import draw, save
from attnprobe.panels import head_panel, segment_panels
from attnprobe.records import write_records
from attnprobe.tasks.sequences import SequenceSettings, generate
from attnprobe.workflows.extract import ExtractSettings, extract

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


def demonstrate(
    out: str | Path,
    model: str,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Demonstration:
    """Make a dataset, capture a model over it, contrast two styles and draw the result.

    36 problems of six families, each in the styles `stepwise` and `coarse`. A second call
    continues what a first one left unfinished.

    Args:
        out: Folder for everything that is written.
        model: A model name (see `load_model`).
        on_progress: Called with records done and records in all.

    Returns:
        The contrast and the files.
    """
    out = Path(out)
    data = out / "data.jsonl"
    settings = SequenceSettings(FAMILIES, STYLES, split="seen", n_per_family=ITEMS_PER_FAMILY)
    write_records(generate(settings), data)
    run = extract(data, model, out / "run", ExtractSettings(), on_progress=on_progress)
    with run:
        found = contrast(run, a="coarse", b="stepwise", query="answer", key="history")
        segments = segment_panels(run, "coarse", "stepwise")
    figures = [
        save(draw(head_panel(found)), out / "heads.png"),
        save(draw(segments), out / "segments.png"),
    ]
    return Demonstration(found, (data, out / "run", found.save(out / "contrast.csv"), *figures))
