"""What was run so far: a file of blocks of runs, so that a validation that was stopped goes on."""

import ast
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnprobe.contrasts import flips, labels
from attnprobe.measures import arrays, influence, profiles
from validation.study import Study

BLOCK = 25
"""Runs between two saves."""


def code() -> str:
    """Hash the sources that the results come from, but for comments and layout."""
    here = sorted(Path(__file__).parent.glob("*.py"))
    used = [Path(str(module.__file__)) for module in (flips, labels, arrays, influence, profiles)]
    sources = [path for path in here if path.name not in ("blocks.py", "page.py")] + used
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
        self.path, self.share, self.code = path, share, code()
        self.lines: list[dict[str, Any]] = []
        if path.exists():
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            self.lines = [line for line in lines if of_any_code or line["code"] == self.code]
            if len(self.lines) < len(lines):
                self._write()

    def n_runs(self, study: Study) -> int:
        """Return how many runs of a study are wanted."""
        return max(2, math.ceil(study.n_runs * self.share))

    def missing(self, studies: Iterable[Study]) -> Iterator[tuple[Study, int, int]]:
        """Yield the blocks to run, the first of every study before the second of any."""
        done = {(line["study"], line["first"], line["n"]) for line in self.lines}
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
        line = {"study": study.name, "first": first, "n": n_runs, "code": self.code}
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
            lines = [line for line in self.lines if line["study"] == study.name]
            n = sum(line["n"] for line in lines)
            for outcome in lines[0]["sums"] if lines else ():
                total = sum(line["sums"][outcome] for line in lines)
                square = sum(line["squares"][outcome] for line in lines)
                variance = max(0.0, square / n - (total / n) ** 2)
                results.append(
                    Found(study, outcome, n, total / n, float(np.sqrt(variance / max(1, n - 1))))
                )
        return results
