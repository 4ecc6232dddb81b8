"""The folder of a fine-tuning: what it was begun with, its checkpoints, and what came out."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnprobe.errors import FinetuneError

RECORD = "attnprobe.json"
"""Says what was trained, on what, and how far it is."""
LOG = "log.jsonl"
"""Losses and pass rates, by step."""
CHECKPOINTS = "checkpoints"

_IDENTITY = ("base_fingerprint", "data_sha256", "validation_sha256", "settings", "versions")
_MOVABLE = ("device",)
"""Settings that may change between two runs of one fine-tuning."""


@dataclass(frozen=True, slots=True)
class TrainingFolder:
    """Where a fine-tuning lives."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go until all is done."""
        return self.path / CHECKPOINTS

    @property
    def record(self) -> dict[str, Any]:
        """What the folder says of itself; empty if there is nothing."""
        file = self.path / RECORD
        if not file.is_file():
            return {}
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FinetuneError("this file cannot be read", where=str(file), got=str(error),
                                fix="restore it, or use another -o") from error  # fmt: skip
        return found if isinstance(found, dict) else {}

    def last_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that was written to its end."""
        found = sorted(
            self.checkpoints.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2])
        )
        whole = [path for path in found if (path / RECORD).is_file()]
        return whole[-1] if whole else None

    def require_apart(self, sources: Mapping[str, Path]) -> None:
        """Refuse a folder that holds what is trained on: writing there, or clearing it, loses it.

        Args:
            sources: By what it is: a file or a folder.

        Raises:
            FinetuneError: If one of them is the folder, or lies in it.
        """
        mine = self.path.resolve()
        for what, path in sources.items():
            other = path.resolve()
            if mine == other or mine in other.parents:
                raise FinetuneError(
                    f"the folder to write holds the {what}", where=str(self.path), got=str(path),
                    expected="a folder of its own", fix="use another -o",
                )  # fmt: skip

    def begin(self, record: Mapping[str, Any], *, overwrite: bool) -> bool:
        """Claim the folder, or go on with what was begun there.

        Args:
            record: What is to be trained.
            overwrite: Whether to remove what is there.

        Returns:
            Whether the same fine-tuning is already finished there.

        Raises:
            FinetuneError: If the folder holds something else.
        """
        if overwrite and self.path.is_dir():
            self._check_removable()
            shutil.rmtree(self.path)
        there = self.record
        if there:
            self._check_same(there, record)
            return there.get("complete") is True
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise FinetuneError(
                "there is something else already", where=str(self.path),
                got="no folder" if not self.path.is_dir() else f"no {RECORD} in it",
                expected="an empty or a new folder", fix="use another -o",
            )  # fmt: skip
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.write({**record, "complete": False})
        except OSError as error:
            raise FinetuneError(
                f"cannot write the folder ({error.strerror or error})", where=str(self.path),
                fix="use another -o",
            ) from error  # fmt: skip
        return False

    def write(self, record: Mapping[str, Any], folder: Path | None = None) -> None:
        """Write what the folder, or a checkpoint in it, says of itself."""
        file = (folder or self.path) / RECORD
        part = file.with_suffix(".tmp")
        part.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        part.replace(file)

    def write_log(self, lines: list[dict[str, Any]]) -> None:
        """Write the curves, without Trainer's summary, which knows only what came since a stop."""
        told = [line for line in lines if "train_runtime" not in line]
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in told)
        part = self.path / f"{LOG}.tmp"
        part.write_text(text, encoding="utf-8")
        part.replace(self.path / LOG)

    def _check_removable(self) -> None:
        if any(self.path.iterdir()) and not self.record:
            raise FinetuneError(
                "this folder was not made by attnprobe finetune, so it is not removed",
                where=str(self.path), got=f"no {RECORD} in it",
                fix="remove it yourself, or use another -o",
            )  # fmt: skip

    def _check_same(self, there: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        different = [
            line for key in _IDENTITY for line in _differences(key, there.get(key), record.get(key))
        ]
        if different:
            done = "finished" if there.get("complete") else "begun"
            raise FinetuneError(
                f"another fine-tuning was {done} here", where=str(self.path),
                got="; ".join(different),
                fix="repeat its command to continue it, use another -o, or add --overwrite",
            )  # fmt: skip


def _differences(key: str, there: Any, now: Any) -> list[str]:
    """Word what differs, setting by setting."""
    if isinstance(there, dict) and isinstance(now, dict):
        names = sorted({*there, *now} - set(_MOVABLE))
        return [
            f"{name} {_short(there.get(name))} there, {_short(now.get(name))} asked for"
            for name in names
            if there.get(name) != now.get(name)
        ]
    return [] if there == now else [f"{key} {_short(there)} there, {_short(now)} asked for"]


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 24 else text
