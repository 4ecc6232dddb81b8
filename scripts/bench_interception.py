"""What interception costs against transformers' interface, on the same model.

    python scripts/bench_interception.py [--rounds 7] [--lengths 512 2048]

SmolLM2-135M-Instruct (a Llama), float32, one thread, CPU time of the process, in alternation: every
round runs a plain forward pass and the same capture by both routes. Ratios are taken within a
round; the median over rounds is shown, with the lowest and the highest. Let nothing else run
meanwhile.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from attnprobe import load_model
from attnprobe.attention import ROUTES, Survey, record
from attnprobe.models import LoadedModel

N_QUERIES = 64
N_SPANS = 10
KEEPS = {"rows": ["rows"], "pooled": ["pooled"]}


@torch.inference_mode()
def plain(loaded: LoadedModel, ids: torch.Tensor) -> None:
    loaded.model(ids, use_cache=False, logits_to_keep=1)


@torch.inference_mode()
def captured(loaded: LoadedModel, ids: torch.Tensor, keep: Sequence[str], survey: Survey) -> None:
    length = ids.shape[1]
    edges = [round(i * length / N_SPANS) for i in range(N_SPANS + 1)]
    queries, spans = [range(length - N_QUERIES, length)], [list(pairwise(edges))]
    with record(loaded.model, keep, queries=queries, spans=spans, survey=survey):
        loaded.model(ids, use_cache=False, logits_to_keep=1)


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def works(
    loaded: LoadedModel, ids: torch.Tensor, surveys: dict[str, Survey]
) -> dict[str, Callable[[], object]]:
    """Name what is measured."""
    todo: dict[str, Callable[[], object]] = {"plain": lambda: plain(loaded, ids)}
    for name, keep in KEEPS.items():
        for route, survey in surveys.items():
            todo[f"{name} by {route}"] = lambda keep=keep, survey=survey: captured(
                loaded, ids, keep, survey
            )
    return todo


def measure(loaded: LoadedModel, length: int, rounds: int, surveys: dict[str, Survey]) -> None:
    """Print the ratios of one length."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(10, 40_000, (1, length), generator=generator)
    todo = works(loaded, ids, surveys)
    for work in todo.values():
        work()
    found = [{name: seconds(work) for name, work in todo.items()} for _ in range(rounds)]
    for name in KEEPS:
        for title, over, under in (
            (f"{name}: interface ÷ plain pass", f"{name} by interface", "plain"),
            (f"{name}: interception ÷ plain pass", f"{name} by interception", "plain"),
            (
                f"{name}: interception ÷ interface",
                f"{name} by interception",
                f"{name} by interface",
            ),
        ):
            ratios = [spent[over] / spent[under] for spent in found]
            middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
            print(f"T = {length}: {title:38s} {middle:.3f}  ({low:.3f} to {high:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048])
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model("smollm2-135m-instruct", device="cpu", dtype="float32")
    surveys = {route: Survey(loaded.model, route) for route in ROUTES}
    for length in options.lengths:
        measure(loaded, length, options.rounds, surveys)


if __name__ == "__main__":
    main()
