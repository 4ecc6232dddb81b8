"""The commands, from the outside: output, files, exit codes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attnprobe.cli import app
from attnprobe.cli.app import numbers
from attnprobe.errors import SelectionError
from attnprobe.records import read_records
from attnprobe.store import open_run
from tests.store.builders import make_run
from tests.tiny import save_model

RUNNER = CliRunner()


def invoke(*arguments):
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "run", effect=2.0)


def test_from_a_dataset_to_figures(model, tmp_path):
    data, run = tmp_path / "data.jsonl", tmp_path / "run"
    succeed(
        "dataset", "sequences", "-o", data, "--split", "seen", "--items", 2, "--styles",
        "coarse,stepwise", "--families",
        "arithmetic,geometric,second_difference,order2_recurrence,modular,logistic_map",
    )  # fmt: skip
    assert len(list(read_records(data))) == 24
    result = succeed("extract", data, "-m", model, "-o", run, "--keep", "rows", "--keep", "pooled")
    assert "24 records" in result.stderr
    assert result.stdout == ""
    facts = json.loads(succeed("info", run, "--json").stdout)
    assert facts["complete"] is True
    assert facts["keep"] == ["pooled", "rows"]
    assert "LlamaForCausalLM" in succeed("info", run).stdout
    result = succeed("contrast", run, "-o", tmp_path / "c.csv", "--top", 3)
    assert "heads differ at a family-wise error rate of 0.05" in result.stdout
    with (tmp_path / "c.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 12
    for kind, suffix in (("heads", "png"), ("segments", "svg"), ("heads", "pdf")):
        succeed("plot", kind, run, "-o", tmp_path / f"{kind}.{suffix}")
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")
    assert "coarse_history" in (tmp_path / "segments.svg").read_text()
    assert (tmp_path / "heads.pdf").read_bytes().startswith(b"%PDF")


def test_plain_prompts_are_cut_by_rules(model, tmp_path):
    examples = Path(__file__).parent.parent / "artifacts" / "examples"
    arguments = ["-m", model, "-o", tmp_path / "run", "--segment", examples / "chatglm.toml"]
    succeed("extract", examples / "chatglm.jsonl", *arguments)
    with open_run(tmp_path / "run") as run:
        roles = [span.role for span in run.encoding(run.records.index[0]).spans]
    assert len(set(roles) - {"prompt", "special", "template", "answer"}) >= 1


@pytest.mark.parametrize("kind", ["sequences", "maths"])
def test_demonstrations_come_first(tmp_path, kind):
    data = tmp_path / "data.jsonl"
    sizes = ["--items", 2, "--split", "seen"] if kind == "sequences" else ["--split", "seen"]
    succeed("dataset", kind, "-o", data, *sizes, "--demos", "random", "-k", 2)
    first = next(read_records(data))
    roles = [segment.role for segment in first.prompt]
    assert "demo_2.question" in roles
    assert "demo_3.question" not in roles


def test_a_model_writes_rationales(model):
    from attnprobe.models import load_model
    from attnprobe.workflows import demonstrations

    write = demonstrations.writer(load_model(str(model), device="cpu"))
    text = write("1 2 3")
    assert isinstance(text, str)
    assert text == write("1 2 3")


def test_the_demo_runs_whole_and_again(model, tmp_path):
    first = succeed("demo", "--out", tmp_path / "demo", "--model", model)
    assert "enrichment, answer → history: coarse − stepwise (bits)." in first.stdout
    names = ["data.jsonl", "run", "contrast.csv", "heads.png", "segments.png"]
    assert first.stdout.splitlines()[-5:] == [str(tmp_path / "demo" / name) for name in names]
    again = succeed("demo", "--out", tmp_path / "demo", "--model", model)
    assert again.stdout == first.stdout


def test_a_dataset_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "data.jsonl").mkdir()
    result = invoke("dataset", "sequences", "-o", tmp_path / "data.jsonl", "--items", 1)
    assert result.exit_code == 2
    assert "Is a directory" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_the_demo_refuses_a_file_in_place_of_its_folder(tmp_path):
    (tmp_path / "mine").write_text("x")
    done = invoke("demo", "-o", tmp_path / "mine")
    assert done.exit_code == 2
    assert "the demo writes a folder; got a file; use another -o" in done.stderr
    assert (tmp_path / "mine").read_text() == "x"


def test_the_demo_of_the_reference_model_scores_what_it_wrote(tmp_path):
    done = succeed("demo", "--out", tmp_path / "demo")
    rows = [line.split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in rows if row[1].strip() in ("stepwise", "coarse")] == [
        "stepwise", "coarse",
    ]  # fmt: skip
    assert "enrichment, answer → history: coarse − stepwise (bits)." in done.stdout
    with open_run(tmp_path / "demo" / "run") as run:
        assert run.settings["decode"] == "greedy"
        assert run.encoding(run.records.index[0]).generated


def test_maths_problems_of_some_templates_in_two_languages(tmp_path):
    data = tmp_path / "maths.jsonl"
    arguments = ["dataset", "maths", "-o", data, "--templates", "discount,age,change", "--n", 12,
                 "--language", "both", "--styles", "direct,coarse", "--seed", 3]  # fmt: skip
    assert "48 records" in succeed(*arguments).stderr
    assert {record.split for record in read_records(data)} == {"train", "seen"}
    succeed(*arguments, "--unseen", "--split", "unseen")
    records = list(read_records(data))
    assert {record.task for record in records} == {"discount"}
    assert {record.meta["language"] for record in records} == {"en", "zh"}
    assert {record.style for record in records} == {"direct", "coarse"}


def test_contrast_as_json_is_json(run):
    facts = json.loads(succeed("contrast", run, "--json").stdout)
    assert len(facts["heads"]) == 6
    assert facts["a"] == "coarse"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["contrast", "RUN", "--a", "corse"],
            "did you mean 'coarse'?",
        ),
        (["contrast", "RUN", "--measure", "enrichmnt"], "did you mean 'enrichment'?"),
        (["contrast", "RUN", "--query", "step_1"], "nothing to compare in coarse"),
        (["contrast", "RUN", "--by", "family"], "--by: unknown unit of inference; got family"),
        (["plot", "heads", "RUN", "-o", "OUT/fig.gif"], ".gif"),
        (["plot", "segments", "RUN", "-o", "OUT/f.png", "--layers", "0,x"], "--layers: no selecti"),
        (["info", "OUT/nothing"], "nothing"),
        (["extract", "OUT/none.jsonl", "-m", "MODEL", "-o", "OUT/r"], "cannot read this file"),
        (["extract", "DATA", "-m", "OUT/no", "-o", "OUT/r"], "no model there"),
        (["extract", "DATA", "-m", "MODEL", "-o", "OUT/r", "--keep", "all"], "--keep: unknown"),
        (["extract", "DATA", "-m", "MODEL", "-o", "OUT/r", "--batch-size", "-1"], "--batch-size"),
        (["dataset", "sequences", "-o", "OUT/d.jsonl", "--families", "arithmetik"], "'arithmetic'"),
        (["dataset", "sequences", "-o", "OUT/d.jsonl", "--coarse", "sums:x"], "--coarse"),
        (["dataset", "sequences", "-o", "OUT/d.jsonl", "--styles", ""], "nothing to write"),
        (["dataset", "maths", "-o", "OUT/d.jsonl", "--templates", "agee"], "did you mean 'age'?"),
        (["dataset", "maths", "-o", "OUT/d.jsonl", "--n", "3"], "too few problems"),
        (["dataset", "maths", "-o", "OUT/d.jsonl", "--split", "tests"], "unknown split"),
        (["dataset", "maths", "-o", "OUT/d.jsonl", "--split", "unseen"], "add --unseen"),
        (
            ["dataset", "maths", "-o", "OUT/d.jsonl", "--unseen", "--templates", "age"],
            "choose some of precedence",
        ),
        (["score", "RUN"], "with --decode greedy"),
    ],
)
def test_bad_input_exits_with_2_and_a_message(run, model, tmp_path, arguments, message):
    data = tmp_path / "data.jsonl"
    data.write_text('{"id": "a", "item": "a", "style": "s", "prompt": "1", "target": "2"}\n')
    places = {"RUN": str(run), "MODEL": str(model), "DATA": str(data)}
    result = invoke(*(places.get(part, part.replace("OUT", str(tmp_path))) for part in arguments))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stdout == ""


def test_selections_of_numbers():
    assert numbers("0,5-7,6", "--layers") == (0, 5, 6, 7)
    assert numbers(None, "--layers") is None
    for bad in ("", "a", "1-", "-1", "3-1", "1,,2"):
        with pytest.raises(SelectionError, match="--layers"):
            numbers(bad, "--layers")


def test_no_arguments_shows_help_and_version_shows_the_version():
    assert "extract" in invoke().output
    assert succeed("--version").stdout.startswith("attnprobe 0.")


def test_interrupting_exits_with_130_and_keeps_what_was_sealed(model, tmp_path):
    data = tmp_path / "data.jsonl"
    succeed("dataset", "sequences", "-o", data, "--split", "seen", "--items", 20)
    command = [
        sys.executable, "-m", "attnprobe", "extract", str(data), "-m", str(model), "-o",
        str(tmp_path / "run"), "--records-per-chunk", "2",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True,
        # jobs in the background of a shell ignore interrupts, and hand that down
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    shards = tmp_path / "run" / "shards"
    end = time.monotonic() + 120
    while not list(shards.glob("*.json")) and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on where it was sealed when the same command is given again" in stderr
    facts = json.loads(succeed("info", tmp_path / "run", "--json").stdout)
    assert facts["complete"] is False
    assert facts["records"]["sealed"] >= 2
