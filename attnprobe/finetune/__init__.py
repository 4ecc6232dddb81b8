"""Fine-tuning on one's own prompts and targets: an adapter (LoRA), or all weights.

    fine_tune("data.jsonl", "smollm2-135m-instruct", "adapter")

Records are encoded as everywhere else and go through transformers' Trainer; `extract` takes the
folder that comes out.
"""

from attnprobe.finetune.running import Finetuned, fine_tune
from attnprobe.finetune.settings import FinetuneSettings
from attnprobe.finetune.training import Watchers

__all__ = ["FinetuneSettings", "Finetuned", "Watchers", "fine_tune"]
