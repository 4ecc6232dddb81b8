"""What a run survives: kills, crashes of the machine, flipped bits.

    python scripts/torture_store.py [--kills 200] [--states 200] [--flips 500] [--seed 0]

- Kills: a writer gets SIGKILL at a random moment, again and again, and is resumed until it is done.
- Crashes: every operation of a writer on files is recorded; at a random moment, what was not forced
  onto the disk by then is lost or torn at random, and the run is read, resumed and compared.
- Flips: one bit of a run is turned around, in its data, index columns, HDF5 structures, manifest or
  receipts.

Prints what was done, and each violation of what FORMAT.md promises; ends with 1 if there was any.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from tests.store.torture.crashes import torture_by_crashes  # noqa: E402
from tests.store.torture.flips import torture_by_flips  # noqa: E402
from tests.store.torture.kills import torture_by_kills  # noqa: E402
from tests.store.torture.reference import Outcome  # noqa: E402

Torture = Callable[[Path, int, int], Outcome]
KINDS: dict[str, tuple[Torture, int]] = {
    "kills": (torture_by_kills, 200),
    "states": (torture_by_crashes, 200),
    "flips": (torture_by_flips, 500),
}
"""What is done, and how often by default."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, (_, count) in KINDS.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    outcomes = []
    for name, (torture, _) in KINDS.items():
        count = getattr(asked, name)
        if not count:
            continue
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="attnprobe-torture-") as folder:
            outcomes.append(torture(Path(folder), count, asked.seed))
        seconds = time.perf_counter() - started
        print(f"{name}: {outcomes[-1].n_done} in {seconds:.0f} s", file=sys.stderr, flush=True)
    show(outcomes)
    return int(any(outcome.violations for outcome in outcomes))


def show(outcomes: list[Outcome]) -> None:
    """Print what was done and what went wrong."""
    table = Table("torture", "count", "violations", title_justify="left")
    for outcome in outcomes:
        table.add_row(outcome.kind, str(outcome.n_done), str(len(outcome.violations)))
        for what, count in sorted(outcome.facts.items()):
            table.add_row(f"  {what}", str(count), "")
        table.add_section()
    Console(width=100).print(table)
    for outcome in outcomes:
        for violation in outcome.violations:
            print(f"VIOLATED ({outcome.kind}): {violation}")


if __name__ == "__main__":
    sys.exit(main())
