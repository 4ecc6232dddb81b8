"""Models with random weights and a byte-level tokenizer, built from configs in milliseconds."""

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from attnprobe.types import Record, Segment

MERGES = [("Ġ", "1"), (".", "Ċ"), ("2", "3")]
"""` 1`, `.\\n` and `23` are one token each, so that tokens can straddle borders."""


def make_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE with three merges; every byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "</s>", *alphabet, *("".join(merge) for merge in MERGES)]
    core = Tokenizer(BPE({word: index for index, word in enumerate(words)}, MERGES))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def tiny_llama(n_kv_heads: int = 2, seed: int = 0, **config) -> LlamaForCausalLM:
    """Three layers, four heads of size 8, with weights large enough for sharp attention."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": n_kv_heads, "head_dim": 8,
        "max_position_embeddings": 512, "initializer_range": 0.4, "bos_token_id": 0,
        "eos_token_id": 1,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**(settings | config))).eval()


def save_model(folder, **config):
    """Write a tiny Llama and its tokenizer as a transformers folder."""
    tiny_llama(**config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_record(number: int = 0, style: str = "coarse", length: int = 6) -> Record:
    """A record with the usual roles; `length` terms of history."""
    terms = [(number * 7 + 3 * i) % 50 for i in range(length)]
    return Record(
        id=f"item-{number:03d}/{style}",
        item=f"item-{number:03d}",
        style=style,
        task=f"task-{number % 6}",
        split="seen",
        prompt=(
            Segment(
                "instruction", "每3项求和后预测下一块。" if style == "coarse" else "Step by step:"
            ),
            Segment("history", " ".join(map(str, terms))),
        ),
        target=(
            Segment("coarse_answer" if style == "coarse" else "step_1", str(sum(terms[-3:]))),
            Segment("answer", "80 93 107"),
        ),
        meta={"answer": [80, 93, 107], "名": "数列"},
    )
