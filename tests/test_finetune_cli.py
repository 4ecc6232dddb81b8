"""`attnprobe finetune` from the outside: files, words, a kill in the middle, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from attnprobe.cli import app
from attnprobe.records import write_records
from attnprobe.store import open_run
from tests.tiny import make_record, save_model

RUNNER = CliRunner()
OPTIONS = ("--rank", "2", "--batch-size", "4", "--lr", "1e-3", "--written", "2")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    write_records([make_record(n, s) for n in range(12) for s in ("coarse", "stepwise")], path)
    return path


def invoke(*arguments):
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


def test_an_adapter_goes_from_data_to_a_run(data, model, tmp_path):
    adapter, run = tmp_path / "adapter", tmp_path / "run"
    result = invoke(
        "finetune", data, "-m", model, "-o", adapter, *OPTIONS, "--max-steps", 4,
        "--validation", "0.2", "--validations", 2,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "step 2 of 4: validation loss" in result.output
    assert "of 2 answers right (" in result.output
    assert f"{adapter}: an adapter after 4 steps" in result.output
    record = json.loads((adapter / "attnprobe.json").read_text())
    assert record["records"] + record["validation_records"] == 24
    assert (adapter / "adapter_config.json").is_file()
    result = invoke("extract", data, "-m", adapter, "-o", run)
    assert result.exit_code == 0, result.output
    with open_run(run) as opened:
        named = opened.info()["model"]["adapter"]
    assert named["base_fingerprint"] == record["base_fingerprint"]


def test_validation_can_be_a_dataset_and_need_not_be(data, model, tmp_path):
    result = invoke(
        "finetune", data, "-m", model, "-o", tmp_path / "a", *OPTIONS, "--max-tokens", 1500,
        "--validation", data, "--validations", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "a" / "attnprobe.json").read_text())
    assert record["data_sha256"] == record["validation_sha256"]
    assert 1000 < record["tokens"] <= 1500
    result = invoke(
        "finetune", data, "-m", model, "-o", tmp_path / "b", *OPTIONS, "--max-steps", 1,
        "--validation", 0,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "validation loss" not in result.output


def test_faults_are_told_on_one_line_with_exit_code_2(data, model, tmp_path):
    result = invoke("finetune", data, "-m", model, "-o", tmp_path, "--device", "cuda:1")
    assert result.exit_code == 2
    assert "set CUDA_VISIBLE_DEVICES=1 and use --device cuda" in result.output
    (tmp_path / "mine.txt").write_text("x")
    result = invoke("finetune", data, "-m", model, "-o", tmp_path, "--overwrite", "--yes")
    assert result.exit_code == 2
    assert "was not made by attnprobe finetune, so it is not removed" in result.output
    missing = invoke("finetune", data, "-m", model, "-o", tmp_path / "a", "--validation", "none")
    assert missing.exit_code == 2
    assert "none" in missing.output


SLOW = """
import sys, time
import attnprobe.finetune.training as training
from attnprobe.cli import main
training.SAVE_MINUTES = 0
plain = training.TargetTrainer.compute_loss
def compute_loss(self, *args, **kwargs):
    time.sleep(0.3)
    return plain(self, *args, **kwargs)
training.TargetTrainer.compute_loss = compute_loss
main()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that kills")
def test_a_killed_training_is_continued_by_the_same_command(data, model, tmp_path):
    def command(out):
        return (
            "finetune", str(data), "-m", str(model), "-o", str(out), *OPTIONS, "--max-steps", "8",
            "--validation", "0",
        )  # fmt: skip

    assert invoke(*command(tmp_path / "straight")).exit_code == 0
    cut = tmp_path / "cut"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *command(cut)], stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not list(cut.glob("checkpoints/checkpoint-*/attnprobe.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (cut / "adapter_config.json").exists()
    result = invoke(*command(cut))
    assert result.exit_code == 0, result.output
    one, other = (
        load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "straight", cut)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
