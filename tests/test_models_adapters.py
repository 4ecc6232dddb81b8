"""PEFT adapters: on the right base exactly what was trained, on a wrong one an error."""

import json
import shutil
import sys

import pytest
import torch
from peft import (
    AdaLoraConfig,
    C3AConfig,
    DeloraConfig,
    FourierFTConfig,
    GraloraConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    MissConfig,
    OFTConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    RandLoraConfig,
    TrainableTokensConfig,
    VeraConfig,
    WaveFTConfig,
)

from attnprobe.attention import Survey, record
from attnprobe.models import fingerprint, load_model
from attnprobe.models.adapters import SUPPORTED
from tests.model_kinds import IDS, adapted, logits_of, record_base, save_adapter, save_gguf
from tests.test_models_checkpoints import fault, load
from tests.tiny import make_tokenizer, save_model, tiny_llama

AIM = {"target_modules": ["q_proj", "v_proj", "up_proj"]}
KINDS = {
    "LORA": LoraConfig(r=4, **AIM),
    "DORA": LoraConfig(r=4, use_dora=True, **AIM),
    "ADALORA": AdaLoraConfig(total_step=10, **AIM),
    "C3A": C3AConfig(block_size=4, **AIM),
    "DELORA": DeloraConfig(r=4, **AIM),
    "FOURIERFT": FourierFTConfig(n_frequency=20, **AIM),
    "GRALORA": GraloraConfig(r=4, gralora_k=2, **AIM),
    "HRA": HRAConfig(r=4, **AIM),
    "IA3": IA3Config(feedforward_modules=["up_proj"], **AIM),
    "LN_TUNING": LNTuningConfig(target_modules=["input_layernorm"]),
    "LOHA": LoHaConfig(r=4, **AIM),
    "LOKR": LoKrConfig(r=4, **AIM),
    "MISS": MissConfig(r=2, **AIM),
    "OFT": OFTConfig(oft_block_size=4, **AIM),
    "PREFIX_TUNING": PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "RANDLORA": RandLoraConfig(r=2, **AIM),
    "TRAINABLE_TOKENS": TrainableTokensConfig(
        target_modules=["embed_tokens"], token_indices=[10, 11, 12]
    ),
    "VERA": VeraConfig(r=4, **AIM),
    "WAVEFT": WaveFTConfig(n_frequency=20, **AIM),
}


def lora(**options):
    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **options)


@pytest.fixture
def base(tmp_path):
    return save_model(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path, base):
    save_adapter(tmp_path / "adapter", tiny_llama(), lora(), base)
    record_base(tmp_path / "adapter", base, fingerprint(tiny_llama()))
    return tmp_path / "adapter"


def test_every_supported_type_is_among_these():
    assert {config.peft_type.value for config in KINDS.values()} == SUPPORTED


@pytest.mark.parametrize("kind", KINDS)
def test_capture_is_that_of_the_adapted_model(kind, tmp_path, base):
    trained = save_adapter(tmp_path / "a", tiny_llama(), KINDS[kind], base)
    assert (trained - logits_of(tiny_llama())).abs().max() > 1
    loaded = load(tmp_path / "a")
    torch.testing.assert_close(logits_of(loaded.model), trained)
    with torch.no_grad(), record(loaded.model, ["full"]) as recording:
        under = loaded.model(IDS).logits
    torch.testing.assert_close(under, trained)
    survey = Survey(loaded.model)
    assert survey.layers == (0, 1, 2)
    survey.inner.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = loaded.model(IDS, output_attentions=True).attentions
    for layer, truth in enumerate(attentions):
        torch.testing.assert_close(recording.full[layer], truth, rtol=0, atol=1e-4)


def test_an_adapter_counts_in_the_identity_with_its_base(adapter, base, tmp_path):
    found = load(adapter).identity()
    assert found["name"] == str(adapter)
    assert found["architecture"] == "LlamaForCausalLM"
    assert found["n_layers"] == 3
    assert found["adapter"] == {
        "kind": "LORA", "base": str(base), "base_fingerprint": fingerprint(tiny_llama()),
        "fingerprint": found["adapter"]["fingerprint"], "merged": False,
    }  # fmt: skip
    assert found["fingerprint"] != fingerprint(tiny_llama())
    assert "adapter" not in load(base).identity()
    save_adapter(tmp_path / "other", tiny_llama(), lora(), base, seed=2)
    record_base(tmp_path / "other", base, fingerprint(tiny_llama()))
    other = load(tmp_path / "other").identity()
    assert other["adapter"]["fingerprint"] != found["adapter"]["fingerprint"]
    assert other["fingerprint"] != found["fingerprint"]


