"""What extraction costs beside the plain forward passes.

    python scripts/bench_extract.py [--records 100] [--rounds 3]

SmolLM2-135M-Instruct, float32, one thread, CPU time of the process. Three ways do the same work on
the same records, one after the other in every round: plain forward passes; `extract` with `rows`
(planning, canary, certificates, HDF5 and all); and what one would write without attnprobe, eager
attention with `output_attentions=True` and the steps' rows into h5py with gzip. Only ratios within
a round mean anything. Let nothing else run meanwhile.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

from attnprobe import Encoding, ExtractSettings, Record, extract, load_model
from attnprobe.encode import encode
from attnprobe.models import LoadedModel
from attnprobe.tasks.sequences import SequenceSettings, generate


def dataset(n_records: int) -> list[Record]:
    """Make number sequences in two styles, every family alike."""
    settings = SequenceSettings(styles=("stepwise", "coarse"), n_per_family=-(-n_records // 18))
    return list(generate(settings))[:n_records]


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


@torch.inference_mode()
def plain(loaded: LoadedModel, encodings: list[Encoding]) -> None:
    """Forward passes with the logits that scoring needs, and nothing else."""
    for encoding in encodings:
        ids = torch.from_numpy(encoding.ids.astype(np.int64))[None]
        logits = loaded.model(ids, logits_to_keep=encoding.n_steps + 1, use_cache=False).logits
        logits[0, :-1].float().log_softmax(-1)


@torch.inference_mode()
def by_hand(loaded: LoadedModel, encodings: list[Encoding], path: Path) -> None:
    """Eager attention, every layer's square returned, the steps' rows stored."""
    loaded.model.set_attn_implementation("eager")
    try:
        with h5py.File(path, "w") as file:
            for number, encoding in enumerate(encodings):
                ids = torch.from_numpy(encoding.ids.astype(np.int64))[None]
                out = loaded.model(
                    ids, logits_to_keep=encoding.n_steps + 1, use_cache=False,
                    output_attentions=True,
                )  # fmt: skip
                out.logits[0, :-1].float().log_softmax(-1)
                steps = slice(encoding.step_queries.start, encoding.step_queries.stop)
                rows = torch.stack([layer[0, :, steps] for layer in out.attentions])
                file.create_dataset(
                    f"{number}/weights", data=rows.half().numpy(), compression="gzip",
                    compression_opts=4, shuffle=True, fletcher32=True, chunks=True,
                )  # fmt: skip
    finally:
        loaded.model.set_attn_implementation("sdpa")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model("smollm2-135m-instruct", device="cpu", dtype="float32")
    records = dataset(options.records)
    encodings = [encode(record, loaded.tokenizer) for record in records]
    n_tokens = sum(encoding.n_tokens for encoding in encodings)
    n_steps = sum(encoding.n_steps for encoding in encodings)
    print(f"{len(records)} records, {n_tokens} tokens, {n_steps} steps; CPU seconds")
    plain(loaded, encodings[:5])
    ratios: dict[str, list[float]] = {"extract": [], "by hand": []}
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            run, file = Path(folder) / "run", Path(folder) / "by_hand.h5"
            base = cpu_seconds(lambda: plain(loaded, encodings))
            ours = cpu_seconds(lambda run=run: extract(records, loaded, run, ExtractSettings()))
            again = cpu_seconds(lambda: plain(loaded, encodings))
            hand = cpu_seconds(lambda file=file: by_hand(loaded, encodings, file))
            size = sum(path.stat().st_size for path in run.rglob("*.h5"))
            mean = (base + again) / 2
            ratios["extract"].append(ours / mean)
            ratios["by hand"].append(hand / mean)
            print(
                f"round {number + 1}: plain {base:.1f} and {again:.1f}, extract {ours:.1f} "
                f"({ours / mean:.3f}x, {size / 2**20:.0f} MiB), by hand {hand:.1f} "
                f"({hand / mean:.3f}x, {file.stat().st_size / 2**20:.0f} MiB)",
                flush=True,
            )
    for name, values in ratios.items():
        print(f"{name}: median {statistics.median(values):.3f}x of the plain forward passes")


if __name__ == "__main__":
    main()
