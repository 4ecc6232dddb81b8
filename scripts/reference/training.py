"""The training loop: one process, exact continuation after a stop, one cycle after another."""

import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from reference.measuring import Validation
from reference.muon import Muon
from reference.texts import Batch, Mixture, batches_of
from reference.tokens import MAX_TOKENS, make_tokenizer

CHUNKS_PER_CYCLE = 1000
"""More than a cycle can use, so that no cycle reads texts of another."""


@dataclass(frozen=True, slots=True)
class Start:
    """The published weights that a later cycle starts from."""

    weights: str
    """SHA-256 of `model.safetensors`."""
    tokens: int
    """That these weights were trained on."""
    steps: int
    """In which they were."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Everything that the weights follow from."""

    seed: int = 0
    """Seed of the first weights and of all texts."""
    cycle: int = 0
    """How many times the learning rate had fallen to 0 before. In each cycle it rises anew, from
    weights as they were published, with optimizers that know nothing yet and texts of its own."""
    start: Start | None = None
    """What a later cycle starts from."""
    tokens: int = 40_000_000
    """Tokens in all, those of earlier cycles too, without padding."""
    decay: int = 6_000_000
    """Over the last tokens the learning rate falls to 0; before, it does not depend on how many
    tokens there will be, so a stopped run can be ended at any time."""
    plain_chunks: int = 18
    """The first chunks of texts, which are plain numbers only; each has about 170,000 tokens."""
    batch_tokens: int = 2048
    """Tokens per batch, about."""
    batches: int = 4
    """Batches per step."""
    warmup: int = 150
    """Steps over which the learning rate rises."""
    learning_rate: float = 3e-3
    """Of the matrices (Muon, Jordan et al. 2024)."""
    embedding_rate: float = 2e-3
    """Of embeddings and norms (AdamW)."""
    weight_decay: float = 0.02
    """Of the matrices."""
    mixture: Mixture = field(default_factory=Mixture)
    """What the texts are, after the plain ones."""
    precision: str = "bfloat16"
    """Of the matrix products: bfloat16 or float32."""