def test_a_merged_adapter_is_a_plain_model_that_answers_alike(adapter):
    kept, merged = load(adapter), load(adapter, merge_adapter=True)
    assert type(merged.model).__name__ == "LlamaForCausalLM"
    assert not any("lora" in name for name, _ in merged.model.named_parameters())
    torch.testing.assert_close(logits_of(merged.model), logits_of(kept.model), rtol=0, atol=1e-3)
    one, other = merged.identity()["adapter"], kept.identity()["adapter"]
    assert one == other | {"merged": True}


def test_the_tokenizer_is_the_adapters_own_if_it_has_one(adapter):
    assert load(adapter).tokenizer.bos_token == "<s>"
    own = make_tokenizer()
    own.add_special_tokens({"additional_special_tokens": ["<|step|>"]})
    own.save_pretrained(adapter)
    assert "<|step|>" in load(adapter).tokenizer.get_vocab()


def test_half_precision_of_one_checkpoint_is_still_that_checkpoint(adapter, base, tmp_path):
    assert load(adapter, dtype="bfloat16").dtype == torch.bfloat16
    record_base(adapter, base, fingerprint(tiny_llama().to(torch.bfloat16)))
    assert load(adapter).dtype == torch.float32
    record_base(adapter, base, fingerprint(tiny_llama(seed=5).to(torch.bfloat16)))
    assert "its weights differ" in fault(adapter)
    assert "its weights differ" in fault(adapter, dtype="float16")


def test_a_base_on_another_path_is_named_by_hand(adapter, base, tmp_path):
    elsewhere = shutil.move(base, tmp_path / "elsewhere")
    message = fault(adapter)
    assert message.startswith(f"{adapter}: the base of this adapter is not there; got {base}: no ")
    assert "name it with --base MODEL" in message
    assert load(adapter, base=str(elsewhere)).adapter.base == str(elsewhere)
    shutil.move(elsewhere, adapter / "base")
    record_base(adapter, "base", fingerprint(tiny_llama()))
    assert load(adapter).adapter.base == str(adapter / "base")


def test_a_gguf_file_can_be_a_base(tmp_path):
    path = save_gguf(tmp_path / "tiny.gguf", tiny_llama())
    trained = save_adapter(tmp_path / "a", tiny_llama(), lora(), path)
    torch.testing.assert_close(logits_of(load(tmp_path / "a").model), trained)


# --- what is refused ---------------------------------------------------------------------------


def test_a_wrong_base_is_refused_by_its_weights(adapter, tmp_path):
    wrong = save_model(tmp_path / "wrong", seed=7)
    assert fault(adapter, base=str(wrong)) == (
        f"{adapter}: this is not the model that the adapter was trained on: its weights differ; "
        f"got base '{wrong}' with fingerprint {fingerprint(tiny_llama(seed=7))[:12]}…, expected "
        f"{fingerprint(tiny_llama())[:12]}…; name the right one with --base MODEL."
    )


def test_an_adapter_of_others_is_loaded_with_a_word_about_its_base(adapter, base, caplog):
    (adapter / "attnprobe.json").unlink()
    load(adapter)
    assert caplog.messages == [
        f"{adapter}: the adapter does not say which weights it was trained on, so its base "
        f"'{base}' could not be compared"
    ]


def test_a_base_of_another_shape_or_depth_is_refused(adapter, tmp_path):
    (adapter / "attnprobe.json").unlink()
    for name, config in (
        ("wide", {"hidden_size": 64}), ("shallow", {"num_hidden_layers": 2}),
        ("deep", {"num_hidden_layers": 4}),
    ):  # fmt: skip
        wrong = save_model(tmp_path / name, **config)
        message = fault(adapter, base=str(wrong))
        assert message.startswith(
            f"{adapter}: this adapter does not fit its base; got base '{wrong}'"
        )


def test_types_that_add_tokens_are_refused_with_the_reason(tmp_path, base):
    config = PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    save_adapter(tmp_path / "a", tiny_llama(), config, base)
    message = fault(tmp_path / "a")
    assert message.startswith(
        f"{tmp_path}/a: this type of adapter is not supported: its learned tokens go through the "
        "layers like a text's, with queries of their own, and belong to no segment; "
        "got PROMPT_TUNING, expected one of ADALORA, C3A, "
    )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"num_hidden_layers": 4}, "keys for 3 layers, expected 4"),
        ({"n_kv_heads": 4, "head_dim": 4}, "keys of 2 heads, expected 4"),
    ],
)
def test_a_prefix_is_put_on_no_base_of_another_size(tmp_path, base, config, reason):
    save_adapter(tmp_path / "a", tiny_llama(), KINDS["PREFIX_TUNING"], base)
    wrong = save_model(tmp_path / "wrong", **config)
    assert fault(tmp_path / "a", base=str(wrong)) == (
        f"{tmp_path}/a: this prefix does not fit its base; got base '{wrong}': {reason}; "
        "name the right one with --base MODEL."
    )


