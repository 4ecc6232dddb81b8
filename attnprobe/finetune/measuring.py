"""How good a half-trained model is: loss of targets it never saw, and answers it writes."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from attnprobe.capturing import Decoding, generate
from attnprobe.encode import encode_prompt
from attnprobe.errors import RecordError
from attnprobe.finetune.examples import Collator, Example, target_loss
from attnprobe.finetune.settings import FinetuneSettings
from attnprobe.models import LoadedModel
from attnprobe.tasks.scoring import rule_of, score_record
from attnprobe.types import Encoding, Record


@dataclass(frozen=True, slots=True)
class Validation:
    """Records that are measured, never trained on."""

    loaded: LoadedModel
    """The model in training."""
    records: Sequence[Record]
    """What is measured; may be empty."""
    examples: Sequence[Example]
    """The same, in tokens."""
    settings: FinetuneSettings

    def measure(self, model: Any) -> dict[str, Any]:
        """Measure a model, and leave it in the mode it was in.

        Returns:
            `validation_loss`, nats per target token; where records can be scored, `pass_rate` of
            the first `written` of them, `passed` by style, and `n_written`.
        """
        before = model.training
        model.eval()
        try:
            with torch.random.fork_rng(), self._computing():
                return {"validation_loss": self._loss(model)} | self._pass_rate()
        finally:
            model.train(before)

    @torch.no_grad()
    def _loss(self, model: Any) -> float:
        collate = Collator(self.loaded)
        ordered = sorted(self.examples, key=lambda example: len(example.ids))
        size, total, count = self.settings.batch_size, 0.0, 0
        for start in range(0, len(ordered), size):
            batch = {
                k: v.to(model.device) for k, v in collate(ordered[start : start + size]).items()
            }
            labels = batch.pop("labels")
            loss, n_tokens = target_loss(model(**batch).logits, labels)
            total, count = total + loss.item(), count + n_tokens
        return total / count

    def _pass_rate(self) -> dict[str, Any]:
        prompts = [self._prompt(r) for r in self.records if _can_be_scored(r)]
        prompts = prompts[: self.settings.written]
        passed: dict[str, list[bool]] = defaultdict(list)
        decoding = Decoding(batch_size=self.settings.batch_size)
        for _, written in generate(self.loaded, prompts, decoding):
            for encoding in written:
                score = score_record(encoding.record, encoding.generated or "")
                if score.passed is not None:
                    passed[encoding.record.style].append(score.passed)
        every = [right for rights in passed.values() for right in rights]
        if not every:
            return {}
        by_style = {style: sum(passed[style]) / len(passed[style]) for style in sorted(passed)}
        return {"pass_rate": sum(every) / len(every), "passed": by_style, "n_written": len(every)}

    def _prompt(self, record: Record) -> Encoding:
        return encode_prompt(
            record, self.loaded.tokenizer, max_tokens=self.loaded.max_tokens,
            n_ids=self.loaded.n_ids, chat=self.settings.chat,
        )  # fmt: skip

    def _computing(self) -> AbstractContextManager[Any]:
        """Compute in the number format that training computes in."""
        mixed = self.settings.full and self.settings.dtype == "bfloat16"
        return torch.autocast(self.loaded.device.type, torch.bfloat16, enabled=mixed)


def _can_be_scored(record: Record) -> bool:
    try:
        rule_of(record)
    except RecordError:
        return False
    return True
