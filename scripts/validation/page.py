"""The tables and the figure of the validation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnprobe.figures import draw_lines, save
from attnprobe.panels import Line, LinePanel
from validation.blocks import Found

HEAD = """# What the statistics find in worlds whose truth is known

Made by `python scripts/validate_statistics.py`; every run has a seed of its own, fixed beforehand.
*Found* is the mean over the runs, with its standard error: an error rate where nothing differs, a
power (share of what is there that is found) where something does, a false discovery rate, or a
bias. *Expected* are bounds that were set before the runs (for rates of 0.05, what so many runs can
tell); outcomes without bounds are reported.
Tests by task see means over the items of a task, so those are drawn as such where this is exact.

- **null**: 12 tasks × 50 items × 896 heads, nothing differs; tasks have effects of their own.
  Flipped by task, the error rate is what it says; flipped by item, it is not.
- **confound**: nothing may be found. Mass and density are shown failing where prompts differ in
  length, sinks or distance.
- **planted**, **interaction**: something is there.
- **assumption**: what happens where the tests' assumptions do not hold. Flips take tasks without an
  effect to differ as much in the one direction as in the other, permuted labels take both groups to
  be alike but for their mean, and percentile intervals take tasks to be many.

What was changed after trial runs: the maximum statistic steps down since a trial with a single step
had a power of 0.894 in the world of task sd 0.15 and d 0.5, on the seeds below (on 400 other seeds:
0.911 stepping down, 0.904 with a single step; standard error 0.002). In the recency world keys
varied more at first, and the more the farther they were, which biases any mean of logarithms; the
bounded one of its two worlds was chosen after the other had failed its bound, and failed too, at
0.14, with one profile of distance for all tasks and bins that widened from 16 tokens on. Two causes
were found on other seeds: the width of the bins, a bias of 0.001 bits (since then they widen from
64 tokens on: 0.0002), and the error of the one profile, which all tasks shared, so that a test by
task took it for an effect (200 trial runs: found at 0.16; with a profile for each task at 0.04).
"""
LENGTH_NOTE = """
Enrichment is a mean of logarithms, which lies below the logarithm of the mean. Where heads rest on
few keys at random (a small shape per key), it falls a little with the length of the prompt, for
all heads alike: the table has the bias in bits. `--measure lift --scale log-ratio` has none.
Enrichment beyond recency takes nearly all of what distance does, and leaves up to a thousandth of a
bit, for the same reason; with hundreds of items that can still be found where keys vary much, so
differences below 0.01 bits mean nothing there.
"""


def row_of(found: Found) -> dict[str, Any]:
    """Return one outcome as plain values."""
    low, high = found.expected or (None, None)
    return {
        "study": found.study.name, "about": found.study.about, "outcome": found.outcome,
        "n_runs": found.n_runs, "mean": found.mean, "standard_error": found.error,
        "expected_low": low, "expected_high": high, "holds": found.holds,
    }  # fmt: skip


def write(found: Sequence[Found], folder: Path) -> None:
    """Write `statistics.json`, `statistics.md` and `power.png`."""
    rows = [row_of(one) for one in found]
    text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    (folder / "statistics.json").write_text(text, encoding="utf-8")
    (folder / "statistics.md").write_text(_markdown(found), encoding="utf-8")
    panels = power_panels(found)
    if panels:
        save(draw_lines(panels, abreast=2), folder / "power.png")


def _markdown(found: Sequence[Found]) -> str:
    parts = [HEAD]
    groups = list(dict.fromkeys(one.study.name.split("/")[0] for one in found))
    for group in groups:
        parts.append(f"\n## {group}\n")
        parts.append("| world | outcome | runs | found | expected | |\n|---|---|--:|--:|--:|---|\n")
        for one in found:
            if one.study.name.split("/")[0] != group:
                continue
            world = one.study.name.partition("/")[2] or group
            bounds = (
                "" if one.expected is None else f"{one.expected[0]:.3g} … {one.expected[1]:.3g}"
            )
            verdict = {None: "", True: "yes", False: "**no**"}[one.holds]
            parts.append(
                f"| {world} | {one.outcome} | {_counted(one)} | {one.mean:.3f} ± {one.error:.3f} | "
                f"{bounds} | {verdict} |\n"
            )
        if group == "confound":
            parts.append(LENGTH_NOTE)
        if group == "planted":
            parts.append("\n![Power over effect, tasks and items](power.png)\n")
    return "".join(parts)


def _counted(found: Found) -> str:
    """Word how many runs there are, and how many are wanted if there are fewer."""
    wanted = found.study.n_runs
    return str(found.n_runs) if found.n_runs >= wanted else f"{found.n_runs} of {wanted}"


def power_panels(found: Sequence[Found]) -> list[LinePanel]:
    """Arrange power over effects: by task effects, by tasks, by items, and of interactions."""
    curves: dict[tuple[str, str], dict[float, Found]] = {}
    for one in found:
        parts = one.study.name.split("/")
        if one.outcome == "max-T power" and parts[-1].startswith("d "):
            curves.setdefault((parts[0], "/".join(parts[1:-1])), {})[float(parts[-1][2:])] = one
    at = {condition: curve for (kind, condition), curve in curves.items() if kind == "planted"}
    titles = {
        "Task effects (12 tasks × 50 items)": {
            f"task sd {sd}": at.get(f"task sd {sd}/12 tasks × 50 items")
            for sd in ("0", "0.15", "0.3")
        },
        "Tasks (50 items each, task sd 0.15)": {
            f"{n} tasks": at.get(f"task sd 0.15/{n} tasks × 50 items") for n in (6, 8, 12, 20)
        },
        "Items (12 tasks, task sd 0.15)": {
            f"{n} items": at.get(f"task sd 0.15/12 tasks × {n} items") for n in (10, 50, 200)
        },
        "Interaction (task sd 0.15, 50 items)": {
            condition: curve for (kind, condition), curve in curves.items() if kind == "interaction"
        },
    }
    return [
        LinePanel(
            lines=tuple(_line(label, curve) for label, curve in lines.items() if curve),
            title=title,
            x_axis="effect (standard deviations of an item)",
            name="power",
            unit="share of heads found",
            limits=(0.0, 1.0),
            level=0.9,
            note="45 of 896 heads differ; max-T at 0.05, by task. Dotted line: 0.9. "
            "Bands: 2 standard errors.",
        )
        for title, lines in titles.items()
        if any(lines.values())
    ]


def _line(label: str, curve: dict[float, Found]) -> Line:
    effects = sorted(curve)
    means = np.array([curve[d].mean for d in effects])
    errors = np.array([curve[d].error for d in effects])
    return Line(
        label, np.array(effects), means,
        np.clip(means - 2 * errors, 0, 1), np.clip(means + 2 * errors, 0, 1),
    )  # fmt: skip
