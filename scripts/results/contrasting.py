"""What two styles of prompting change in where a model looks: the contrasts of the results."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from attnprobe import Contrast, ExtractSettings, Run, contrast, contrast_runs, extract
from attnprobe.errors import ContrastError
from attnprobe.types import Record
from attnprobe.workflows.confirm import ConfirmSettings, confirm
from attnprobe.workflows.passfail import pass_fail
from results.measuring import SMOLLM2, Progress

A, B = "coarse", "stepwise"
RANDOM = "reference-random"
MEASURES = ("enrichment", "enrichment_beyond_recency", "total_enrichment", "sink_mass")
"""How much more than its share the answer takes from the history; the same beyond what distance
alone gives; over all ways through what was written before; and what goes to sinks."""
ALPHA = 0.05
TOP = 5
"""Heads that are listed of each contrast."""
SHOWN = ("layer", "head", "estimate", "low", "high", "p_adjusted", "g_z")


@dataclass(frozen=True, slots=True)
class Looker:
    """A model whose attention is contrasted."""

    name: str
    model: str
    """A known name, or a folder."""
    n_per_family: int
    """Problems of each family, in each of the two styles."""
    about: str
    trained: bool = False
    """Whether it was trained on such sequences; then heads are also tested by intervention."""
    intervened: int = 60
    """Records of each style that heads are disturbed in."""
    base: str = ""
    """Name of the model that it was fine-tuned from, to hold it against."""
    chat: bool = False
    """Whether general questions go through the tokenizer's chat template."""

    @property
    def is_there(self) -> bool:
        """Whether its weights are."""
        return self.model == SMOLLM2 or Path(self.model).is_dir()


def lookers(artifacts: Path, folder: Path) -> list[Looker]:
    """List the models, trained ones before their controls.

    Args:
        artifacts: Where committed weights lie.
        folder: Where the weights of the random control are put.
    """
    reference = artifacts / "reference-model"
    return [
        Looker("reference", str(reference), 20, "the reference model", trained=True),
        Looker(RANDOM, str(randomized(reference, folder / RANDOM)), 20,
               "its architecture with random weights, which has learned nothing"),
        Looker(SMOLLM2, SMOLLM2, 6, "SmolLM2-135M-Instruct as it is", chat=True),
        Looker("smollm2-adapter", str(artifacts / "smollm2-adapter"), 6,
               "the same with the adapter of `artifacts/smollm2-adapter`", trained=True,
               intervened=30, base=SMOLLM2, chat=True),
    ]  # fmt: skip


def randomized(trained: Path, out: Path, seed: int = 0) -> Path:
    """Write a model of the same architecture, with weights as they are drawn before training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(trained))
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(trained).save_pretrained(out)
    return out


def chosen(records: Sequence[Record], n_per_family: int) -> list[Record]:
    """Take the first problems of each family, trained or held out, in the two styles."""
    return [
        record
        for record in records
        if record.style in (A, B)
        and record.split in ("seen", "unseen")
        and int(record.item.rpartition("-")[2]) < n_per_family
    ]


def run_of(looker: Looker, records: Sequence[Record], folder: Path, progress: Progress) -> Run:
    """Capture where a model looks while it is shown the right answers.

    Gold targets, since both styles of a problem then have the same answer, whatever the model
    would write; a run that is there is taken up.
    """
    settings = ExtractSettings(keep=("rows",), dtype="float32")
    some = chosen(records, looker.n_per_family)
    return extract(some, looker.model, folder / looker.name, settings, on_progress=progress)


def asked_of(looker: Looker, questions: Sequence[Record], folder: Path, progress: Progress) -> Run:
    """Capture where a model looks while it is shown the answers to general questions."""
    settings = ExtractSettings(keep=("rows",), dtype="float32", chat=looker.chat)
    out = folder / f"{looker.name}-questions"
    return extract(questions, looker.model, out, settings, on_progress=progress)


def against_base(
    tuned: tuple[Run, Run], base: tuple[Run, Run], names: tuple[str, str]
) -> list[Contrast]:
    """Hold a fine-tuned model against its base: on the tasks, and on general questions.

    Args:
        tuned: Its runs, of sequences and of questions.
        base: Those of the base.
        names: What to call the two.
    """
    (run, asked), (other, other_asked) = tuned, base
    return [
        *(contrast_runs(run, other, style=style, names=names) for style in (A, B)),
        contrast_runs(run, other, a=A, b=B, names=names),
        contrast_runs(asked, other_asked, style="question", key="question", names=names),
    ]


def contrasts(run: Run) -> list[Contrast]:
    """Contrast the two styles: by each measure, and between trained families and others."""
    asked = [(measure, None) for measure in MEASURES] + [(MEASURES[0], "split")]
    return [
        contrast(run, a=A, b=B, measure=measure, interaction=column) for measure, column in asked
    ]


def facts_of(found: Contrast) -> dict[str, Any]:
    """Tell a contrast in plain values: its verdict, how large it is, and the clearest heads."""
    rows = [row for row in found.to_table() if not math.isnan(row["p_adjusted"])]
    rows.sort(key=lambda row: (row["p_adjusted"], -abs(row["estimate"])))
    sizes = np.abs([row["estimate"] for row in rows])
    return {
        "title": found.title,
        "unit": found.unit,
        "n_pairs": found.n_pairs,
        "n_tasks": int(max(row["n_tasks"] for row in rows)),
        "n_heads": len(rows),
        "n_differ": sum(row["p_adjusted"] < ALPHA for row in rows),
        "median": float(np.median(sizes)),
        "largest": float(sizes.max()),
        "verdict": found.verdict(ALPHA).splitlines(),
        "methods": found.methods(),
        "heads": [{n: row[n] for n in SHOWN if n in row} for row in rows[:TOP]],
    }


def confirmed(run: Run, n_records: int, progress: Progress) -> dict[str, Any]:
    """Choose heads on half of the families; judge them, and disturb them, on the other half."""
    settings = ConfirmSettings(A, B, records=n_records)
    found = confirm(run, settings, on_progress=progress)
    return {"verdict": found.verdict(ALPHA).splitlines(), "rows": found.to_table()}


def passing(run: Run) -> dict[str, list[str]]:
    """Ask, style by style, whether heads look otherwise where the model would have been right."""
    told = {}
    for style in (A, B):
        try:
            found = pass_fail(run, style=style, outcome="shown")
        except ContrastError as error:
            told[style] = [f"Not asked: {error}"]
        else:
            told[style] = found.verdict(ALPHA).splitlines()
    return told
