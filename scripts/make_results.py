"""Make the data of the results again, and the results table from committed weights.

    python scripts/make_results.py [--quick] [--only MODEL]... [--also NAME=FOLDER]...

Data is written to `.reproduce/` and must have the published bytes. Answers are kept there as well,
so that a run that was stopped goes on. The table goes to `artifacts/results.json` and
`artifacts/results.md`, and into the reference model's card; models that are not at hand keep what
an earlier run found.
"""

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # small models wait more than they compute

from reference.card import model_card, weights_digest
from results import data, measuring, page

from attnprobe.cli.app import progress_bar
from attnprobe.cli.runs import quiet_libraries
from attnprobe.records import read_records

ROOT = Path(__file__).parent.parent


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--quick", action="store_true", help="2 problems of each family; changes no artifact")
    add("--only", action="append", metavar="MODEL", help="measure this model only; repeatable")
    add("--also", action="append", default=[], metavar="NAME=FOLDER", help="measure another model")
    add("--data-only", action="store_true", help="make the data and compare it, and stop")
    add("--accept-data", action="store_true", help="publish the hashes of changed data")
    add("--folder", type=Path, default=ROOT / ".reproduce", help="for data and answers")
    add("--artifacts", type=Path, default=ROOT / "artifacts", help="where weights and results lie")
    return made


def main() -> None:
    args = parser().parse_args()
    began = time.monotonic()
    quiet_libraries()
    published = args.artifacts / "data.sha256"
    if args.accept_data:
        data.publish(args.folder, published)
    wanted = [data.TEST] if args.only else list(data.DATASETS)
    data.make(wanted, args.folder, published)
    _say(began, f"{', '.join(wanted)}: byte for byte what was published")
    if args.data_only:
        return
    others = [(name, folder) for name, _, folder in (also.partition("=") for also in args.also)]
    facts = measured(args, measuring.subjects(args.artifacts, others), began)
    if args.quick:
        print(page.page(facts))
    else:
        write(facts, args.artifacts)
        _say(began, f"{args.artifacts / 'results.md'} is made")


def measured(
    args: argparse.Namespace, subjects: list[measuring.Subject], began: float
) -> dict[str, Any]:
    """Measure the models that are there, and keep what is known of the others."""
    names = [subject.name for subject in subjects]
    if unknown := set(args.only or ()) - set(names):
        raise SystemExit(f"no such model: {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    problems = list(read_records(args.folder / data.TEST))
    questions = list(read_records(args.artifacts / "examples" / "general.jsonl"))
    new: dict[str, Any] = {}
    for subject in subjects:
        if (args.only and subject.name not in args.only) or not subject.is_there:
            continue
        if args.quick:
            subject = replace(subject, per_family={False: 2, True: 2})
        trained = _training(Path(subject.model))
        found = measuring.measure(subject, problems, questions, args.folder, progress_bar)
        if trained != _training(Path(subject.model)):
            raise SystemExit(f"{subject.model} was replaced meanwhile: run this again")
        new[subject.name] = found | trained
        _say(began, f"{subject.name} is measured")
    models = new if args.quick else new_and_kept(new, subjects, args.artifacts / "results.json")
    return {"data": data.read_hashes(args.artifacts / "data.sha256"), "models": models}


def new_and_kept(
    new: dict[str, Any], subjects: list[measuring.Subject], file: Path
) -> dict[str, Any]:
    """Put what was measured beside what the file says of other models, in the file's order.

    The file is read only now: another process may have measured other models meanwhile.
    """
    old = read(file)["models"] if file.is_file() else {}
    known = {subject.name: subject for subject in subjects}
    names = [name for name in dict.fromkeys([*old, *known]) if name in new or name in old]
    return {name: new.get(name) or _kept(old[name], known.get(name)) for name in names}


def _kept(found: dict[str, Any], subject: measuring.Subject | None) -> dict[str, Any]:
    """Say of an earlier run's results whether the weights are not here, or others by now."""
    there = subject is not None and subject.is_there
    weights = _training(Path(subject.model)).get("weights") if subject and there else None
    return found | {"kept": not there or weights != found.get("weights")}


def write(facts: dict[str, Any], artifacts: Path) -> None:
    """Write the table as JSON and for reading, and into the model card."""
    text = json.dumps(facts, ensure_ascii=False, indent=1)
    rewrite(artifacts / "results.json", text + "\n")
    looks = artifacts / "contrasts.json"
    rewrite(artifacts / "results.md", page.page(facts, read(looks) if looks.is_file() else None))
    folder, found = artifacts / "reference-model", facts["models"].get("reference")
    if found and not found.get("kept") and (folder / "training.json").is_file():
        shown = {"weights": weights_digest(folder), "text": page.card_text(found)}
        if found["weights"] == shown["weights"]:
            rewrite(folder / "results.json", json.dumps(shown, ensure_ascii=False, indent=1) + "\n")
            rewrite(folder / "README.md", model_card(folder))


def _training(folder: Path) -> dict[str, Any]:
    """Say which weights lie in a folder, and how a reference model was trained."""
    file, adapter = folder / "training.json", folder / "adapter_model.safetensors"
    if adapter.is_file():
        return {"weights": data.digest(adapter)}
    if not file.is_file():
        return {}
    facts = read(file)
    told = {
        "seed": facts["settings"]["seed"],
        "tokens": facts["tokens"],
        "finished": facts["tokens"] >= facts["settings"]["tokens"],
    }
    return {"training": told, "weights": weights_digest(folder)}


def read(file: Path) -> dict[str, Any]:
    """Read a JSON object."""
    return json.loads(file.read_text(encoding="utf-8"))


def rewrite(path: Path, text: str) -> None:
    """Replace a file in one go."""
    part = path.with_name(path.name + ".tmp")
    part.write_text(text, encoding="utf-8")
    shutil.move(part, path)


def _say(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:6.0f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
