"""Tiny models of every kind that people have on disk, made on the spot."""

import json
import warnings

import gguf
import numpy as np
import torch
from gguf import quants

from tests.tiny import MERGES, make_tokenizer, tiny_llama

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

MODELLING = """
from transformers import LlamaConfig, LlamaForCausalLM

class MyConfig(LlamaConfig):
    model_type = "my-llama"

class MyModel(LlamaForCausalLM):
    config_class = MyConfig

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * 2
        return out
"""


def save_sharded(folder, **config):
    """A checkpoint in five shards and its index."""
    tiny_llama(**config).save_pretrained(folder, max_shard_size="40KB")
    make_tokenizer().save_pretrained(folder)
    return folder


def save_remote(folder):
    """A model whose class lies beside its weights."""
    tiny_llama().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "my-llama", "architectures": ["MyModel"],
        "auto_map": {
            "AutoConfig": "modeling_mine.MyConfig", "AutoModelForCausalLM": "modeling_mine.MyModel"
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_mine.py").write_text(MODELLING)
    return folder


def save_gguf(path, model, quantised=False, split="default"):
    """The model as llama.cpp writes it: queries and keys interleaved, one file with its tokenizer.

    Quantised, the matrices of whole blocks are Q8_0.
    """
    config, tokenizer = model.config, make_tokenizer()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    words = [word for word, _ in sorted(tokenizer.get_vocab().items(), key=lambda kv: kv[1])]
    words += [f"<unused{i}>" for i in range(config.vocab_size - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(words)
    writer.add_token_types([3 if word in ("<s>", "</s>") else 1 for word in words])
    writer.add_token_merges([" ".join(merge) for merge in MERGES])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        values = weight.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = len(values) // config.head_dim
            values = values.reshape(heads, 2, config.head_dim // 2, -1).swapaxes(1, 2)
            values = values.reshape(weight.shape)
        given = names.get_name(name, try_suffixes=(".weight",))
        if quantised and values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(given, quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(given, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def as_q8(weight):
    """What Q8_0 leaves of a matrix, by the library that defines it."""
    kind = gguf.GGMLQuantizationType.Q8_0
    return torch.from_numpy(quants.dequantize(quants.quantize(weight.numpy(), kind), kind))


def adapted(base, config):
    """A new adapter on `base`, without PEFT's word about its own deprecations."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(base, config)


def save_adapter(folder, base, config, name=None, seed=1):
    """An adapter with weights that matter, on `base`; `name` is the base it names.

    Returns:
        The logits of model and adapter together, before anything was saved.
    """
    wrapped = adapted(base, config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    trained = logits_of(wrapped.eval())
    wrapped.save_pretrained(folder)
    if name is not None:
        path = folder / "adapter_config.json"
        settings = json.loads(path.read_text()) | {"base_model_name_or_path": str(name)}
        path.write_text(json.dumps(settings))
    return trained


def record_base(folder, base, fingerprint):
    """What fine-tuning writes down about the base."""
    facts = {"base": str(base), "base_fingerprint": fingerprint}
    (folder / "attnprobe.json").write_text(json.dumps(facts))


IDS = torch.arange(10, 40)[None]


@torch.no_grad()
def logits_of(model):
    """Logits of a few tokens."""
    return model(IDS).logits
