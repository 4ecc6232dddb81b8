"""How long figures take to draw and to write: best of some rounds, and what they may take.

    python scripts/bench_figures.py [--rounds 5]

Values are random; records, fonts and matplotlib are loaded before the clock runs.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from attnprobe.figures import draw, draw_maps, save
from attnprobe.panels import MapPanel, Panel, token_axis
from attnprobe.types import Encoding, Record, Segment, Span

LIMITS = {"heads of 32 × 32": 1.0, "map of 1,000 × 1,000 tokens": 3.0}
"""Seconds that drawing and writing a PNG may take."""


def heads() -> Panel:
    values = np.random.default_rng(0).normal(size=(32, 32))
    reach = float(np.abs(values).max())
    labels = tuple(map(str, range(32)))
    return Panel(
        values, labels, labels, "enrichment, answer → history: coarse − stepwise", "layer", "head",
        "difference in enrichment", "bits", (-reach, reach), diverging=True, marks=values > 2,
        mark_note="differs", note="600 pairs.",
    )  # fmt: skip


def token_map(n: int = 1000) -> MapPanel:
    n_prompt, n_spans = int(0.8 * n), 8
    edges = np.linspace(0, n, n_spans + 1).astype(int).tolist()
    spans = tuple(Span(start, stop, f"step_{i}") for i, (start, stop) in enumerate(pairwise(edges)))
    record = Record("item/coarse", "item", "coarse", (Segment("history", "x"),))
    encoding = Encoding(
        record=record, ids=np.arange(n, dtype=np.int32), texts=tuple(f"t{i}" for i in range(n)),
        spans=spans, n_prompt=n_prompt, sinks=(0,),
    )  # fmt: skip
    values = np.random.default_rng(0).random((n, n))
    values[np.triu_indices(n, 1)] = np.nan
    axis = token_axis(encoding, range(n), "token")
    return MapPanel(values, axis, axis, "map", (0.0, 1.0))


def seconds(work: Callable[[], Any], rounds: int) -> list[float]:
    """Time a piece of work, CPU seconds of this process, after one round to warm up."""
    work()
    found = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    grid, square = heads(), token_map()
    late = False
    with tempfile.TemporaryDirectory() as folder:
        for name, work in (
            ("heads of 32 × 32", lambda: save(draw(grid), Path(folder) / "heads.png")),
            (
                "map of 1,000 × 1,000 tokens",
                lambda: save(draw_maps(square), Path(folder) / "m.png"),
            ),
        ):
            found = seconds(work, rounds)
            late |= min(found) > LIMITS[name]
            print(
                f"{name}: {min(found):.2f} s (median {np.median(found):.2f}; "
                f"at most {LIMITS[name]:g}; CPU time of {rounds} rounds)"
            )
    sys.exit(late)


if __name__ == "__main__":
    main()
