"""Hold the statistics of contrasts against worlds whose truth is known.

    nice python scripts/validate_statistics.py [--share 0.05] [--only null] [--minutes 20]

Worlds where nothing differs, confounds that move masses though nobody looks elsewhere, effects
that are planted, and worlds that break what the tests assume; error rates, false discovery rates
and power against bounds set beforehand. Writes `statistics.md`, `statistics.json` and `power.png`,
and exits with 1 if anything is not as expected. What was run is kept, block by block, so a
validation that was stopped goes on.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: small products wait more than
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # they compute

from validation import assumptions, attending, chains, gaussian, page
from validation.blocks import Blocks
from validation.study import Study

ROOT = Path(__file__).parent.parent


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--out", type=Path, default=ROOT / "artifacts" / "statistics", help="where results go")
    add("--share", type=float, default=1.0, help="share of the runs of each study")
    add("--only", action="append", metavar="TEXT", help="studies whose name contains this")
    add("--minutes", type=float, help="stop after so long; the next call goes on")
    add("--any-code", action="store_true", help="keep blocks that other sources have made")
    return made


def all_studies() -> list[Study]:
    """List every study."""
    return [
        *gaussian.studies(), *attending.studies(), *chains.studies(), *assumptions.studies()
    ]  # fmt: skip


def main() -> int:
    args = parser().parse_args()
    began = time.monotonic()
    studies = [
        study
        for study in all_studies()
        if args.only is None or any(text in study.name for text in args.only)
    ]
    blocks = Blocks(args.out / "blocks.jsonl", args.share, of_any_code=args.any_code)
    missing = list(blocks.missing(studies))
    for number, (study, first, n_runs) in enumerate(missing):
        if args.minutes is not None and time.monotonic() - began > 60 * args.minutes:
            print(
                f"stopped after {args.minutes:g} minutes: {len(missing) - number} blocks are left"
            )
            break
        blocks.run(study, first, n_runs)
        seconds = time.monotonic() - began
        print(f"{seconds:6.0f} s {number + 1}/{len(missing)} {study.name}", file=sys.stderr)
    found = blocks.found(studies)
    page.write(found, args.out)
    wrong = [one for one in found if one.holds is False]
    for one in wrong:
        low, high = one.expected or (0.0, 0.0)
        print(f"{one.study.name}: {one.outcome} {one.mean:.3f}, expected {low:.3f} … {high:.3f}")
    checked = sum(one.holds is not None for one in found)
    print(f"{checked - len(wrong)} of {checked} expectations hold")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
