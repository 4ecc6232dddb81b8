"""What capture costs beside a plain forward pass, in time and memory.

    python scripts/bench_capture.py [--rounds 5] [--lengths 512 2048] [--long 8192]

SmolLM2-135M-Instruct, float32, one thread, CPU time of the process, in alternation: every round
runs a plain SDPA forward pass, each kind of capture, and eager attention with
`output_attentions=True`. Ratios are taken within a round; the median over rounds is shown. The
floor of `pooled` is one forward pass plus one more kernel pass per layer, measured in the same
round. Memory is the peak of the process's resident memory above what it was before the pass, each
in a process of its own. Let nothing else run meanwhile.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch

from attnprobe import load_model
from attnprobe.attention import record
from attnprobe.models import LoadedModel

N_QUERIES = 64
N_SPANS = 10


def ids_of(length: int) -> torch.Tensor:
    return torch.randint(10, 40_000, (1, length), generator=torch.Generator().manual_seed(length))


def spans_of(length: int) -> list[tuple[int, int]]:
    """Divide the tokens into equal spans."""
    edges = [round(i * length / N_SPANS) for i in range(N_SPANS + 1)]
    return list(pairwise(edges))


@torch.inference_mode()
def plain(loaded: LoadedModel, ids: torch.Tensor) -> None:
    loaded.model(ids, use_cache=False, logits_to_keep=1)


@torch.inference_mode()
def captured(loaded: LoadedModel, ids: torch.Tensor, keep: Sequence[str]) -> None:
    length = ids.shape[1]
    queries, spans = [range(length - N_QUERIES, length)], [spans_of(length)]
    with record(loaded.model, keep, queries=queries, spans=spans):
        loaded.model(ids, use_cache=False, logits_to_keep=1)


@torch.inference_mode()
def eager(loaded: LoadedModel, ids: torch.Tensor) -> None:
    loaded.model.set_attn_implementation("eager")
    try:
        loaded.model(ids, use_cache=False, logits_to_keep=1, output_attentions=True)
    finally:
        loaded.model.set_attn_implementation("sdpa")


@torch.inference_mode()
def kernel_passes(loaded: LoadedModel, length: int) -> None:
    """One more pass of the kernel alone per layer, on tensors of the model's shape."""
    config = loaded.config
    size, kv_heads = config.head_dim, config.num_key_value_heads
    query = torch.randn(1, loaded.n_heads, length, size)
    key, value = torch.randn(2, 1, kv_heads, length, size)
    for _ in range(loaded.n_layers):
        torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        )


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def works(loaded: LoadedModel, length: int) -> dict[str, Callable[[], object]]:
    """Name what is measured."""
    ids = ids_of(length)
    return {
        "plain": lambda: plain(loaded, ids),
        "rows": lambda: captured(loaded, ids, ["rows"]),
        "pooled": lambda: captured(loaded, ids, ["pooled"]),
        "rows + pooled": lambda: captured(loaded, ids, ["rows", "pooled"]),
        "eager": lambda: eager(loaded, ids),
        "kernel": lambda: kernel_passes(loaded, length),
    }


def time_all(loaded: LoadedModel, length: int, rounds: int, skip: Sequence[str] = ()) -> None:
    """Print the ratios to a plain pass."""
    todo = {name: work for name, work in works(loaded, length).items() if name not in skip}
    for work in todo.values():
        work()
    ratios: dict[str, list[float]] = {name: [] for name in todo}
    for _ in range(rounds):
        spent = {name: seconds(work) for name, work in todo.items()}
        base = (spent["plain"] + seconds(todo["plain"])) / 2
        for name, value in spent.items():
            ratios[name].append(value / base)
    ratios["floor of pooled"] = [1 + value for value in ratios.pop("kernel")]
    if "eager" in ratios:
        both = zip(ratios["eager"], ratios["rows + pooled"], strict=True)
        ratios["eager ÷ (rows + pooled)"] = [one / other for one, other in both]
    pairs = zip(ratios["pooled"], ratios["floor of pooled"], strict=True)
    ratios["pooled ÷ floor"] = [one / other for one, other in pairs]
    for name, values in ratios.items():
        low, high = min(values), max(values)
        print(
            f"T = {length}: {name:24s} {statistics.median(values):.3f}  ({low:.3f} to {high:.3f})"
        )


def resident_peak() -> int:
    """Return the highest resident memory since the last reset, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def peak_of(name: str, length: int) -> int:
    """Run one kind of work in this process; return bytes of peak memory above the start."""
    loaded = load_model("smollm2-135m-instruct", device="cpu", dtype="float32")
    work = works(loaded, length)[name]
    works(loaded, 2 * N_QUERIES)[name]()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    before = resident_peak()
    work()
    return resident_peak() - before


def peaks(length: int, names: Sequence[str]) -> None:
    """Print peak memory, each in a process of its own."""
    found = {}
    for name in names:
        command = [sys.executable, __file__, "--peak", name, "--lengths", str(length)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[name] = json.loads(answer)
        print(f"T = {length}: {name:24s} {found[name] / 2**20:8.0f} MiB at the peak")
    for name in names[1:]:
        extra = (found[name] - found["plain"]) / 2**20
        print(f"T = {length}: {name:24s} {extra:8.0f} MiB above the plain pass")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--long", type=int, default=8192, help="0 to leave it out")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        print(peak_of(options.peak, options.lengths[0]))
        return
    loaded = load_model("smollm2-135m-instruct", device="cpu", dtype="float32")
    for length in options.lengths:
        time_all(loaded, length, options.rounds)
    if options.long:
        time_all(loaded, options.long, 1, skip=("eager", "pooled", "rows"))
    peaks(options.lengths[-1], ["plain", "rows + pooled", "eager"])
    if options.long:
        peaks(options.long, ["plain", "rows + pooled"])


if __name__ == "__main__":
    main()
