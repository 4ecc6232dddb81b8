"""Small real runs from random softmax rows, for every test that needs something to read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from attnprobe import store
from attnprobe.store.jsonfile import sealed
from attnprobe.store.publish import sha256
from attnprobe.types import (
    N_POSITION_SINKS,
    Capture,
    Encoding,
    Masses,
    Record,
    Rows,
    Segment,
    Span,
)

MODEL = {"id": "tiny-random", "n_layers": 2, "n_heads": 3}


def make_record(style: str, task: int, item: int, rng: np.random.Generator) -> Record:
    """A number sequence to continue, prompted in one style."""
    numbers = [str(n) for n in rng.integers(10, 99, size=int(rng.integers(8, 13)))]
    prompt = [
        Segment("instruction", "continue the sequence"),
        Segment("history", " ".join(numbers)),
    ]
    target = [Segment("answer", " ".join(str(n) for n in rng.integers(10, 99, size=3)))]
    if style == "coarse":
        prompt.append(Segment("coarse_history", " ".join(numbers[::3])))
    if style == "stepwise":
        target = [Segment(f"step_{i}", f"then {n}") for i, n in enumerate(numbers[-2:], 1)] + target
    return Record(
        id=f"task{task}-{item:03d}/{style}",
        item=f"task{task}-{item:03d}",
        style=style,
        prompt=tuple(prompt),
        target=tuple(target),
        task=f"task_{task}",
        split="seen" if task % 2 else "unseen",
        meta={"answer": [1, 2, 3], "note": "数列"},
        where=f"data.jsonl:{task * 100 + item}",
    )


def make_encoding(record: Record) -> Encoding:
    """One token per word, after a BOS."""
    texts, spans = ["<s>"], [Span(0, 1, "special")]
    for segment in (*record.prompt, *record.target):
        words = segment.text.split()
        spans.append(Span(len(texts), len(texts) + len(words), segment.role))
        texts += [f" {word}" for word in words]
    n_prompt = sum(len(segment.text.split()) for segment in record.prompt) + 1
    ids = [1 + sum(word.encode()) % 5000 for word in texts]
    return Encoding(
        record=record,
        ids=np.array(ids, np.int32),
        texts=tuple(texts),
        spans=tuple(spans),
        n_prompt=n_prompt,
        sinks=tuple(range(min(N_POSITION_SINKS, len(texts)))),
    )


def causal_weights(
    encoding: Encoding, n_layers: int, n_heads: int, rng: np.random.Generator, boost: float = 0.0
) -> np.ndarray:
    """Random causal softmax; answer steps look at the history e^boost times as much."""
    n = encoding.n_tokens
    scores = rng.normal(size=(n_layers, n_heads, n, n)).astype(np.float32) * 2
    scores[..., 0] += 3
    answers = [s for s in encoding.spans if s.role == "answer"]
    for answer in answers:
        for span in encoding.spans:
            if span.role == "history":
                scores[:, :, answer.start - 1 : answer.stop - 1, span.start : span.stop] += boost
    scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def group_sums(encoding: Encoding, weights: np.ndarray) -> np.ndarray:
    """Sum the last axis over key groups."""
    parts = [weights[..., g.start : g.stop].sum(-1) for g in encoding.groups]
    return np.stack(parts, axis=-1).astype(np.float32)


def make_capture(encoding: Encoding, weights: np.ndarray) -> Capture:
    """Everything a model would have shown with these weights [layer, head, query, key]."""
    n, n_layers = encoding.n_tokens, len(weights)
    steps = np.array(encoding.step_queries, np.int32)
    every = np.arange(n, dtype=np.int32)
    pairs = [weights[:, :, q, : q + 1] for q in steps] or [weights[:, :, 0, :0]]
    visible = group_sums(encoding, np.tri(n)).astype(np.int32)
    masses = group_sums(encoding, weights)
    return Capture(
        encoding=encoding,
        visible=np.repeat(visible[None], n_layers, axis=0),
        visible_queries=every,
        log_probs=-np.linspace(0.5, 2, encoding.n_steps, dtype=np.float32),
        predicted=(encoding.ids[encoding.n_prompt :] + 1).astype(np.int32),
        errors=np.linspace(1e-5, 3e-5, n_layers, dtype=np.float32),
        rows=Rows(
            queries=steps,
            start=np.zeros(len(steps), np.int32),
            length=steps + np.int32(1),
            weights=np.ascontiguousarray(np.concatenate(pairs, axis=-1)),
        ),
        step_mass=Masses(steps, np.ascontiguousarray(masses[:, :, steps])),
        pooled=Masses(every, masses),
    )


def make_captures(
    *,
    n_layers: int = 2,
    n_heads: int = 3,
    styles: tuple[str, ...] = ("coarse", "stepwise"),
    tasks: int = 6,
    items_per_task: int = 2,
    seed: int = 0,
    effect: float = 0.0,
) -> list[Capture]:
    """Captures of every task × item × style; `effect` boosts the first style."""
    captures = []
    for task in range(tasks):
        for item in range(items_per_task):
            for position, style in enumerate(styles):
                record = make_record(style, task, item, np.random.default_rng([seed, task, item]))
                rng = np.random.default_rng([seed, task, item, position])
                encoding = make_encoding(record)
                boost = effect if position == 0 else 0.0
                weights = causal_weights(encoding, n_layers, n_heads, rng, boost)
                captures.append(make_capture(encoding, weights))
    return captures


def chunked(captures: list[Capture], size: int) -> list[list[Capture]]:
    """Cut captures into chunks."""
    return [captures[i : i + size] for i in range(0, len(captures), size)]


def open_writer(
    path: Path,
    captures: list[Capture],
    *,
    keep: tuple[str, ...] = ("rows", "pooled"),
    encoding: str = "u16",
    chunk_size: int = 8,
    overwrite: bool = False,
    settings: dict | None = None,
) -> store.RunWriter:
    """A writer whose plan is these captures."""
    n_layers, n_heads = captures[0].rows.weights.shape[:2]
    plan = [
        [store.PlannedRecord.of(c.encoding) for c in chunk]
        for chunk in chunked(captures, chunk_size)
    ]
    return store.RunWriter.open(
        path,
        settings={"keep": list(keep), "encoding": encoding, "seed": 0} | (settings or {}),
        model=MODEL,
        layers=tuple(range(n_layers)),
        heads=tuple(range(n_heads)),
        chunks=plan,
        overwrite=overwrite,
    )


def write_missing(writer: store.RunWriter, captures: list[Capture], *, chunk_size: int = 8) -> None:
    """Write what is missing, and complete the run."""
    chunks = chunked(captures, chunk_size)
    for index in writer.missing():
        with writer.chunk(index) as sink:
            for capture in chunks[index]:
                sink.append(capture)
    writer.complete()


def make_run(
    path: Path,
    *,
    n_layers: int = 2,
    n_heads: int = 3,
    styles: tuple[str, ...] = ("coarse", "stepwise"),
    tasks: int = 6,
    items_per_task: int = 2,
    keep: tuple[str, ...] = ("rows", "pooled"),
    seed: int = 0,
    effect: float = 0.0,
) -> Path:
    """Write a whole run and return its path.

    Prompts hold `instruction`, `history` (and `coarse_history` in style coarse); targets hold
    `answer`, after `step_1`, `step_2` in style stepwise. Answer steps of the first style attend to
    the history e^effect times as much, before the rows are normalised.
    """
    captures = make_captures(
        n_layers=n_layers, n_heads=n_heads, styles=styles, tasks=tasks,
        items_per_task=items_per_task, seed=seed, effect=effect,
    )  # fmt: skip
    writer = open_writer(path, captures, keep=keep)
    write_missing(writer, captures)
    return path


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a manifest or receipt says, so that its checksum vouches for the change."""
    value = json.loads(path.read_bytes())
    del value["checksum"]
    change(value)
    path.write_bytes(sealed(value))


def reseal(run: Path, chunk: int = 0) -> None:
    """Make manifest and receipt vouch for a shard as it is now."""
    shard = run / f"shards/chunk-{chunk:05d}.h5"
    size, digest = shard.stat().st_size, sha256(shard)

    def change(manifest: dict[str, Any]) -> None:
        manifest["shards"]["bytes"][chunk] = size
        manifest["shards"]["sha256"][chunk] = digest

    if json.loads((run / "manifest.json").read_bytes())["complete"]:
        edit_json(run / "manifest.json", change)
    edit_json(shard.with_suffix(".json"), lambda receipt: receipt.update(bytes=size, sha256=digest))
