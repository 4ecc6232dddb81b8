"""What was run so far: a file of blocks of runs, so that a validation that was stopped goes on."""

import ast
import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from attnprobe.contrasts import flips, labels
from attnprobe.measures import arrays, influence, profiles
from validation.study import Study

BLOCK = 25
"""Runs between two saves."""


USED = {
    "gaussian": (flips, labels),
    "assumptions": (flips, labels),
    "attending": (flips, arrays, profiles),
    "chains": (flips, influence),
}
"""What the worlds of a file are tested with."""


def code(study: Study) -> str:
    """Hash the sources that a study's results come from, but for comments and layout."""
    function = study.run.func if isinstance(study.run, partial) else study.run
    world = sys.modules[function.__module__]
    modules = (world, *USED.get(function.__module__.rpartition(".")[2], ()))
    sources = [Path(str(module.__file__)) for module in modules]
    parsed = [ast.dump(ast.parse(path.read_text(encoding="utf-8"))) for path in sources]
    return hashlib.sha256("".join(parsed).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Found:
    """The mean of one outcome over the runs of a study."""

    study: Study
    outcome: str
    n_runs: int
    mean: float
    error: float
    """Standard error of the mean."""

    @property
    def expected(self) -> tuple[float, float] | None:
        """Bounds of the mean, where there are any."""
        for expectation in self.study.expected:
            if expectation.outcome == self.outcome:
                return expectation.bounds(self.n_runs)
        return None

    @property
    def holds(self) -> bool | None:
        """Whether the mean is as expected; None where nothing is."""
        bounds = self.expected
        return None if bounds is None else bool(bounds[0] <= self.mean <= bounds[1])


class Blocks:
    """Blocks of runs in a file, one JSON line each."""

    def __init__(self, path: Path, share: float = 1.0, *, of_any_code: bool = False) -> None:
        self.path, self.share, self.of_any_code = path, share, of_any_code
        self.lines: list[dict[str, Any]] = []
        if path.exists():
            text = path.read_text(encoding="utf-8")
            self.lines = [json.loads(line) for line in text.splitlines()]

    def _of(self, study: Study) -> list[dict[str, Any]]:
        """Return the blocks of a study that are still true."""
        lines = [line for line in self.lines if line["study"] == study.name]
        if self.of_any_code:
            return lines
        today = code(study)
        return [line for line in lines if line["code"] == today]

    def n_runs(self, study: Study) -> int:
        """Return how many runs of a study are wanted."""
        return max(2, math.ceil(study.n_runs * self.share))

    def missing(self, studies: Iterable[Study]) -> Iterator[tuple[Study, int, int]]:
        """Yield the blocks to run, the first of every study before the second of any."""
        studies = list(studies)
        done = {
            (study.name, line["first"], line["n"]) for study in studies for line in self._of(study)
        }
        wanted = [
            (study, first, min(BLOCK, self.n_runs(study) - first))
            for study in studies
            for first in range(0, self.n_runs(study), BLOCK)
        ]
        for study, first, n in sorted(wanted, key=lambda block: block[1]):
            if (study.name, first, n) not in done:
                yield study, first, n

    def run(self, study: Study, first: int, n_runs: int) -> None:
        """Run a block and save it."""
        line = {"study": study.name, "first": first, "n": n_runs, "code": code(study)}
        place = (study.name, first)
        self.lines = [one for one in self.lines if (one["study"], one["first"]) != place]
        self.lines.append(line | study.block(first, n_runs))
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".part")
        ordered = sorted(self.lines, key=lambda line: (line["study"], line["first"]))
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in ordered)
        draft.write_text(text, encoding="utf-8")
        draft.replace(self.path)

    def found(self, studies: Iterable[Study]) -> list[Found]:
        """Put the blocks of each study together."""
        results = []
        for study in studies:
            lines = self._of(study)
            n = sum(line["n"] for line in lines)
            for outcome in lines[0]["sums"] if lines else ():
                total = sum(line["sums"][outcome] for line in lines)
                square = sum(line["squares"][outcome] for line in lines)
                variance = max(0.0, square / n - (total / n) ** 2)
                results.append(
                    Found(study, outcome, n, total / n, float(np.sqrt(variance / max(1, n - 1))))
                )
        return results
