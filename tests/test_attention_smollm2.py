"""The real model: captured attention against transformers' eager attention, 20 prompts."""

import pytest
import torch

from attnprobe.attention import record

pytestmark = pytest.mark.smollm2

PROMPTS = [
    "Continue the sequence with the next 3 numbers.\n2 3 5 8 12 17 23 30 38 47 57 68\n",
    "请续写数列，给出接下来的3个数。\n2 3 5 8 12 17 23 30 38 47 57 68\n",
    "每3项求和后预测下一块。\n1 4 9 16 25 36 49 64 81 100 121 144\n14 77 194 365\n",
    "The capital of France is Paris, and the capital of Japan is",
    "床前明月光，疑是地上霜。举头望明月，",
    "1, 1, 2, 3, 5, 8, 13, 21, 34, 55,",
    "小明有5个苹果，吃了2个，又买了7个。他现在有几个苹果？",
    "Tom has 5 apples, eats 2 and buys 7 more. How many apples does he have now?",
    "Write one computation per line.\n-41 - 4 = -45\n-45 - 4 = -49\n-49 - 4 =",
    "逐步计算：3+4=7，7+5=12，12+6=18，18+7=",
    "0.52 0.99 0.04 0.15 0.51 0.99 0.03",
    "a b c d a b c d a b c",
    "机器学习是人工智能的一个分支，它研究如何让计算机从数据中学习。",
    "Attention weights show where a head looks, not what it uses.",
    "周期数列：3 1 4 1 5 3 1 4 1 5 3 1",
    "x' = 7x + 3 mod 11: 1, 10, 7, 8, 4, 9, 0,",
    "混合 mixed 文本 text with 数字 42 and 符号 ≠ ∞ 😀.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "一二三四五六七八九十",
    "Once upon a time there was a small village by the sea where everyone knew each other.",
]


@torch.no_grad()
def eager_attentions(model, inputs):
    model.set_attn_implementation("eager")
    try:
        return model(**inputs, output_attentions=True).attentions
    finally:
        model.set_attn_implementation("sdpa")


def spans_of(length):
    return [(0, 1), (1, 2), (2, max(3, length // 2)), (max(3, length // 2), length)]


def worst_differences(model, inputs, lengths):
    spans = [spans_of(length) for length in lengths]
    queries = [range(length) for length in lengths]
    with torch.no_grad(), record(model, ["rows", "pooled"], queries=queries, spans=spans) as got:
        model(**inputs)
    rows = pooled = 0.0
    for layer, reference in enumerate(eager_attentions(model, inputs)):
        for index, length in enumerate(lengths):
            truth = reference[index, :, -length:, -length:]
            mine = got.rows[layer][index, :, :length, -length:]
            rows = max(rows, float((mine - truth).abs().max()))
            summed = torch.stack([truth[..., a:b].sum(-1) for a, b in spans[index]], -1)
            mine = got.pooled[layer][index, :, -length:]
            pooled = max(pooled, float((mine - summed).abs().max()))
    return rows, pooled


def test_single_prompts(smollm2):
    for prompt in PROMPTS:
        inputs = smollm2.tokenizer(prompt, return_tensors="pt")
        rows, pooled = worst_differences(
            smollm2.model, dict(inputs), [inputs["input_ids"].shape[1]]
        )
        assert rows <= 1e-4, prompt
        assert pooled <= 1e-5, prompt


@pytest.mark.parametrize("first", [0, 5, 10, 15])
def test_left_padded_batches(smollm2, first):
    tokenized = [smollm2.tokenizer(text)["input_ids"] for text in PROMPTS[first : first + 5]]
    lengths = [len(ids) for ids in tokenized]
    width = max(lengths)
    ids = torch.tensor([[2] * (width - len(row)) + row for row in tokenized])
    mask = (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp_min(0),
    }
    rows, pooled = worst_differences(smollm2.model, inputs, lengths)
    assert rows <= 1e-4
    assert pooled <= 1e-5
