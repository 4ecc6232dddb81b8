"""From the facts of results.json to results.md, and to the tables of the model card."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnprobe.models import REFERENCE
from attnprobe.tasks.sequences import find_family
from results.looking import look_text
from results.tables import table

Row = Mapping[str, Any]

_HERE = Path(__file__).parent
HEAD = (_HERE / "head.md").read_text(encoding="utf-8").rstrip()
MARK_NOTE = (_HERE / "marks.md").read_text(encoding="utf-8").rstrip()
QUESTIONS = (_HERE / "questions.md").read_text(encoding="utf-8").rstrip()


def page(facts: Mapping[str, Any], looks: Mapping[str, Any] | None = None) -> str:
    """Write results.md.

    Args:
        facts: Of results.json.
        looks: Of contrasts.json, if it is there.
    """
    parts = [HEAD]
    for name, model in facts["models"].items():
        parts += [f"## {name}", _about(model), *_tables(model, "###")]
        if name == REFERENCE:
            parts += mark_text(model)
    trainings = {name: model for name, model in facts["models"].items() if "training" in model}
    if len(trainings) > 1:
        parts += seed_text(trainings)
    questions = {name: m["questions"] for name, m in facts["models"].items() if "questions" in m}
    if questions:
        parts += question_text(questions)
    if looks:
        parts += look_text(looks)
    return "\n\n".join(parts) + "\n"


MARKS = (("seen", "coarse", 0.975), ("seen", "stepwise", 0.735),
         ("unseen", "coarse", 0.755), ("unseen", "stepwise", 0.505))  # fmt: skip
"""Pass rates that a group reports of larger models, by split and style."""


def mark_text(model: Row) -> list[str]:
    """Hold a model against the published pass rates, and name the families that fall short."""
    kinds = {(r["split"], r["style"]): r for r in model["kinds"] if r["kind"] == "integer"}
    rows = []
    for split, style, mark in MARKS:
        if (split, style) not in kinds:
            continue
        short = [
            f"{r['task']} {_percent(r['pass_rate'])}"
            for r in model["families"]
            if (r["split"], r["style"]) == (split, style)
            and find_family(r["task"]).kind == "integer"
            and r["pass_rate"] < mark
        ]
        here = kinds[split, style]
        away = 100 * (here["pass_rate"] - mark)
        rows.append([split, style, _percent(mark), _fine(here), f"{away:+.1f}", ", ".join(short)])
    names = ["split", "style", "published", "here", "points", "families below the published rate"]
    return ["### Beside published rates", MARK_NOTE, table(names, rows)]


def card_text(model: Mapping[str, Any]) -> list[str]:
    """Write the results of one model for its card."""
    note = "Greedy answers of the test problems; columns as in `artifacts/results.md`."
    return [note, *_tables(model, "###")]


def seed_text(trainings: Mapping[str, Row]) -> list[str]:
    """Write how far trainings of the same architecture lie apart, by style and split."""
    rows = []
    for name, model in trainings.items():
        fine = {(r["split"], r["style"]): r["pass_rate"] for r in model["styles"]}
        rates = [
            " / ".join(_percent(fine.get((split, style))) for style in STYLES) for split in SPLITS
        ]
        told = model["training"]
        rows.append([name, told["seed"], f"{told['tokens'] / 1e6:.1f}", *rates])
    return [
        "## Trainings",
        f"Fine pass rates, {' / '.join(STYLES)}. Seeds are compared at the same number of "
        "tokens only: every number grows with it.",
        table(["model", "seed", "million tokens", *SPLITS], rows),
    ]


def question_text(questions: Mapping[str, Any]) -> list[str]:
    """Write what became of the general questions."""
    (first, before), *others = questions.items()
    rows = [
        [
            name,
            r["language"],
            r["n"],
            _rate(r["right"], r["low"], r["high"]),
            f"{r['log_prob']:.2f}",
        ]
        for name, found in questions.items()
        for r in found["rows"]
    ]
    parts = [QUESTIONS.format(n=len(before["each"])),
             table(["model", "language", "n", "right", "log p"], rows)]  # fmt: skip
    for name, after in others:
        lost = sum(f["right"] and not after["each"][i]["right"] for i, f in before["each"].items())
        won = sum(after["each"][i]["right"] and not f["right"] for i, f in before["each"].items())
        parts.append(f"From {first} to {name}: {lost} questions lost, {won} won.")
    return parts


def _about(model: Row) -> str:
    about = f"{model['about'][0].upper()}{model['about'][1:]}."
    training = model.get("training")
    if training:
        about += (
            f" Seed {training['seed']}, {training['tokens'] / 1e6:.1f} million tokens"
            f"{'' if training['finished'] else ', **an interim checkpoint**'}."
        )
    if model.get("kept"):
        about += " Kept from an earlier run, of weights that were not there this time."
    return about


def _tables(model: Row, level: str) -> list[str]:
    styles = [
        [r["split"], r["style"], r["n"], _fine(r), _percent(r["chance"]), _coarse(r),
         _percent(r["coarse_chance"]), _percent(r["parsed"]), _number(r["nrmse"])]
        for r in _sorted(model["styles"])
    ]  # fmt: skip
    kinds = [
        [r["kind"], r["split"], r["style"], r["n"], _fine(r), _coarse(r), _percent(r["parsed"])]
        for r in _sorted(model["kinds"])
    ]
    names = ["split", "style", "n", "fine", "chance", "coarse", "chance", "read", "nRMSE"]
    return [
        table(names, styles),
        f"{level} Whole numbers and real values apart",
        table(["families of", "split", "style", "n", "fine", "coarse", "read"], kinds),
        f"{level} By family, fine",
        _by_family(model["families"]),
    ]


def _by_family(rows: Sequence[Row]) -> str:
    styles = [style for style in STYLES if any(row["style"] == style for row in rows)]
    cells = {(r["task"], r["split"], r["style"]): r for r in rows}
    places = dict.fromkeys((r["task"], r["split"]) for r in _sorted(rows))
    lines = [
        [task, split, cells[task, split, styles[0]]["n"],
         *(_fine(cells[task, split, style]) for style in styles)]
        for task, split in places
    ]  # fmt: skip
    return table(["family", "split", "n each", *styles], lines)


SPLITS, STYLES = ("seen", "unseen-parameters", "unseen"), ("direct", "stepwise", "coarse")


def _sorted(rows: Iterable[Row]) -> list[Row]:
    return sorted(
        rows,
        key=lambda r: (r.get("kind", ""), SPLITS.index(r["split"]), STYLES.index(r["style"])),
    )


def _fine(row: Row) -> str:
    return _rate(row["pass_rate"], row["pass_low"], row["pass_high"])


def _coarse(row: Row) -> str:
    return _rate(row["coarse_rate"], row["coarse_low"], row["coarse_high"])


def _rate(rate: float | None, low: float | None, high: float | None) -> str:
    if rate is None or low is None or high is None:
        return "–"
    return f"{100 * rate:.1f} % ({100 * low:.0f}–{100 * high:.0f})"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
