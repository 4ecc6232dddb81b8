"""Time `compare` on 1,000 pairs × 270 heads, and see how much memory it takes.

    python scripts/bench_contrast.py [--items 1000] [--layers 27] [--heads 10] [--flips 10000]

The bound is 10 seconds and 1 GiB for 10,000 flips, by item (1,000 units) as by task. Exits with 1
if either is exceeded. What numpy, scipy and xarray take when they are imported is counted.
"""

import argparse
import json
import resource
import sys
import time

import numpy as np

from attnprobe.contrasts import compare, compare_groups

MAX_SECONDS, MAX_GIB = 10.0, 1.0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--items", type=int, default=1000)
    add("--layers", type=int, default=27)
    add("--heads", type=int, default=10)
    add("--tasks", type=int, default=20)
    add("--flips", type=int, default=10_000)
    return made


def main() -> int:
    args = parser().parse_args()
    rng = np.random.default_rng(0)
    shape = (args.items, args.layers, args.heads)
    a, b = rng.normal(size=shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    tasks = [f"t{i % args.tasks}" for i in range(args.items)]
    groups = ["seen" if i % args.tasks < args.tasks / 2 else "unseen" for i in range(args.items)]
    seconds: dict[str, float] = {}
    for by in ("item", "task"):
        began = time.perf_counter()
        compare(a, b, tasks, by=by, n_flips=args.flips)
        seconds[f"flips by {by}"] = round(time.perf_counter() - began, 2)
        began = time.perf_counter()
        compare_groups(a, b, tasks, groups, by=by, n_flips=args.flips)
        seconds[f"permutations by {by}"] = round(time.perf_counter() - began, 2)
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "peak_gib": round(gib, 3)}, indent=1))
    return int(max(seconds.values()) > MAX_SECONDS or gib > MAX_GIB)


if __name__ == "__main__":
    sys.exit(main())
