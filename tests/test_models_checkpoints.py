"""Folders, shards, GGUF files and code of their own: what is loaded, and what is refused."""

import json
import logging
import shutil

import pytest
import torch
from peft import LoraConfig
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from attnprobe.errors import ModelError, nearest
from attnprobe.models import KNOWN, fingerprint, load_model
from tests.model_kinds import (
    IDS,
    as_q8,
    logits_of,
    save_adapter,
    save_gguf,
    save_remote,
    save_sharded,
)
from tests.tiny import make_tokenizer, save_model, tiny_llama


def fault(*args, **kwargs):
    with pytest.raises(ModelError) as caught:
        load_model(*map(str, args), **{"device": "cpu"} | kwargs)
    return str(caught.value)


def load(path, **options):
    return load_model(str(path), device="cpu", **options)


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    """Keep code that comes with checkpoints out of the user's cache."""
    folder = str(tmp_path / "modules")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", folder)
    monkeypatch.setattr("sys.path", [folder, *__import__("sys").path])


# --- shards and number formats ---------------------------------------------------------------


def test_shards_make_the_model_that_one_file_makes(tmp_path):
    loaded = load(save_sharded(tmp_path / "m"))
    assert len(list((tmp_path / "m").glob("*.safetensors"))) == 5
    assert loaded.identity()["fingerprint"] == fingerprint(tiny_llama())
    torch.testing.assert_close(logits_of(loaded.model), logits_of(tiny_llama()))


def test_a_missing_shard_is_named(tmp_path):
    folder = save_sharded(tmp_path / "m")
    (folder / "model-00002-of-00005.safetensors").unlink()
    assert fault(folder) == (
        f"{folder}: 1 of 5 shards missing; got no model-00002-of-00005.safetensors, expected what "
        "model.safetensors.index.json lists; copy or download the checkpoint again."
    )


def test_a_damaged_shard_or_index_is_named(tmp_path):
    folder = save_sharded(tmp_path / "m")
    shard = folder / "model-00003-of-00005.safetensors"
    shard.write_bytes(shard.read_bytes()[:-200])
    message = fault(folder)
    assert message.startswith(f"{shard}: a file of this checkpoint is damaged; got ")
    assert message.endswith("; copy or download it again.")
    (folder / "model.safetensors.index.json").write_text("{")
    assert "the list of this checkpoint's shards cannot be read" in fault(folder)


def test_half_precision_is_kept_or_widened_by_choice(tmp_path):
    folder = tmp_path / "m"
    tiny_llama().to(torch.float16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    assert load(folder).dtype == torch.float32
    assert load(folder, dtype="float16").identity()["dtype"] == "float16"
    assert load(folder, dtype="bfloat16").dtype == torch.bfloat16
    wide = load(folder).model.state_dict()
    for name, weight in tiny_llama().state_dict().items():
        torch.testing.assert_close(wide[name], weight.half().float(), rtol=0, atol=0)


# --- what is not whole -------------------------------------------------------------------------


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_missing_weights_are_refused_not_made_up(tmp_path):
    folder = save_model(tmp_path / "m")
    change_config(folder, num_hidden_layers=4)
    assert fault(folder) == (
        f"{folder}: 9 weights are missing from this checkpoint; got no "
        "model.layers.3.input_layernorm.weight, model.layers.3.mlp.down_proj.weight, "
        "model.layers.3.mlp.gate_proj.weight and 6 more, expected every weight of a causal "
        "language model; the config is not this checkpoint's, or the checkpoint is not complete."
    )


def test_weights_of_another_shape_are_refused(tmp_path):
    folder = save_model(tmp_path / "m")
    change_config(folder, intermediate_size=52)
    message = fault(folder)
    assert message.startswith(f"{folder}: 9 weights are of another shape than the config says; got")
    assert "model.layers.0.mlp.down_proj.weight (32, 48) for (32, 52)" in message


def test_folders_that_are_no_causal_language_model(tmp_path):
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text('{"model_type": "vit"}')
    shutil.copytree(save_model(tmp_path / "m"), tmp_path / "vit", dirs_exist_ok=True)
    (tmp_path / "vit" / "config.json").write_text('{"model_type": "vit"}')
    assert fault(tmp_path / "vit") == (
        f"{tmp_path}/vit: this is no causal language model; got model type 'vit', expected a model "
        "that predicts the next token."
    )
    BertModel(BertConfig(hidden_size=8, num_attention_heads=2, intermediate_size=8, vocab_size=300,
                         num_hidden_layers=1)).save_pretrained(tmp_path / "bert")  # fmt: skip
    make_tokenizer().save_pretrained(tmp_path / "bert")
    assert "missing from this checkpoint; got no cls.predictions" in fault(tmp_path / "bert")
    (tmp_path / "empty").mkdir()
    assert "this folder is no model; got no config.json in it" in fault(tmp_path / "empty")
    weights = tmp_path / "m" / "model.safetensors"
    assert f"this file is no GGUF model; got a file that begins with {weights.read_bytes()[:4]!r}"\
        in fault(weights)  # fmt: skip
    assert fault(weights).endswith(f"pass the folder it lies in: {tmp_path}/m.")


# --- tokenizers --------------------------------------------------------------------------------


def test_a_missing_or_broken_tokenizer_is_refused(tmp_path):
    folder = save_model(tmp_path / "m")
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    assert f"{folder}: this model has no tokenizer that can be read; got " in fault(folder)
    (folder / "tokenizer.json").unlink()
    assert fault(folder) == (
        f"{folder}: this model has no tokenizer that can be read; got none of tokenizer.json, "
        "*.model, vocab.*, merges.txt, *.tiktoken, tekken.json; put the tokenizer files of the "
        "model's own checkpoint in the folder (tokenizer.save_pretrained)."
    )


def test_no_empty_tokenizer_is_made_up(tmp_path):
    config = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=300)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    assert "no tokenizer that can be read" in fault(tmp_path / "gpt2")


