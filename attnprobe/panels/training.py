"""How a training went: losses and pass rates, by what was read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnprobe.errors import FigureError
from attnprobe.panels.lines import Line, LinePanel

LOGS = ("log.jsonl", "training-log.jsonl")
"""Files of a folder that may hold the log: of `attnprobe finetune`, of the reference model."""
_SPLITS = ("", "train", "seen", "unseen-parameters", "unseen")
"""The order in which splits are read."""
_DIRECTIONS = "Loss: lower is better. Training loss is of the batches just trained on."


def read_training_log(path: str | Path) -> list[dict[str, Any]]:
    """Read the log of a training.

    Args:
        path: A folder of `attnprobe finetune`, the reference model's, or a log itself.

    Returns:
        What was logged, in the order of steps: `step`, perhaps `tokens`, and `loss`,
        `validation_loss` or `pass_rate`.

    Raises:
        FigureError: If there is none, or a line of it cannot be read.
    """
    path = Path(path)
    files = [path / name for name in LOGS] if path.is_dir() else [path]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise FigureError(
            "there is no log of a training", where=str(path), expected=" or ".join(LOGS),
            fix="name the folder that `attnprobe finetune … -o` was given; its log is written with "
            "the first measurement",
        )  # fmt: skip
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise _unreadable(file, number, str(error)) from error
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise _unreadable(file, number, "no line with a step")
        lines.append(line)
    return sorted(lines, key=lambda line: line["step"])


def _unreadable(file: Path, number: int, got: str) -> FigureError:
    return FigureError(
        "this line of a training log cannot be read", where=f"{file}:{number}", got=got,
        expected='such as {"step": 20, "loss": 1.5}',
    )  # fmt: skip


def training_panels(log: Sequence[Mapping[str, Any]], title: str = "") -> tuple[LinePanel, ...]:
    """Arrange losses, and pass rates where answers were scored, over tokens or steps.

    Args:
        log: What `read_training_log` returned.
        title: What was trained.

    Returns:
        A panel of losses on a logarithmic scale, and one of pass rates if there are any.

    Raises:
        FigureError: If the log holds no loss.
    """
    by_tokens = bool(log) and all("tokens" in line for line in log)
    unit = max((line["tokens"] for line in log), default=0) >= 1e6 if by_tokens else False
    x_axis = "million tokens" if unit else "tokens" if by_tokens else "step"

    def place(line: Mapping[str, Any]) -> float:
        return float(line["tokens"] / (1e6 if unit else 1) if by_tokens else line["step"])

    validation = _series(log, "validation_loss", "", place)
    losses = _series(log, "loss", "training", place) | {
        f"validation, {name}".removesuffix(", "): points for name, points in validation.items()
    }
    if not losses:
        raise FigureError(
            "the log holds no loss", got=f"{len(log)} lines", expected="loss or validation_loss"
        )
    ends = (0.0, 1.02 * max(place(line) for line in log))
    positive = all(value > 0 for points in losses.values() for _, value in points)
    head = f"{title}: " if title else ""
    panels = [
        LinePanel(
            lines=tuple(_line(label, points, 1.0) for label, points in losses.items()),
            title=f"{head}loss", x_axis=x_axis, name="loss", unit="nat per token",
            x_limits=ends if ends[1] else None,
            scale="log" if positive else "linear", note=_DIRECTIONS,
        )
    ]  # fmt: skip
    rates = _series(log, "passed", "all", place) or _series(log, "pass_rate", "all", place)
    rates = dict(sorted(rates.items(), key=lambda named: _split_order(named[0])))
    if rates:
        panels.append(
            LinePanel(
                lines=tuple(_line(label, points, 100.0) for label, points in rates.items()),
                title=f"{head}answers that pass", x_axis=x_axis, name="pass rate", unit="%",
                limits=(0.0, 100.0),
                x_limits=ends if ends[1] else None,
            )
        )  # fmt: skip
    return tuple(panels)


def _series(
    log: Sequence[Mapping[str, Any]], key: str, plain: str, place: Any
) -> dict[str, list[tuple[float, float]]]:
    """Gather a logged number, or several by name, over their places."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in log:
        value = line.get(key)
        named = value if isinstance(value, Mapping) else {} if value is None else {plain: value}
        for name, number in named.items():
            found.setdefault(name.replace("/", ", "), []).append((place(line), float(number)))
    return found


def _split_order(label: str) -> int:
    split = label.rpartition(", ")[0]
    return _SPLITS.index(split) if split in _SPLITS else len(_SPLITS)


def _line(label: str, points: Sequence[tuple[float, float]], factor: float) -> Line:
    """Make a line; of one style by colour, of one split by pattern."""
    split, _, style = label.rpartition(", ")
    x, y = (np.asarray(part, np.float64) for part in zip(*points, strict=True))
    return Line(label, x, np.where(np.isfinite(y), y * factor, np.nan), hue=style, dash=split)
