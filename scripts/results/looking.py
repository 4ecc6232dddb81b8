"""From the facts of contrasts.json to their part of results.md."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from results.tables import table

HEAD = (Path(__file__).parent / "looks.md").read_text(encoding="utf-8").rstrip()


def look_text(facts: Mapping[str, Any]) -> list[str]:
    """Write what was found, model by model."""
    models = facts["models"]
    first = next(iter(models.values()))
    rows = [
        [name, found["title"], found["n_pairs"], f"{found['n_differ']} of {found['n_heads']}",
         f"{found['median']:.2g} {found['unit']}", f"{found['largest']:.2g} {found['unit']}"]
        for name, model in models.items()
        for found in model["contrasts"]
    ]  # fmt: skip
    parts = [
        HEAD.format(n_tasks=first["contrasts"][0]["n_tasks"]),
        table(["model", "contrast", "pairs", "heads that differ", "median", "largest"], rows),
    ]
    for name, model in models.items():
        parts += [f"### {name}", f"{model['about'][0].upper()}{model['about'][1:]}."]
        if figure := model.get("figure"):
            parts.append(f"![Layers by heads: coarse minus stepwise]({figure})")
        parts += map(_listed, _verdicts(model))
    return parts


def _verdicts(model: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """List what was found of one model, each as its first line and the others."""
    for found in model["contrasts"]:
        yield found["verdict"]
    if "confirmed" in model:
        yield model["confirmed"]["verdict"]
    for style, lines in model.get("passing", {}).items():
        yield (f"Where the model passes and where it fails, {style}:", *lines)


def _listed(lines: Sequence[str]) -> str:
    return "\n".join([f"**{lines[0]}**", "", *(f"- {line}" for line in lines[1:])])