def test_a_prefix_cannot_be_merged(tmp_path, base):
    save_adapter(tmp_path / "a", tiny_llama(), KINDS["PREFIX_TUNING"], base)
    message = fault(tmp_path / "a", merge_adapter=True)
    assert "this adapter cannot be merged into its base; got PREFIX_TUNING" in message


def rewrite(adapter, **values):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_other_types_and_options_are_refused(adapter):
    rewrite(adapter, alora_invocation_tokens=[1, 2])
    assert "not supported: it acts on some tokens only (activated LoRA); got LORA" in fault(adapter)
    rewrite(adapter, alora_invocation_tokens=None, layer_replication=[[0, 2], [1, 3]])
    assert "not supported: it repeats layers of the base; got LORA" in fault(adapter)
    rewrite(adapter, peft_type="OF_TOMORROW", layer_replication=None)
    message = fault(adapter)
    assert "this type of adapter is not supported; got OF_TOMORROW" in message
    assert "merge it into its base with PEFT (merge_and_unload)" in message


def test_adapters_that_name_no_usable_base(adapter, base):
    (adapter / "attnprobe.json").unlink()
    rewrite(adapter, base_model_name_or_path=None)
    assert fault(adapter) == (
        f"{adapter}: this adapter does not say which model it belongs on; name it with --base "
        "MODEL."
    )
    assert "the base of this adapter is an adapter itself" in fault(adapter, base=str(adapter))
    (adapter / "adapter_config.json").write_text("[]")
    assert f"{adapter}/adapter_config.json: no JSON object; got list" in fault(adapter)
    (adapter / "adapter_config.json").write_text("{")
    assert "adapter_config.json: this file cannot be read" in fault(adapter, base=str(base))


def test_options_of_adapters_are_refused_for_other_models(base):
    assert fault(base, base="x") == (
        f"--base: this option is of adapters only; got {base}, which is no adapter, expected a "
        "folder with adapter_config.json; leave it out."
    )
    assert fault(base, merge_adapter=True).startswith("--merge-adapter: this option is of adapters")


def test_without_peft_the_extra_is_named(adapter, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert fault(adapter) == (
        f"{adapter}: adapters need the package peft; got no such package; run: pip install "
        '"attnprobe[finetune]".'
    )


def test_missing_adapter_weights_are_refused(adapter):
    (adapter / "adapter_model.safetensors").unlink()
    assert "this adapter does not fit its base" in fault(adapter)


# --- the real model ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(smollm2, tmp_path_factory):
    """A LoRA adapter of SmolLM2 after a few steps on number sequences."""
    import copy

    folder = tmp_path_factory.mktemp("trained") / "adapter"
    torch.manual_seed(0)
    model = adapted(
        copy.deepcopy(smollm2.model),
        LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-3)
    ids = smollm2.tokenizer("2 3 5 8 12 17 23 30 38 47 57 68\n80 93 107", return_tensors="pt")
    losses = []
    for _ in range(4):
        loss = model(**ids, labels=ids["input_ids"]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(folder)
    record_base(folder, smollm2.name, fingerprint(smollm2.model))
    return folder


@pytest.mark.smollm2
def test_capture_equals_eager_attention_of_the_trained_model(trained, smollm2):
    loaded = load_model(str(trained), device="cpu", dtype="float32")
    assert loaded.identity()["adapter"]["base"] == "smollm2-135m-instruct"
    inner = Survey(loaded.model).inner
    for prompt in (
        "1 4 9 16 25 36\n",
        "每3项求和后预测下一块。\n2 3 5 8 12 17",
        "Tom has 5 apples.",
    ):
        inputs = loaded.tokenizer(prompt, return_tensors="pt")
        with torch.no_grad(), record(loaded.model, ["full"]) as recording:
            loaded.model(**inputs)
        inner.set_attn_implementation("eager")
        with torch.no_grad():
            truth = loaded.model(**inputs, output_attentions=True).attentions
            plain = smollm2.model(**inputs).logits
            moved = (loaded.model(**inputs).logits - plain).abs().max()
        inner.set_attn_implementation("sdpa")
        worst = max(float((recording.full[i] - truth[i]).abs().max()) for i in range(30))
        assert worst <= 1e-4
        assert moved > 0.1
