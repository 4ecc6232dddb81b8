"""From the command line: models with code of their own, and what their runs say of the route."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from attnprobe.cli import app
from attnprobe.store import open_run
from tests.tiny import make_tokenizer, save_model

REMOTE = Path(__file__).parent / "remote" / "modeling_mixer.py"
RECORD = {
    "id": "a/direct", "item": "a", "style": "direct", "task": "t", "split": "seen",
    "prompt": [{"role": "history", "text": "1 2 3 4"}], "target": [{"role": "answer", "text": "5"}],
}  # fmt: skip


def folder_with_code(folder, **settings):
    """Write a model folder that brings its own code, as a hub's repository does."""
    from tests.remote.modeling_mixer import MixerConfig, MixerForCausalLM

    torch.manual_seed(0)
    config = MixerConfig(**settings)
    config.auto_map = {
        "AutoConfig": "modeling_mixer.MixerConfig",
        "AutoModelForCausalLM": "modeling_mixer.MixerForCausalLM",
    }
    MixerForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    shutil.copy(REMOTE, folder)
    return folder


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    lines = [RECORD, RECORD | {"id": "b/direct", "item": "b"}]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNPROBE_CACHE", str(tmp_path / "cache"))


def attnprobe(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def extract(data, model, out, *options):
    return attnprobe("extract", data, "-m", model, "-o", out, "--trust-remote-code", *options)


def settings_of(run):
    with open_run(run) as opened:
        return opened.info()["settings"]


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.parametrize("keep", ["rows", "pooled", "full"])
def test_a_model_with_code_of_its_own_is_extracted(data, tmp_path, keep):
    model = folder_with_code(tmp_path / "model")
    done = extract(data, model, tmp_path / "run", "--keep", keep)
    assert done.exit_code == 0, done.output
    assert settings_of(tmp_path / "run")["route"] == "interception"
    with open_run(tmp_path / "run") as run:
        assert run.records.worst_error.max() < 1e-5
        if keep != "pooled":
            weights = run.weights("a/direct")
            assert weights.sizes["layer"] == 3
            torch.testing.assert_close(
                torch.from_numpy(weights.sum("key").values), torch.ones(weights.shape[:-1]),
                atol=2e-3, rtol=0,
            )  # fmt: skip


def test_a_run_by_the_interface_says_so(data, tmp_path):
    done = extract(data, save_model(tmp_path / "model"), tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert settings_of(tmp_path / "run")["route"] == "interface"


def test_the_attention_module_is_named_by_hand(data, tmp_path):
    model = folder_with_code(tmp_path / "model")
    named = ("--attention-module", "layers.{}")
    done = extract(data, model, tmp_path / "run", *named)
    assert done.exit_code == 0, done.output
    assert settings_of(tmp_path / "run")["attention_module"] == "layers.{}"
    checked = attnprobe("check", data, "-m", model, "--trust-remote-code", "--json", *named)
    assert checked.exit_code == 0, checked.output
    wrong = extract(data, model, tmp_path / "other", "--attention-module", "layer.{}")
    assert wrong.exit_code == 2
    assert "did you mean 'layers.{}'?" in " ".join(wrong.output.split())
    assert not (tmp_path / "other").exists()


def test_what_nothing_proves_is_stored_only_if_asked_for_and_marked(data, tmp_path):
    model = folder_with_code(tmp_path / "model", values_are_summed=True)
    refused = extract(data, model, tmp_path / "run")
    assert refused.exit_code == 1
    assert "the product of weights and values was not seen" in " ".join(refused.output.split())
    assert not list(tmp_path.rglob("*.h5*"))
    done = extract(data, model, tmp_path / "marked", "--uncertified")
    assert done.exit_code == 0, done.output
    assert "nothing proves" in done.output
    assert settings_of(tmp_path / "marked")["uncertified"] is True
    with open_run(tmp_path / "marked") as run:
        assert run.records.worst_error.min() > 1e38
    assert attnprobe("verify", tmp_path / "marked", "--full").exit_code == 0
