"""Train the reference model of `artifacts/reference-model`.

    python scripts/train_reference.py --seed 0 --tokens 40e6 --decay 6e6

The same command continues where the last checkpoint is; SIGTERM makes one and ends. A run that is
stopped can be ended early, or prolonged, by other --tokens and --decay: before the decay nothing
depends on them.

    python scripts/train_reference.py --seed 0 --export artifacts/reference-model

writes the model folder from the last checkpoint.
"""

import argparse
import os
import sys
from pathlib import Path

# Threads that wait must not spin, or sharing the cores with others stalls the training.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")

from reference.export import export
from reference.measuring import Validation
from reference.texts import Mixture
from reference.training import Training, TrainSettings

ROOT = Path(__file__).parent.parent


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--seed", type=int, default=0)
    add("--tokens", type=float, default=40e6, help="tokens in all")
    add("--decay", type=float, default=6e6, help="the last of them, with a falling rate")
    add("--plain", type=int, default=18, help="first chunks of texts, plain numbers only")
    add("--lr", type=float, default=3e-3, help="learning rate of the matrices")
    add("--workers", type=int, default=os.cpu_count() or 1, help="threads; change no result")
    add("--save-every", type=float, default=300, help="seconds between checkpoints")
    add("--validate-every", type=int, default=400, help="steps; 0 only at the end")
    add("--folder", type=Path, help="for checkpoints and log; .training/seed-N by default")
    add("--export", type=Path, metavar="OUT", help="write a model folder instead of training")
    add("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of what is exported")
    return made


def main() -> None:
    args = parser().parse_args()
    folder = args.folder or ROOT / ".training" / f"seed-{args.seed}"
    if args.export is not None:
        export(Training.restored(folder), args.export, args.dtype)
        return
    settings = TrainSettings(
        seed=args.seed, tokens=int(args.tokens), decay=int(args.decay), plain_chunks=args.plain,
        learning_rate=args.lr, mixture=Mixture(),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "pid").write_text(f"{os.getpid()}\n", encoding="utf-8")
    Training(folder, settings, args.workers).run(args.save_every, Validation(), args.validate_every)


if __name__ == "__main__":
    sys.exit(main())