def test_a_tokenizer_of_a_larger_model_is_refused_and_of_a_smaller_one_is_not(tmp_path):
    folder = save_model(tmp_path / "m", vocab_size=200)
    assert fault(folder) == (
        f"{folder}: the tokenizer is not this model's: it has tokens that the model does not know; "
        "got 261 tokens, expected at most 200, the rows of the embedding; put the tokenizer files "
        "of the model's own checkpoint in its folder."
    )
    assert load(save_model(tmp_path / "larger", vocab_size=500)).n_ids == 500


def test_added_tokens_that_the_model_does_not_know_pad_nothing(tmp_path):
    folder = save_model(tmp_path / "m", vocab_size=261)
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    loaded = load(folder)
    assert loaded.tokenizer.pad_token_id == loaded.n_ids == 261
    assert loaded.pad_id == 0


# --- code of their own -------------------------------------------------------------------------


def test_code_that_comes_with_a_model_is_run_on_request_only(tmp_path):
    folder = save_remote(tmp_path / "remote")
    assert fault(folder) == (
        f"{folder}: this model comes with code of its own, which is not run unasked; got "
        "modeling_mine.py; read the code; if you trust it, add --trust-remote-code "
        "(trust_remote_code=True in Python)."
    )
    loaded = load(folder, trust_remote_code=True)
    assert loaded.identity()["architecture"] == "MyModel"
    assert loaded.identity()["remote_code"] is True
    torch.testing.assert_close(logits_of(loaded.model), 2 * logits_of(tiny_llama()))


def test_code_that_cannot_be_run_is_told_of(tmp_path):
    folder = save_remote(tmp_path / "remote")
    (folder / "modeling_mine.py").write_text("import no_such_package_of_ours")
    message = fault(folder, trust_remote_code=True)
    assert "cannot load this model; got " in message
    assert "no_such_package_of_ours" in message


# --- GGUF --------------------------------------------------------------------------------------


def test_a_gguf_file_is_the_model_it_was_made_of(tmp_path):
    model = tiny_llama()
    loaded = load(save_gguf(tmp_path / "tiny.gguf", model))
    torch.testing.assert_close(logits_of(loaded.model), logits_of(model))
    assert loaded.dtype == torch.float32
    assert (loaded.n_layers, loaded.n_heads, loaded.max_tokens) == (3, 4, 512)
    text = "每3项23 12"
    assert loaded.tokenizer(text)["input_ids"] == make_tokenizer(bos=False)(text)["input_ids"]


def test_the_tokenizer_of_a_gguf_file_splits_text_as_the_file_says(tmp_path, caplog):
    def tokens(split):
        path = save_gguf(tmp_path / f"{split}.gguf", tiny_llama(), split=split)
        return load(path).tokenizer.tokenize("a23 1\n\n1")

    assert tokens("default") == ["a", "23", "Ġ1", "Ċ", "Ċ", "1"]
    assert tokens("smollm") == ["a", "2", "3", "Ġ", "1", "Ċ", "Ċ", "1"]
    assert tokens("qwen2") == ["a", "2", "3", "Ġ", "1", "Ċ", "Ċ", "1"]
    assert not caplog.messages
    tokens("of-tomorrow")
    assert caplog.messages == [
        f"{tmp_path}/of-tomorrow.gguf: the tokenizer of this file splits text in a way that is not "
        "known here ('of-tomorrow'); some texts may get other tokens than the model was trained on"
    ]