def make_model(seed: int, vocabulary: int, precision: str = "float32") -> LlamaForCausalLM:
    """Build the untrained model: 8 layers, 8 heads of 32 on 4 key-value heads.

    Over texts of a hundred tokens the fused kernel takes half the speed in bfloat16, for its slow
    backward pass, and is a quarter faster in float32.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=256, intermediate_size=512, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4, head_dim=32,
        max_position_embeddings=MAX_TOKENS, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
        attn_implementation="eager" if precision == "bfloat16" else "sdpa",
    )  # fmt: skip
    return LlamaForCausalLM(config)


class Training:
    """A training run in a folder; made again, it goes on where the last checkpoint is."""

    def __init__(
        self, folder: Path, settings: TrainSettings, n_workers: int, start: Path | None = None
    ) -> None:
        self.folder, self.settings = folder, settings
        self.tokenizer = make_tokenizer()
        self.model = make_model(settings.seed, len(self.tokenizer), settings.precision)
        self.optimizers = _optimizers(self.model, settings)
        self.workers = _Workers(self.model, n_workers, settings.precision)
        self.step = settings.start.steps if settings.start else 0
        self.tokens = settings.start.tokens if settings.start else 0
        self.place = (settings.cycle * CHUNKS_PER_CYCLE, 0)
        """The chunk, and how many of its batches are done."""
        self._resume(start)

    @classmethod
    def restored(cls, folder: Path) -> "Training":
        """Take a training up with the settings of its checkpoint."""
        path = folder / "checkpoint.pt"
        if not path.exists():
            raise SystemExit(f"{path} is not there: train first")
        return cls(folder, settings_of(torch.load(path, weights_only=True)["settings"]), 1)

    def run(self, save_every: float, validation: Validation, validate_every: int) -> None:
        """Train until the tokens are used up, or SIGTERM asks for an end after the next step."""
        asked = _until_asked_to_stop()
        _cut_log(self.folder / "log.jsonl", self.step)
        saved, losses, began, at_start = time.monotonic(), [], time.monotonic(), self.tokens
        for batches in self._steps():
            losses.append(self._update(batches))
            if self.step % 20 == 0:
                rate = (self.tokens - at_start) / (time.monotonic() - began)
                self._log(loss=sum(losses) / len(losses), tokens_per_second=round(rate),
                          rate=self._share())  # fmt: skip
                losses = []
            if validate_every and self.step % validate_every == 0:
                self._log(**validation.measure(self.model, self.tokenizer, self.settings.precision))
            if time.monotonic() - saved > save_every or asked.is_set():
                self.save()
                saved = time.monotonic()
            if asked.is_set():
                return
        self._log(**validation.measure(self.model, self.tokenizer, self.settings.precision))
        self.save()

    def save(self) -> None:
        """Write a checkpoint whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step, "tokens": self.tokens, "place": self.place,
            "settings": asdict(self.settings),
        }  # fmt: skip
        part = self.folder / "checkpoint.pt.tmp"
        torch.save(state, part)
        part.replace(self.folder / "checkpoint.pt")

    @property
    def earlier(self) -> list[dict[str, Any]]:
        """What is known of the cycles before, as `training.json` holds it."""
        path = self.folder / "before.json"
        if not path.exists():
            return []
        before = json.loads(path.read_text(encoding="utf-8"))
        return [*before.pop("earlier", []), before]

    @property
    def done(self) -> bool:
        """Whether all tokens were read."""
        return self.tokens >= self.settings.tokens

    def _resume(self, start: Path | None) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            if start is not None:
                weights = load_file(start / "model.safetensors")
                tied = {"lm_head.weight": weights["model.embed_tokens.weight"]}
                self.model.load_state_dict(weights | tied)
                self.folder.mkdir(parents=True, exist_ok=True)
                shutil.copy2(start / "training-log.jsonl", self.folder / "log.jsonl")
                shutil.copy2(start / "training.json", self.folder / "before.json")
            return
        state = torch.load(path, weights_only=True)
        _check_same(state["settings"], asdict(self.settings), path)
        self.model.load_state_dict(state["model"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.step, self.tokens, self.place = state["step"], state["tokens"], tuple(state["place"])

    def _steps(self) -> Iterator[list[Batch]]:
        chunk, done = self.place
        while not self.done:
            plain = chunk < self.settings.plain_chunks
            mixture = Mixture(plain=1.0) if plain else self.settings.mixture
            batches = batches_of(
                self.tokenizer, self.settings.seed, chunk, mixture, self.settings.batch_tokens
            )
            for start in range(done, len(batches), self.settings.batches):
                if self.done:
                    return
                self.place = (chunk, start + self.settings.batches)
                yield batches[start : start + self.settings.batches]
            chunk, done = chunk + 1, 0

    def _update(self, batches: list[Batch]) -> float:
        self.model.train()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * self._share()
        self._last_loss = self.workers.gradients(batches)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not (math.isfinite(self._last_loss) and torch.isfinite(norm)):
            raise FloatingPointError(
                f"loss {self._last_loss}, length of the gradient {norm.item()} at step "
                f"{self.step + 1}: the last checkpoint is whole; lower --lr in another --folder"
            )
        self.workers.step(self.optimizers)
        self.step += 1
        self.tokens += sum(batch.n_tokens for batch in batches)
        return self._last_loss

    def _share(self) -> float:
        """Return the learning rate as a share of its peak."""
        left = (self.settings.tokens - self.tokens) / max(self.settings.decay, 1)
        here = self.step - (self.settings.start.steps if self.settings.start else 0)
        return max(0.0, min((here + 1) / self.settings.warmup, 1.0, left))

    def _log(self, **facts: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"step": self.step, "tokens": self.tokens} | facts)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)


