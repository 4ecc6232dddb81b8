"""Train the reference model of `artifacts/reference-model`.

    python scripts/train_reference.py --seed 0

trains it in three cycles: over the last tokens of each the learning rate falls to 0, and the next
cycle starts from the weights as they are published. The same command continues where the last
checkpoint is; SIGTERM makes one and ends. A cycle that is stopped can be ended early, or prolonged,
by other --tokens and --decay: before the decay nothing depends on them.

    python scripts/train_reference.py --start artifacts/reference-model --tokens 62e6 --decay 6e6

adds a cycle to a model that lies there already, and

    python scripts/train_reference.py --seed 0 --export artifacts/reference-model

writes the model folder from the last checkpoint.
"""

import argparse
import json
import os
import sys
from pathlib import Path

# Threads that wait must not spin, or sharing the cores with others stalls the training.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")

import torch
from reference.card import weights_digest
from reference.export import export
from reference.measuring import Validation
from reference.texts import SHARES, Mixture
from reference.training import Start, Training, TrainSettings

ROOT = Path(__file__).parent.parent
TOKENS = "30798121,42e6,52e6"
DECAY = "4e6,6e6,4.5e6"
MIXTURES = (
    Mixture(),
    Mixture(
        practice=0.15,
        families=SHARES | {
            "arithmetic": 0.4, "geometric": 1.4, "order2_recurrence": 2.2, "modular": 0.8,
            "run_length": 1.0, "copy_reverse": 1.2,
        },
    ),
    Mixture(
        practice=0.15,
        families=SHARES | {
            "arithmetic": 0.4, "geometric": 1.8, "second_difference": 1.4, "order2_recurrence": 1.4,
            "modular": 0.6, "run_length": 1.4, "copy_reverse": 1.0, "logistic_map": 1.0,
            "euler_ode": 1.0,
        },
    ),
)  # fmt: skip
"""Of the first cycle, the second, and the others: more of what the cycles before left unlearned,
less of what they had learned, or will never learn (remainders by an unknown prime). The third takes
back recurrences, whose share the second had raised in vain."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--seed", type=int, default=0)
    add("--tokens", default=TOKENS, help="tokens in all, at the end of each cycle, with commas")
    add("--decay", default=DECAY, help="the last tokens of each cycle, with a falling rate")
    add("--start", type=Path, help="model folder whose next cycles these are")
    add("--plain", type=int, default=18, help="first chunks of texts, plain numbers only")
    add("--lr", type=float, default=3e-3, help="learning rate of the matrices")
    add("--workers", type=int, default=os.cpu_count() or 1, help="threads; change no result")
    add(
        "--precision",
        type=_precisions,
        help="float32 or bfloat16, of all cycles or with commas "
        "of each; by the processor if not given",
    )
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
        export(Training.restored(_last_cycle(folder)), args.export, args.dtype)
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "pid").write_text(f"{os.getpid()}\n", encoding="utf-8")
    start, validation = args.start, Validation()
    lengths = [int(float(n)) for n in args.tokens.split(",")]
    decays = [int(float(n)) for n in args.decay.split(",")]
    precisions = args.precision or [_precision()]
    precisions *= len(lengths) if len(precisions) == 1 else 1
    for tokens, decay, precision in zip(lengths, decays, precisions, strict=True):
        settings = _settings(args, start, (tokens, decay, precision))
        training = Training(folder / f"cycle-{settings.cycle}", settings, args.workers, start)
        training.run(args.save_every, validation, args.validate_every)
        if not training.done:
            return
        start = training.folder / "model"
        export(training, start, args.dtype)


def _settings(
    args: argparse.Namespace, start: Path | None, asked: tuple[int, int, str]
) -> TrainSettings:
    """Return the settings of a cycle that starts from a model folder, or from nothing."""
    tokens, decay, precision = asked
    cycle, before, seed = 0, None, args.seed
    if start is not None:
        facts = json.loads((start / "training.json").read_text(encoding="utf-8"))
        if facts["tokens"] < facts["settings"]["tokens"]:
            raise SystemExit(f"{start} holds a cycle that is not at its end: go on where it lies")
        if facts["tokens"] >= tokens:
            raise SystemExit(
                f"{start} was trained on {facts['tokens']} tokens already: give more --tokens"
            )
        cycle, seed = facts["settings"].get("cycle", 0) + 1, facts["settings"]["seed"]
        before = Start(weights_digest(start), facts["tokens"], facts["steps"])
    return TrainSettings(
        seed=seed, cycle=cycle, start=before, tokens=tokens, decay=decay,
        plain_chunks=args.plain, learning_rate=args.lr,
        mixture=MIXTURES[min(cycle, len(MIXTURES) - 1)], precision=precision,
    )  # fmt: skip


def _precisions(text: str) -> list[str]:
    names = text.split(",")
    if not set(names) <= {"float32", "bfloat16"}:
        raise argparse.ArgumentTypeError(f"got '{text}', expected float32 or bfloat16")
    return names


def _precision() -> str:
    """Choose bfloat16 where the processor has wide vectors; others emulate it, and crawl."""
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return "bfloat16" if wide else "float32"


def _last_cycle(folder: Path) -> Path:
    cycles = sorted(folder.glob("cycle-*"), key=lambda path: int(path.name.split("-")[1]))
    return cycles[-1] if cycles else folder


if __name__ == "__main__":
    sys.exit(main())
