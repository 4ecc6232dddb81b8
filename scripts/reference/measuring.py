"""What a half-trained model can do: losses and pass rates on small sets of the test splits."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch

from attnprobe.capturing import Decoding, generate
from attnprobe.encode import encode_prompt
from attnprobe.models import LoadedModel
from attnprobe.tasks.scoring import score_record
from attnprobe.tasks.sequences import SequenceSettings
from attnprobe.tasks.sequences import generate as generate_records
from attnprobe.types import Record

SEED = 1000
"""Of the validation sets; the results table uses other seeds."""


class Validation:
    """Fixed records of `seen`, `unseen-parameters` and `unseen`, a few of each family."""

    def __init__(self, per_family: int = 4, losses: int = 20) -> None:
        self.written = [
            record
            for split in ("seen", "unseen-parameters", "unseen")
            for record in _records(split, per_family)
        ]
        self.read = list(_records("seen", losses))

    def measure(self, model: Any, tokenizer: Any, precision: str) -> dict[str, Any]:
        """Return validation loss per style (`seen`) and pass rate per split, style and family."""
        model.eval()
        with torch.random.fork_rng(devices=[]):
            losses = self._losses(model, tokenizer, precision)
            passes = self._passes(LoadedModel(model, tokenizer, "reference"), precision)
        return {"validation_loss": losses} | passes

    @torch.no_grad()
    def _losses(self, model: Any, tokenizer: Any, precision: str) -> dict[str, float]:
        from reference.texts import _encoded, _grouped, _padded
        from reference.training import loss_of

        losses = {}
        for style in ("direct", "stepwise", "coarse"):
            pieces = [_target_only(r) for r in self.read if r.style == style]
            examples = list(_encoded(tokenizer, pieces))
            examples.sort(key=lambda e: len(e.ids))
            total = weight = 0.0
            for group in _grouped(examples, 2048):
                batch = _padded(group, tokenizer.pad_token_id)
                total += float(loss_of(model, batch, precision))
                weight += float(batch.weights.sum())
            losses[style] = round(total / weight, 4)
        return losses

    def _passes(self, loaded: LoadedModel, precision: str) -> dict[str, Any]:
        prompts = [encode_prompt(record, loaded.tokenizer) for record in self.written]
        by_style: dict[str, list[bool]] = defaultdict(list)
        by_family: dict[str, list[bool]] = defaultdict(list)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            for _, written in generate(loaded, prompts, Decoding(batch_size=64)):
                for encoding in written:
                    record = encoding.record
                    passed = bool(score_record(record, encoding.generated or "").passed)
                    by_style[f"{record.split}/{record.style}"].append(passed)
                    by_family[f"{record.task}/{record.split}/{record.style}"].append(passed)
        return {"pass_rate": _means(by_style), "families": _means(by_family)}


def _records(split: str, per_family: int) -> Iterable[Record]:
    return generate_records(SequenceSettings(split=split, n_per_family=per_family, seed=SEED))


def _target_only(record: Record) -> list[tuple[str, float]]:
    return [(record.prompt_text, 0.0), (record.target_text, 1.0)]


def _means(lists: dict[str, list[bool]]) -> dict[str, float]:
    return {key: round(sum(values) / len(values), 3) for key, values in lists.items()}
