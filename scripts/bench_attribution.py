"""What attribution costs beside Captum's own loop over a target, and who points at planted truth.

    python scripts/bench_attribution.py [--prompt 200] [--target 100] [--spans 8] [--rounds 1]
    python scripts/bench_attribution.py --planted
    python scripts/bench_attribution.py --complete

SmolLM2-135M-Instruct, float32, one thread, CPU time of the process. Captum's LLMGradientAttribution
over LayerGradientXActivation runs a forward and a backward pass for each target token; attnprobe's
`input_x_gradient` of the same tokens shares one forward pass, and asked for spans it runs one pass
of forward-mode differentiation for each. Scores are held against each other before times are
shown. Let nothing else run meanwhile.

`--planted` runs every method on the hand-wired models of `tests/planted.py` and prints the share of
sequences in which its largest score is on the planted source.

`--complete` prints how far the scores of integrated gradients are from summing to what is gained
over the baseline, by the number of points and by baseline: evenly spread points against parts of
the way that are halved where they miss something.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attnprobe import load_model
from attnprobe.attribution import METHODS, Focus, attribute
from attnprobe.models import LoadedModel

TOLERANCE = 1e-3
"""Largest difference of scores, relative to a step's largest."""


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def with_captum(loaded: LoadedModel, prompt: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    """Scores of the prompt's tokens for each target token."""
    from captum.attr import LayerGradientXActivation, LLMGradientAttribution, TextTokenInput

    model: Any = loaded.model
    explainer = LLMGradientAttribution(
        LayerGradientXActivation(model, model.get_input_embeddings()), loaded.tokenizer
    )
    text = TextTokenInput("x", loaded.tokenizer)  # for tokens that no text need have
    text.inp_tensor = text.itp_tensor = prompt[None]
    text.values = [str(token) for token in prompt.tolist()]
    return explainer.attribute(text, target=target).token_attr.numpy()


def spans_of(n_tokens: int, n_spans: int) -> list[tuple[int, int]]:
    edges = [round(i * n_tokens / n_spans) for i in range(n_spans + 1)]
    return list(pairwise(edges))


def check(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Stop if two ways to the same scores disagree: then their times say nothing."""
    error = float((np.abs(found - expected).max(1) / np.abs(expected).max(1)).max())
    print(f"{what}: largest difference {error:.1e} of a step's largest score")
    if not error <= TOLERANCE:
        raise SystemExit(f"{what}: more than {TOLERANCE}")


def time_all(options: argparse.Namespace) -> None:
    """Print times, and their ratios to Captum's."""
    loaded = load_model("smollm2-135m-instruct", device="cpu", dtype="float32")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 40_000, (options.prompt + options.target,), generator=generator)
    prompt, target = ids.split([options.prompt, options.target])
    spans = spans_of(options.prompt, options.spans)
    attribute(loaded.model, ids[:20], 18)
    attribute(loaded.model, ids[:20], 18, focus=Focus(spans=[(0, 9)]))
    ratios: dict[str, list[float]] = {"each token": [], f"{options.spans} spans": []}
    for _ in range(options.rounds):
        base, theirs = seconds(lambda: with_captum(loaded, prompt, target))
        steps, ours = seconds(lambda: attribute(loaded.model, ids, options.prompt).scores)
        few, sums = seconds(
            lambda: attribute(loaded.model, ids, options.prompt, focus=Focus(spans=spans)).scores
        )
        tokens = ours[:, : options.prompt]
        check(tokens, theirs, "gradient × input, each token")
        summed = np.stack([tokens[:, start:stop].sum(1) for start, stop in spans], 1)
        check(sums, summed, "gradient × input, by span")
        for name, spent in zip(ratios, (steps, few), strict=True):
            ratios[name].append(spent / base)
        print(f"Captum {base:.1f} s, each token {steps:.1f} s, {options.spans} spans {few:.1f} s")
    for name, values in ratios.items():
        low, high = min(values), max(values)
        print(f"{name}: {statistics.median(values):.3f} of Captum's ({low:.3f} to {high:.3f})")


def off(loaded: LoadedModel, ids: list[int], **params: Any) -> tuple[float, int]:
    """Return the worst share of a step's gain that is missed or too much, and the points used."""
    from attnprobe.attribution import paths

    n_points = 0
    along = paths.along

    def counted(prediction: Any, vectors: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        nonlocal n_points
        n_points += len(vectors)
        return along(prediction, vectors, directions)

    paths.along = counted
    try:
        found = attribute(loaded.model, ids, len(ids) - 2, "integrated_gradients", **params)
    finally:
        paths.along = along
    gain = np.nansum(found.scores, 1) - found.delta
    return float((np.abs(found.delta) / np.maximum(np.abs(gain), 0.1)).max()), n_points


def complete() -> None:
    """Print errors of integrated gradients against points."""
    loaded = load_model("smollm2-135m-instruct", device="cpu", dtype="float32")
    tokenizer = loaded.tokenizer
    ids = tokenizer("The capital of France is Paris, and that of Japan is Tokyo.").input_ids
    space, end = tokenizer(" ").input_ids[0], tokenizer.eos_token_id
    for name, baseline in {"mean": "mean", "zero": "zero", "space": space, "end": end}.items():
        for points in (16, 64, 256, 512):
            missed, _ = off(loaded, ids, baseline=baseline, points=points, max_points=points)
            print(f"{name:6s} {points:5d} even points: off by {missed:7.1%}", flush=True)
        missed, used = off(loaded, ids, baseline=baseline)
        print(f"{name:6s} {used:5d} points where needed: off by {missed:7.1%}", flush=True)


def point() -> None:
    """Print pointing accuracy on planted truth."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.test_attribution_planted import MODELS, pointing

    print(f"{'':22s}" + "".join(f"{name:>12s}" for name in MODELS))
    for method in [*METHODS, "knockout"]:
        shares = [pointing(name, method) for name in MODELS]
        print(f"{method:22s}" + "".join(f"{share:12.2f}" for share in shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompt", type=int, default=200)
    parser.add_argument("--target", type=int, default=100)
    parser.add_argument("--spans", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--complete", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.planted:
        point()
    elif options.complete:
        complete()
    else:
        time_all(options)


if __name__ == "__main__":
    main()
