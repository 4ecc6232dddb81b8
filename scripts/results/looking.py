"""From the facts of contrasts.json to their part of results.md."""

from collections.abc import Mapping
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
        parts += [
            "\n".join(f"- {line}" for line in found["verdict"]) for found in model["contrasts"]
        ]
    return parts
