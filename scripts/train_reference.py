"""Train the reference model of `artifacts/reference-model`.

python scripts/train_reference.py --seed 0 --tokens 40e6       (the same command continues)
python scripts/train_reference.py --seed 0 --export artifacts/reference-model
"""

import argparse
import os
import sys
from pathlib import Path

# Threads that wait must not spin, or sharing the cores with others stalls the training.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")

from reference.measuring import Validation
from reference.training import Training, TrainSettings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=float, default=40e6, help="tokens in all")
    parser.add_argument(
        "--decay", type=float, default=6e6, help="the last of them, with falling rate"
    )
    parser.add_argument("--plain", type=int, default=18, help="first chunks of plain number text")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads")
    parser.add_argument("--save-every", type=float, default=300, help="seconds between checkpoints")
    parser.add_argument("--validate-every", type=int, default=400, help="steps")
    parser.add_argument("--folder", type=Path, help="checkpoints; .training/seed-N by default")
    args = parser.parse_args()
    folder = args.folder or Path(__file__).parent.parent / ".training" / f"seed-{args.seed}"
    settings = TrainSettings(
        seed=args.seed, tokens=int(args.tokens), decay=int(args.decay),
        plain_chunks=args.plain, learning_rate=args.lr,
    )  # fmt: skip
    training = Training(folder, settings, args.workers)
    (folder.parent / "pid").write_text(f"{os.getpid()}\n") if folder.parent.is_dir() else None
    training.run(args.save_every, Validation(), args.validate_every)


if __name__ == "__main__":
    sys.exit(main())
