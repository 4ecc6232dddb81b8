"""The README is true: its commands and code run as they stand, its help texts are today's."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from attnprobe.records import read_records
from attnprobe.records.rules import parse_rules

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
NOT_RUN = {"./scripts/test\n": "is what runs these tests"}


def environment():
    """The environment of someone who activated .venv."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder in which all blocks run in order; `scripts` is where the README expects it."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("scripts", "artifacts"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run(command, folder):
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.mark.smollm2
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_block_runs_as_it_stands(number, folder):
    language, text = BLOCKS[number]
    if text in NOT_RUN:
        return
    if language == "bash":
        run(["bash", "-euc", text], folder)
    elif language == "python":
        run([sys.executable, "-c", text], folder)
    elif language == "json":
        path = folder / "record.jsonl"
        path.write_text(json.dumps(json.loads(text), ensure_ascii=False), encoding="utf-8")
        (record,) = read_records(path)
        assert [segment.role for segment in record.target] == ["coarse_answer", "answer"]
    elif language == "toml":
        assert parse_rules(text, "README.md").prompt
    else:
        assert language == "text", f"a block in {language} is not checked"


def test_the_files_the_readme_names_are_there():
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_help_texts_are_todays():
    check = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "update_readme.py"), "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert check.returncode == 0, f"run scripts/update_readme.py\n{check.stderr}"


def test_no_machine_paths_or_placeholders():
    assert not re.search(r"/(home|root|Users|work)/|BENCH_|HELP_TEXTS|TODO", README)
