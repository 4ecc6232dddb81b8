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


def model_card(folder: Path) -> str:
    """Write the card of a model folder."""
    facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings, mixture = facts["settings"], facts["settings"]["mixture"]
    return CARD.format(
        parameters=facts["parameters"] / 1e6, positions=config["max_position_embeddings"],
        vocabulary=facts["vocabulary"], plain=settings["plain_chunks"],
        plain_share=mixture["plain"], prompt_weight=PROMPT_WEIGHT, chinese=mixture["chinese"],
        varied=mixture["varied"], wider=mixture["wider"], tokens=facts["tokens"] / 1e6,
        steps=facts["steps"], per_step=settings["batch_tokens"] * settings["batches"],
        rate=settings["learning_rate"], embedding_rate=settings["embedding_rate"],
        warmup=settings["warmup"], decay=settings["decay"] / 1e6, seed=settings["seed"],
        all_tokens=settings["tokens"], decay_tokens=settings["decay"], dtype=facts["dtype"],
        interim=_interim(facts), results=_results(folder),
    )  # fmt: skip


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
