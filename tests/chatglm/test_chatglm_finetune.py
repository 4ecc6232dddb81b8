"""ChatGLM-6B, 2 and 3 are fine-tuned: in batches that their own tokenizers pad."""

import json

import pytest
import torch

from attnprobe import load_model
from attnprobe.encode import encode
from attnprobe.finetune import FinetuneSettings, fine_tune
from attnprobe.finetune.examples import Collator, example_of, target_loss
from attnprobe.records import read_records
from tests.chatglm.folders import KINDS, save_chatglm
from tests.chatglm.test_chatglm_extract import record

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning")


def losses_of(loaded, examples):
    """Sum the loss of a batch, and count its tokens."""
    batch = Collator(loaded)(examples)
    given = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.no_grad():
        total, n_tokens = target_loss(loaded.model(**given).logits, batch["labels"])
    return total.item(), n_tokens


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_code_of_its_own_is_fine_tuned(tmp_path, monkeypatch, kind, full):
    monkeypatch.setenv("ATTNPROBE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "data.jsonl"
    lines = [json.dumps(record(n, style)) for n in range(8) for style in ("coarse", "stepwise")]
    path.write_text("\n".join(lines), encoding="utf-8")
    settings = FinetuneSettings(
        full=full, max_steps=12, batch_size=3, learning_rate=5e-3, validation=0.25, validations=2,
        written=1, trust_remote_code=True,
    )  # fmt: skip
    model = save_chatglm(tmp_path / kind, kind)
    done = fine_tune(path, str(model), tmp_path / "tuned", settings)
    log = [json.loads(one) for one in (done.path / "log.jsonl").read_text().splitlines()]
    first, last = (line["validation_loss"] for line in log if "validation_loss" in line)
    assert last < first
    loaded = load_model(str(done.path), trust_remote_code=True)
    examples = [
        example_of(encode(one, loaded.tokenizer), loaded) for one in list(read_records(path))[:5]
    ]
    assert len({len(example.ids) for example in examples}) > 1
    together = losses_of(loaded, examples)
    alone = [losses_of(loaded, [example]) for example in examples]
    assert together[0] == pytest.approx(sum(loss for loss, _ in alone), rel=1e-4)
    assert together[1] == sum(n_tokens for _, n_tokens in alone)
