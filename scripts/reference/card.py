"""The model card, from the facts that lie beside the weights."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from reference.texts import PROMPT_WEIGHT

CARD = (Path(__file__).parent / "card.md").read_text(encoding="utf-8")

NO_RESULTS = """\
From training, on small fixed sets (4 problems of each family, in each style and split):

{table}

By family, `seen`:

{families}"""


INTERIM = """

**This is an interim model**, a checkpoint after {done:.1f} of at most {planned:.0f} million tokens,
before the learning rate falls."""


CYCLE = """\
- **Cycle {number}**, to {tokens:.1f} million tokens{start}: after {warmup} steps of warm-up a
  constant learning rate, over the last {decay:.1f} million tokens falling to 0; matrix products in
  {precision}.{practice}"""
START = ", from the weights before, rounded to {dtype}, and optimizers that know nothing yet"
PRACTICE = """ {share:.0%} of the texts practise steps: some steps of several training
  sequences, or a few terms in a row and the steps that follow. More of the families that were not
  learned yet, less of the others: {families}."""


def model_card(folder: Path) -> str:
    """Write the card of a model folder."""
    facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    cycles = [*facts.get("earlier", ()), facts]
    settings, mixture = facts["settings"], cycles[0]["settings"]["mixture"]
    return CARD.format(
        parameters=facts["parameters"] / 1e6, positions=config["max_position_embeddings"],
        vocabulary=facts["vocabulary"], plain=settings["plain_chunks"],
        plain_share=mixture["plain"], prompt_weight=PROMPT_WEIGHT, chinese=mixture["chinese"],
        varied=mixture["varied"], wider=mixture["wider"], tokens=facts["tokens"] / 1e6,
        steps=facts["steps"], per_step=settings["batch_tokens"] * settings["batches"],
        rate=settings["learning_rate"], embedding_rate=settings["embedding_rate"],
        cycles="\n".join(map(_cycle, cycles)), seed=settings["seed"],
        all_tokens=",".join(str(one["settings"]["tokens"]) for one in cycles),
        decay_tokens=",".join(str(one["settings"]["decay"]) for one in cycles),
        precisions=",".join(_precision(one) for one in cycles),
        dtype=facts["dtype"], interim=_interim(facts), results=_results(folder),
    )  # fmt: skip


def _cycle(facts: dict[str, Any]) -> str:
    """Tell how the learning rate went, and what was read, in one cycle."""
    settings, mixture = facts["settings"], facts["settings"]["mixture"]
    shares = ", ".join(f"{name} {share:g}" for name, share in mixture.get("families", {}).items())
    practice = PRACTICE.format(share=mixture.get("practice", 0), families=shares)
    return CYCLE.format(
        number=settings.get("cycle", 0) + 1, tokens=facts["tokens"] / 1e6,
        start=START.format(dtype=facts["dtype"]) if settings.get("start") else "",
        warmup=settings["warmup"], decay=settings["decay"] / 1e6,
        precision=_precision(facts),
        practice=practice if mixture.get("practice") else "",
    )  # fmt: skip


def _precision(facts: dict[str, Any]) -> str:
    """Say how matrix products were computed; earlier versions knew bfloat16 only."""
    return facts["settings"].get("precision", "bfloat16")


def weights_digest(folder: Path) -> str:
    """Return the SHA-256 of a model folder's weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def _interim(facts: dict[str, Any]) -> str:
    """Say so where a training was not at its end."""
    done, planned = facts["tokens"], facts["settings"]["tokens"]
    if done >= planned:
        return ""
    return INTERIM.format(done=done / 1e6, planned=planned / 1e6)


def _results(folder: Path) -> str:
    """Show the results table if there is one, and else what was measured in training."""
    file = folder / "results.json"
    if file.is_file():
        results = json.loads(file.read_text(encoding="utf-8"))
        if results["weights"] == weights_digest(folder):  # of these weights, not of earlier ones
            return "\n\n".join(results["text"])
    lines = (folder / "training-log.jsonl").read_text(encoding="utf-8").splitlines()
    measured = [line for line in map(json.loads, lines) if "pass_rate" in line]
    if not measured:
        return "Not measured yet."
    rates, families = measured[-1]["pass_rate"], measured[-1]["families"]
    styles = list(dict.fromkeys(key.split("/")[1] for key in rates))
    splits = dict.fromkeys(key.split("/")[0] for key in rates)
    tasks = dict.fromkeys(key.split("/")[0] for key in families if "/seen/" in key)
    return NO_RESULTS.format(
        table=_table(
            ["split", *styles], [[s, *(rates[f"{s}/{style}"] for style in styles)] for s in splits]
        ),
        families=_table(
            ["family", *styles],
            [[t, *(families[f"{t}/seen/{style}"] for style in styles)] for t in tasks],
        ),
    )


def _table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.0%}" if isinstance(value, float) else str(value)