def test_quantised_weights_are_what_their_format_says(tmp_path):
    model = tiny_llama(intermediate_size=64)
    loaded = load(save_gguf(tmp_path / "tiny.gguf", model, quantised=True))
    for name, weight in model.state_dict().items():
        if name.endswith(("v_proj.weight", "down_proj.weight", "embed_tokens.weight")):
            wanted = as_q8(weight)
            assert not torch.equal(wanted, weight)
            torch.testing.assert_close(loaded.model.state_dict()[name], wanted, rtol=0, atol=0)
    assert not hasattr(loaded.model.config, "quantization_config")
    assert load(tmp_path / "tiny.gguf", dtype="bfloat16").dtype == torch.bfloat16


def test_gguf_files_that_cannot_be_used(tmp_path):
    whole = save_gguf(tmp_path / "tiny.gguf", tiny_llama())
    (tmp_path / "cut.gguf").write_bytes(whole.read_bytes()[:-5000])
    assert f"{tmp_path}/cut.gguf: cannot load this model; got " in fault(tmp_path / "cut.gguf")
    part = whole.rename(tmp_path / "tiny-00001-of-00003.gguf")
    assert fault(part) == (
        f"{part}: this GGUF file is one part of several; got part 1 of 3, expected one file; join "
        "them: llama-gguf-split --merge FIRST-PART WHOLE."
    )
    assert fault(tmp_path) == (
        f"{tmp_path}: this folder is no model, but holds GGUF files; got cut.gguf, "
        f"tiny-00001-of-00003.gguf; pass one of them: {tmp_path}/cut.gguf."
    )


# --- the hub -----------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """A hub that is allowed, and that notes what is asked of it instead of answering."""
    asked = []

    def refuse(name, *args, local_files_only=False, **kwargs):
        asked.append((name, local_files_only))
        raise OSError("no route to the hub")

    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    for kind in ("AutoTokenizer", "AutoModelForCausalLM"):
        monkeypatch.setattr(f"transformers.{kind}.from_pretrained", refuse)
    return asked


def test_a_hub_id_is_looked_up_and_said_so(hub, caplog):
    with caplog.at_level(logging.INFO, logger="attnprobe"):
        message = fault("org/name")
    assert caplog.messages == [
        "org/name: no such folder here; asking the hub (HF_HUB_OFFLINE=1 forbids it)"
    ]
    assert hub == [("org/name", False)] * 2  # is it an adapter? its tokenizer
    assert message.startswith("org/name: cannot load this model; got no route to the hub, expected")


def test_a_hub_that_does_not_answer_is_asked_once(hub, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    assert "in the hub's cache; the hub could not be reached, expected" in fault("org/name")
    assert hub == [("org/name", True)]


def test_a_bare_name_is_never_looked_up(hub, caplog):
    message = fault("smollm2-135m-instrct")
    assert hub
    assert all(local for _, local in hub)
    assert not caplog.messages
    assert "no such folder, and nothing whole of that name in the hub's cache" in message
    assert "did you mean 'smollm2-135m-instruct'?" in message


def test_offline_nothing_is_looked_up(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    assert fault("org/name") == (
        "org/name: cannot load this model; got no such folder, and nothing whole of that name in "
        "the hub's cache; hub look-ups are off (HF_HUB_OFFLINE), expected a known name, a model "
        "folder, a .gguf file, or a hub id such as org/name; check the spelling, or download it "
        f"first and pass the folder; {nearest('org/name', KNOWN)}."
    )
    assert all(local for _, local in hub)


def cached(folder, name, save):
    """Put a model into a cache as the hub's client lays it out."""
    kept = folder / f"models--{name.replace('/', '--')}"
    snapshot = kept / "snapshots" / "abc"
    save(snapshot)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_what_the_hubs_cache_holds_is_loaded_offline(cache):
    cached(cache, "org/tiny", save_model)
    loaded = load("org/tiny")
    assert loaded.model(IDS).logits.shape == (1, 30, 300)
    assert loaded.identity()["name"] == "org/tiny"


def test_an_adapter_in_the_hubs_cache_is_loaded_offline_with_its_base(cache):
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    cached(cache, "org/tiny", save_model)
    snapshot = cached(
        cache, "org/adapter", lambda folder: save_adapter(folder, tiny_llama(), config, "org/tiny")
    )
    loaded = load("org/adapter")
    assert loaded.adapter.base == "org/tiny"
    shutil.rmtree(cache / "models--org--tiny")
    assert snapshot.is_dir()
    message = fault("org/adapter")
    assert message.startswith(
        "org/adapter: the base of this adapter cannot be loaded; got org/tiny: cannot load this "
        "model; got no such folder, and nothing whole of that name in the hub's cache; hub look-ups"
    )
    assert message.endswith("; mend that, or name another with --base MODEL.")
