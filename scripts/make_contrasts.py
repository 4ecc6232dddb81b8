"""Contrast where models look under the two styles of prompting, for the results.

    python scripts/make_contrasts.py [--quick] [--only MODEL]...

Needs the data that `make_results.py` makes. Runs are kept in `.reproduce/runs/`, so that a stopped
one goes on. Writes `artifacts/contrasts.json`, a figure for each model, and the part of
`artifacts/results.md` that tells of them.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from make_results import read, rewrite
from results import contrasting, data, page

from attnprobe import Run
from attnprobe.cli.app import progress_bar
from attnprobe.cli.runs import quiet_libraries
from attnprobe.figures import draw, save
from attnprobe.panels import head_panel
from attnprobe.records import read_records
from attnprobe.types import Record

ROOT = Path(__file__).parent.parent
FIGURES = "figures"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--quick", action="store_true", help="2 problems of each family; changes no artifact")
    add("--only", action="append", metavar="MODEL", help="this model only; repeatable")
    add("--folder", type=Path, default=ROOT / ".reproduce", help="for data and runs")
    add("--artifacts", type=Path, default=ROOT / "artifacts", help="where weights and results lie")
    return made


def main() -> None:
    args = parser().parse_args()
    quiet_libraries()
    data.make([data.TEST], args.folder, args.artifacts / "data.sha256")
    found = measured(args)
    if args.quick:
        print("\n\n".join(page.look_text({"models": found})))
        return
    file = args.artifacts / "contrasts.json"  # read late: another process may measure other models
    models = read(file)["models"] if file.is_file() else {}
    order = [looker.name for looker in contrasting.lookers(args.artifacts, args.folder)]
    models |= found
    facts = {"models": {name: models[name] for name in order if name in models}}
    rewrite(file, json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    results = args.artifacts / "results.json"
    if results.is_file():
        rewrite(args.artifacts / "results.md", page.page(read(results), facts))


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Contrast the models that are there, trained ones with their bases."""
    records = list(read_records(args.folder / data.TEST))
    questions = list(read_records(args.artifacts / "examples" / "general.jsonl"))
    runs, found = args.folder / ("runs-quick" if args.quick else "runs"), {}
    lookers = {one.name: one for one in contrasting.lookers(args.artifacts, args.folder)}
    for looker in lookers.values():
        if not looker.is_there or (args.only and looker.name not in args.only):
            continue
        began = time.monotonic()
        if args.quick:
            looker = replace(looker, n_per_family=2)
        with _run(looker, records, runs) as run:
            contrasts = contrasting.contrasts(run)
            facts = {
                "about": looker.about,
                "contrasts": [contrasting.facts_of(one) for one in contrasts],
            }
            if looker.trained:
                with progress_bar(f"{looker.name}, without heads") as progress:
                    facts["confirmed"] = contrasting.confirmed(run, looker.intervened, progress)
                facts["passing"] = contrasting.passing(run)
            if looker.base:
                base = replace(lookers[looker.base], n_per_family=looker.n_per_family)
                with (
                    _run(base, records, runs) as other,
                    _answers(looker, questions, runs) as asked,
                    _answers(base, questions, runs) as other_asked,
                ):
                    facts["contrasts"] += [
                        contrasting.facts_of(one)
                        for one in contrasting.against_base(
                            (run, asked), (other, other_asked), (looker.name, base.name)
                        )
                    ]
        found[looker.name] = facts
        if not args.quick:
            figure = Path(FIGURES) / f"contrast-{looker.name}.png"
            save(draw(head_panel(contrasts[0])), args.artifacts / figure)
            facts["figure"] = str(figure)
        print(f"{time.monotonic() - began:6.0f} s  {looker.name}", file=sys.stderr, flush=True)
    return found


def _run(looker: contrasting.Looker, records: list[Record], folder: Path) -> Run:
    with progress_bar(looker.name) as progress:
        return contrasting.run_of(looker, records, folder, progress)


def _answers(looker: contrasting.Looker, questions: list[Record], folder: Path) -> Run:
    with progress_bar(f"{looker.name}, questions") as progress:
        return contrasting.asked_of(looker, questions, folder, progress)


if __name__ == "__main__":
    main()
