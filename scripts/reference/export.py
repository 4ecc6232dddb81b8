"""From a checkpoint to `artifacts/reference-model`: weights, tokenizer, model card, log, curve."""

import copy
import importlib.metadata
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from transformers import GenerationConfig

from attnprobe.figures import LOOKS, save
from attnprobe.figures.looks import MM
from reference.card import model_card
from reference.training import Training

LARGEST = 20_000_000
"""Bytes that the weights may take."""
KEPT = ("results.json",)
"""What others put beside the model, and a new export keeps."""
COLORS = {"direct": "#4477aa", "stepwise": "#ee6677", "coarse": "#228833"}
"""Told apart with every common colour blindness (Tol's bright scheme)."""


def export(training: Training, folder: Path, dtype: str = "float32") -> None:
    """Write the model folder beside, then put it in the place of the old one."""
    part = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _write_model(training, part, dtype)
    facts = _facts(training) | {"dtype": dtype}
    _write_json(part / "training.json", facts)
    lines = (training.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    log = [line for line in map(json.loads, lines) if line["step"] <= training.step]
    _write_lines(part / "training-log.jsonl", log)
    save(_curve(log), part / "curve.png")
    for name in KEPT:
        if (folder / name).is_file():
            shutil.copy2(folder / name, part / name)
    (part / "README.md").write_text(model_card(part), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _write_model(training: Training, folder: Path, dtype: str) -> None:
    model = copy.deepcopy(training.model).to(getattr(torch, dtype))
    tokenizer = training.tokenizer
    model.generation_config = GenerationConfig(
        do_sample=False, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = (folder / "model.safetensors").stat().st_size
    if size > LARGEST:
        raise SystemExit(f"the weights take {size} bytes, more than {LARGEST}")


def _facts(training: Training) -> dict[str, Any]:
    """Say what the weights follow from."""
    packages = ("torch", "transformers", "tokenizers", "numpy")
    return {
        "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
        "vocabulary": len(training.tokenizer),
        "steps": training.step,
        "tokens": training.tokens,
        "settings": asdict(training.settings),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "earlier": training.earlier,
    }


def _curve(log: list[dict[str, Any]]) -> Figure:
    """Draw training loss, validation loss and pass rates over tokens."""
    look = LOOKS["paper"]
    figure = Figure(figsize=(look.wide_mm * MM, 60 * MM), layout="constrained")
    loss, passes = figure.subplots(1, 2)
    trained = [line for line in log if "loss" in line]
    loss.plot(*_over_tokens(trained, "loss"), color="0.7", linewidth=0.6, label="training")
    measured = [line for line in log if "validation_loss" in line]
    for style, color in COLORS.items():
        millions = [line["tokens"] / 1e6 for line in measured]
        loss.plot(
            millions, [line["validation_loss"][style] for line in measured], color=color,
            linewidth=1, label=style,
        )  # fmt: skip
        for split, dashes in (("seen", "-"), ("unseen-parameters", "--"), ("unseen", ":")):
            passes.plot(
                millions, [100 * line["pass_rate"][f"{split}/{style}"] for line in measured],
                dashes, color=color, linewidth=1, label=f"{style}, {split}",
            )  # fmt: skip
    loss.set(xlabel="million tokens", ylabel="loss (nats per token)", yscale="log")
    passes.set(xlabel="million tokens", ylabel="answers right (%)", ylim=(0, 100))
    for axes in (loss, passes):
        axes.tick_params(labelsize=look.font, which="both")
        axes.xaxis.label.set_size(look.font)
        axes.yaxis.label.set_size(look.font)
        axes.legend(fontsize=look.font - 1.5, frameon=False)
    return figure


def _over_tokens(lines: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    return [line["tokens"] / 1e6 for line in lines], [line[key] for line in lines]


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
