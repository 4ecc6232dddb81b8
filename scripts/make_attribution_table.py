"""Hold every attribution method against planted truth, and against what the reference model does.

    python scripts/make_attribution_table.py [--problems 6] [--taken-apart 2] [--family NAME]...

Answers are kept in `.reproduce/`, so that a run that was stopped goes on; other weights begin anew.
The table goes to `artifacts/attribution.json` and `artifacts/attribution.md`; with `--family` it is
printed only.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for the hand-wired models of the tests

from attributing import measuring, page  # noqa: E402
from reference.card import weights_digest  # noqa: E402

from attnprobe.attribution import METHODS  # noqa: E402
from attnprobe.errors import ContrastError  # noqa: E402
from attnprobe.models import load_model  # noqa: E402
from attnprobe.tasks.sequences import families_of  # noqa: E402
from attnprobe.workflows.faithfulness import (  # noqa: E402
    FaithfulnessSettings,
    Units,
    summary,
)

FIGURES = ("@1", "@k", "mass", "AUPRC")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--problems", type=int, default=6, help="of each family, with a number that is predicted")
    add("--taken-apart", type=int, default=2, help="of them, for faithfulness")
    add("--family", action="append", help="this one only; repeatable; changes no artifact")
    add("--folder", type=Path, default=ROOT / ".reproduce", help="for answers")
    add("--artifacts", type=Path, default=ROOT / "artifacts", help="where weights and results lie")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    began = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {words}", file=sys.stderr, flush=True)

    weights = args.artifacts / "reference-model"
    families = tuple(args.family or (*families_of("seen"), *families_of("unseen")))
    digest = weights_digest(weights)
    args.folder.mkdir(parents=True, exist_ok=True)
    loaded = load_model(str(weights), device="cpu")
    rows = measuring.measure(
        loaded, families, (args.problems, args.taken_apart),
        args.folder / f"attribution-{_key(digest)}.jsonl",
        lambda family: say(f"{family} is measured"),
    )  # fmt: skip
    planted_at = args.folder / f"attribution-planted-{_key('')}.json"
    if not planted_at.is_file():
        planted_at.write_text(json.dumps(planted()), encoding="utf-8")
        say("the hand-wired models are measured")
    facts = {
        "model": {"weights": digest, "tokens": _tokens(weights)},
        "planted": json.loads(planted_at.read_text(encoding="utf-8")),
        "params": measuring.PARAMS,
        "logit": measuring.LOGIT,
        **summed_up(rows, families),
    }
    if digest != weights_digest(weights):
        raise SystemExit(f"{weights} was replaced meanwhile: run this again")
    if args.family:
        print(page.page(facts))
        return
    text = json.dumps(facts, ensure_ascii=False, indent=1)
    (args.artifacts / "attribution.json").write_text(text + "\n", encoding="utf-8")
    (args.artifacts / "attribution.md").write_text(page.page(facts), encoding="utf-8")
    say(f"{args.artifacts / 'attribution.md'} is made")


def _key(weights: str) -> str:
    """Name everything that shapes an answer."""
    asked = {name: dict(method.params) for name, method in METHODS.items()}
    parts = [weights, asked, measuring.PARAMS, measuring.LOGIT, measuring.REMOVAL.fractions]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _tokens(weights: Path) -> int:
    return int(json.loads((weights / "training.json").read_text(encoding="utf-8"))["tokens"])


def planted() -> dict[str, Any]:
    """Measure pointing accuracy on the hand-wired models."""
    from tests.planted import sequences
    from tests.test_attribution_planted import MODELS, pointing

    shares = {
        method: {name: float(pointing(name, method)) for name in MODELS}
        for method in measuring.METHOD_NAMES
    }
    return {"n": len(list(sequences("chain"))), "shares": shares}


def summed_up(rows: Sequence[Mapping[str, Any]], families: Sequence[str]) -> dict[str, Any]:
    """Average within families, then over them; hold losses against random rankings."""
    there = {name: [row for row in rows if row["family"] == name] for name in families}
    counts = {name: sum(len(row["chance"]) for row in own) for name, own in there.items() if own}
    if not counts:
        raise SystemExit("the model predicts no number of any problem: nothing can be measured")
    means: dict[str, dict[str, np.ndarray]] = {}
    for method in (*measuring.METHOD_NAMES, "chance"):
        means[method] = {
            name: np.mean([one for row in there[name] for one in _values(row, method)], axis=0)
            for name in counts
        }
    told = {
        method: dict(zip(FIGURES, map(float, np.mean(list(own.values()), axis=0)), strict=True))
        for method, own in means.items()
    }
    return {
        "n_problems": len(rows),
        "n_numbers": sum(counts.values()),
        "families": counts,
        "without": [name for name in families if name not in counts],
        "pointing": told,
        "by_family": {
            method: {name: float(values[0]) for name, values in own.items()}
            for method, own in means.items()
        },
        "faithfulness": faithful([row for row in rows if row["losses"]]),
    }


def _values(row: Mapping[str, Any], method: str) -> list[list[float]]:
    return row["chance"] if method == "chance" else row["pointing"][method]


def faithful(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Hold the losses along each method's ranking against those along random ones."""
    found = {
        name: np.array([row["losses"][name] for row in rows], np.float64)
        for name in (rows[0]["losses"] if rows else ())
    }
    units = Units(tuple(row["family"] for row in rows), ("direct",) * len(rows))
    try:
        done = summary(found, measuring.METHOD_NAMES, units, FaithfulnessSettings(), "reference")
    except ContrastError as error:
        return {"n": len(rows), "why": str(error)}
    return {"n": len(rows), "rows": done.to_table(), "curves": list(done.curves)}


if __name__ == "__main__":
    main()