class _Workers:
    """Threads that take batches as they get free, each computing alone on one core.

    Two threads of one core each are faster here than operations spread over two cores, and far
    faster where others use the machine, too. Gradients are added in the order of the batches, so
    the sum does not depend on who computed what.
    """

    def __init__(self, model: LlamaForCausalLM, count: int, precision: str = "float32") -> None:
        torch.set_num_threads(1)
        self.model, self.precision = model, precision
        self.pool = ThreadPoolExecutor(count)
        self.replicas: SimpleQueue[LlamaForCausalLM] = SimpleQueue()
        for _ in range(count):
            replica = LlamaForCausalLM(model.config)
            for own, shared in zip(replica.parameters(), model.parameters(), strict=True):
                own.data = shared.data
            self.replicas.put(replica.train())

    def gradients(self, batches: Sequence[Batch]) -> float:
        """Leave the gradient of the mean loss in the model's parameters; return that loss."""
        total = sum(float(batch.weights[:, 1:].sum()) for batch in batches)
        work = [self.pool.submit(self._one, batch, total) for batch in batches]
        loss = 0.0
        for index, done in enumerate(work):
            share, gradients = done.result()
            loss += share
            for parameter, gradient in zip(self.model.parameters(), gradients, strict=True):
                if index == 0:
                    parameter.grad = gradient
                else:
                    parameter.grad += gradient
        return loss

    def step(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Update the weights, several optimizers at a time."""
        list(self.pool.map(lambda optimizer: optimizer.step(), optimizers))

    def _one(self, batch: Batch, total: float) -> tuple[float, list[torch.Tensor]]:
        replica = self.replicas.get()
        try:
            loss = loss_of(replica, batch, self.precision) / total
            loss.backward()
            gradients = [parameter.grad for parameter in replica.parameters()]
            replica.zero_grad(set_to_none=True)
            return loss.item(), gradients
        finally:
            self.replicas.put(replica)


def loss_of(model: LlamaForCausalLM, batch: Batch, precision: str) -> torch.Tensor:
    """Return the summed cross entropy of the tokens that count, weighted."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        logits = model(input_ids=batch.ids, use_cache=False).logits
    weights = batch.weights[:, 1:].flatten()
    targets = batch.ids[:, 1:].flatten()
    counted = weights > 0
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1)[counted].float(), targets[counted], reduction="none"
    )
    return (losses * weights[counted]).sum()


N_MUON = 4
"""Parts that the matrices are cut into, to be updated side by side."""


def _optimizers(model: LlamaForCausalLM, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between the layers, AdamW for the rest."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muons: list[torch.optim.Optimizer] = [
        Muon(
            [{"params": matrices[part::N_MUON], "peak": settings.learning_rate}],
            lr=settings.learning_rate, weight_decay=settings.weight_decay,
        )
        for part in range(N_MUON)
    ]  # fmt: skip
    adam = torch.optim.AdamW(
        [{"params": others, "peak": settings.embedding_rate}], lr=settings.embedding_rate,
        betas=(0.9, 0.98), weight_decay=0.0, fused=True,
    )  # fmt: skip
    return [adam, *muons]


def settings_of(kept: dict[str, Any]) -> TrainSettings:
    """Read settings as they were stored; what a setting did not have then, it has by default."""
    start = Start(**kept["start"]) if kept.get("start") else None
    return TrainSettings(**kept | {"mixture": Mixture(**kept["mixture"]), "start": start})


MOVABLE = {"tokens", "decay"}
"""Settings that may change between two runs of one training."""


def _until_asked_to_stop() -> threading.Event:
    """Return what SIGTERM sets."""
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    return asked


def _check_same(before: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    before = asdict(settings_of(before))
    changed = [k for k in now if k not in MOVABLE and before[k] != now[k]]
    if changed:
        shown = ", ".join(f"{k} {before[k]} → {now[k]}" for k in changed)
        raise SystemExit(f"{path} was made with other settings ({shown}); choose another --folder")


def _cut_log(path: Path, step: int) -> None:
    """Drop what was logged after the checkpoint: it will be trained, and logged, again."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    part = path.with_suffix(".tmp")
    part.write_text("".join(kept), encoding="utf-8")
    part.replace(path)
