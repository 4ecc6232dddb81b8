"""Checkpoints of tiny ChatGLMs, as folders that bring their own code."""

import json
import shutil
from pathlib import Path

import torch

HERE = Path(__file__).parent
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["▁", "▁1", "▁2", "求和", "每", "后", *"0123456789.:=-()", *"abcdefghijklmnopqrstuvwxyz"]
FIRST_PIECES = ["<unk>", "<pad>", "[MASK]", "[gMASK]", "<sop>", "<eop>", "<n>", *WORDS, *BYTES]
SECOND_PIECES = ["<unk>", "</s>", *WORDS, *BYTES]

CHAT = (
    "{% for m in messages %}{% if loop.first %}[gMASK]sop{% endif %}<|{{ m.role }}|>\n "
    "{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""In the manner of ChatGLM3-6B."""

KINDS = ("first", "second", "third")


def save_chatglm(folder, kind, **settings):
    """Write a model of a kind: `first` for ChatGLM-6B, `second` and `third` for its successors.

    Returns:
        The folder.
    """
    from tests.chatglm import modeling_first, modeling_second

    folder.mkdir(parents=True, exist_ok=True)
    which = "first" if kind == "first" else "second"
    module = modeling_first if kind == "first" else modeling_second
    config = getattr(module, f"{which.title()}Config")(**settings)
    config.max_length = 20
    model = getattr(module, f"{which.title()}ForConditionalGeneration")(config)
    _fill(model)
    torch.save(model.half().state_dict(), folder / "pytorch_model.bin")
    shutil.copy(HERE / f"modeling_{which}.py", folder)
    shutil.copy(HERE / f"tokenization_{which}.py", folder)
    _write(folder / "vocab.json", FIRST_PIECES if kind == "first" else SECOND_PIECES)
    _write(folder / "config.json", settings | _config(which))
    _write(folder / "tokenizer_config.json", _tokenizer_config(kind, which))
    if kind == "third":
        (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    return folder


def _fill(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = "norm" in name and name.endswith("weight")
            noise = torch.randn(parameter.shape) * (0.1 if is_norm else 0.3)
            parameter.copy_(noise + is_norm)


def _config(which):
    name = which.title()
    code = f"modeling_{which}.{name}ForConditionalGeneration"
    auto_map = {
        "AutoConfig": f"modeling_{which}.{name}Config", "AutoModel": code,
        "AutoModelForSeq2SeqLM": code,
    }  # fmt: skip
    if which == "second":
        auto_map["AutoModelForCausalLM"] = code
    return {
        "model_type": "chatglm", "architectures": [f"{name}ForConditionalGeneration"],
        "torch_dtype": "float16", "auto_map": auto_map,
    } | ({"eos_token_id": 1, "pad_token_id": 0} if which == "second" else {})  # fmt: skip


def _tokenizer_config(kind, which):
    name = f"{which.title()}Tokenizer"
    config = {
        "tokenizer_class": name,
        "auto_map": {"AutoTokenizer": [f"tokenization_{which}.{name}", None]},
    }
    if kind == "third":
        from tests.chatglm.tokenization_second import MARKS

        config["added_tokens_decoder"] = {
            str(len(SECOND_PIECES) + place): {"content": mark, "special": False}
            for place, mark in enumerate(MARKS)
        }
    return config


def _write(path, what):
    path.write_text(json.dumps(what, ensure_ascii=False), encoding="utf-8")
