"""From the command line: a run of each kind of model, and errors before anything is written."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig

import attnprobe
from attnprobe.errors import EncodeError
from attnprobe.models import fingerprint, load_model
from attnprobe.records import write_records
from attnprobe.workflows.extract import ExtractSettings, extract
from tests.model_kinds import (
    CHATML,
    record_base,
    save_adapter,
    save_gguf,
    save_remote,
    save_sharded,
)
from tests.test_cli import invoke, succeed
from tests.test_models_checkpoints import modules  # noqa: F401  (a fixture)
from tests.tiny import make_record, make_tokenizer, save_model, tiny_llama


@pytest.fixture
def data(tmp_path):
    write_records([make_record(i, s) for i in range(2) for s in ("coarse", "stepwise")],
                  tmp_path / "data.jsonl")  # fmt: skip
    return tmp_path / "data.jsonl"


def save_half(folder):
    tiny_llama().to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def save_with_adapter(folder):
    base = save_model(folder.parent / "base")
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    save_adapter(folder, tiny_llama(), config, base)
    record_base(folder, base, fingerprint(tiny_llama()))
    return folder


KINDS = {
    "sharded": (save_sharded, []),
    "half": (save_half, ["--dtype", "bfloat16"]),
    "gguf": (lambda path: save_gguf(path, tiny_llama()), []),
    "adapter": (save_with_adapter, []),
    "half adapter": (save_with_adapter, ["--dtype", "bfloat16"]),
    "merged": (save_with_adapter, ["--merge-adapter"]),
    "remote": (save_remote, ["--trust-remote-code"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_each_kind_of_model(kind, data, tmp_path):
    save, options = KINDS[kind]
    model = save(tmp_path / f"{kind}.gguf")
    succeed("check", data, "-m", model, "-n", 1, "--device", "cpu", *options)
    succeed("extract", data, "-m", model, "-o", tmp_path / "run", "--device", "cpu", *options)
    with attnprobe.open_run(tmp_path / "run") as run:
        assert len(run.records) == 4
        assert run.records.worst_error.max() < (3e-2 if "half" in kind else 1e-3)
        loaded = load_model(
            str(model), device="cpu", dtype="bfloat16" if "half" in kind else "auto",
            merge_adapter=kind == "merged", trust_remote_code=kind == "remote",
        )  # fmt: skip
        assert run.model == json.loads(json.dumps(loaded.identity()))


def test_a_run_knows_its_adapter(data, tmp_path):
    adapter = save_with_adapter(tmp_path / "adapter")
    arguments = ["extract", data, "-o", tmp_path / "run", "--device", "cpu", "-m"]
    succeed(*arguments, adapter)
    result = invoke(*arguments, adapter, "--merge-adapter")
    assert result.exit_code == 2
    assert "merged" in result.stderr
    facts = json.loads(succeed("info", tmp_path / "run", "--json").stdout)
    assert facts["model"]["adapter"]["base"] == str(tmp_path / "base")


def test_what_the_library_says_goes_to_stderr(data, tmp_path):
    adapter = save_with_adapter(tmp_path / "adapter")
    (adapter / "attnprobe.json").unlink()
    result = succeed("extract", data, "-o", tmp_path / "run", "--device", "cpu", "-m", adapter)
    assert "the adapter does not say which weights it was trained on" in result.stderr
    assert result.stdout == ""


def test_errors_come_before_anything_is_written(data, tmp_path):
    def error(model, *options):
        result = invoke("extract", data, "-m", model, "-o", tmp_path / "run", *options)
        assert result.exit_code == 2
        assert not (tmp_path / "run").exists()
        return result.stderr

    adapter = save_with_adapter(tmp_path / "adapter")
    wrong = save_model(tmp_path / "wrong", seed=3)
    assert "not the model that the adapter was trained on" in error(adapter, "--base", wrong)
    assert "add --trust-remote-code" in error(save_remote(tmp_path / "remote"))
    assert "this tokenizer has no chat template" in error(wrong, "--chat")
    assert "--base: this option is of adapters only" in error(wrong, "--base", wrong)


def chat_model(folder):
    tiny_llama().save_pretrained(folder)
    tokenizer = make_tokenizer(bos=False)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("decode", ["gold", "greedy"])
def test_a_run_of_chats(decode, data, tmp_path):
    options = ["-m", chat_model(tmp_path / "m"), "--chat", "--device", "cpu", "--decode", decode]
    shown = succeed("check", data, *options)
    assert "⟦template⟧<│|│u│s│e│r│|│>│↵" in shown.stdout
    succeed("extract", data, "-o", tmp_path / "run", "--keep", "pooled", *options)
    with attnprobe.open_run(tmp_path / "run") as run:
        encoding = run.encoding(run.records.index[0])
        assert "".join(encoding.texts[:9]) == "<|user|>\n"
        roles = [span.role for span in encoding.spans]
        assert roles[:4] == ["template", "instruction", "template", "history"]
        assert run.info()["settings"]["chat"] is True
    again = invoke("extract", data, "-o", tmp_path / "run", "--keep", "pooled",
                   *[option for option in options if option != "--chat"])  # fmt: skip
    assert again.exit_code == 2
    assert "chat" in again.stderr


def bare_model(folder, added=None):
    """Neither BOS nor pad; `added` is a pad token that the model has no embedding for."""
    tiny_llama(vocab_size=261, bos_token_id=None, eos_token_id=None).save_pretrained(folder)
    tokenizer = make_tokenizer(bos=False)
    tokenizer.bos_token = tokenizer.eos_token = None
    tokenizer.pad_token = added
    tokenizer.save_pretrained(folder)
    return load_model(str(folder), device="cpu")


@pytest.mark.parametrize("added", [None, "<pad>"])
@pytest.mark.parametrize("decode", ["gold", "greedy"])
def test_batches_of_a_model_without_bos_or_pad_are_padded_all_the_same(decode, added, tmp_path):
    loaded = bare_model(tmp_path / "m", added)
    assert loaded.tokenizer.bos_token_id is None
    assert loaded.tokenizer.pad_token_id == (None if added is None else 261)
    records = [make_record(i, length=3 + 4 * i) for i in range(3)]
    runs = []
    for size in (1, 3):
        settings = ExtractSettings(decode=decode, batch_size=size, encoding="f32")
        runs.append(extract(records, loaded, tmp_path / f"run-{size}", settings))
    with runs[0] as single, runs[1] as batch:
        for record in single.records.index:
            one, other = single.weights(record), batch.weights(record)
            np.testing.assert_allclose(one.values, other.values, atol=1e-4)
            assert single.encoding(record).sinks == (0, 1, 2, 3)


def test_a_token_without_embedding_is_told_of_before_the_run(tmp_path):
    loaded = bare_model(tmp_path / "m", "<pad>")
    record = make_record()
    with pytest.raises(EncodeError, match=r"token that the model does not know; got '<pad>' \(261"):
        extract([record_with(record, "1 <pad> 2")], loaded, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def record_with(record, history):
    import dataclasses

    instruction, given = record.prompt
    changed = (instruction, dataclasses.replace(given, text=history))
    return dataclasses.replace(record, prompt=changed)
