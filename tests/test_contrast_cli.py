"""`attnprobe contrast`, from the outside."""

import csv
import json

import pytest

from tests.store.builders import chunked, make_captures, make_run, open_writer
from tests.test_cli import invoke, succeed


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "tuned"
    return make_run(folder, tasks=8, effect=2.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "base", tasks=8)


def test_the_verdict_begins_with_whether_anything_differs(run):
    text = succeed("contrast", run).stdout
    assert (
        "Anything at all (layer × span, means over heads (instruction, history, answer)): " in text
    )
    assert "No screening by false discovery rate: 8 tasks" in text
    assert "Refused: coarse_history: only coarse has it, so not compared directly." in text


def test_the_methods_paragraph_is_printed_in_two_languages(run):
    text = succeed("contrast", run, "--methods", "en").stdout
    assert "flipping the signs of whole tasks (8)" in text
    assert "(all 256; smallest attainable p 0.0078)" in text
    assert "翻转任务的符号" in succeed("contrast", run, "--methods", "zh").stdout
    result = invoke("contrast", run, "--methods", "fr")
    assert result.exit_code == 2
    assert "no methods paragraph in this language; got 'fr'" in result.output


def test_layers_and_span_pairs_are_compared_like_heads(run):
    layers = json.loads(succeed("contrast", run, "--over", "layer", "--json").stdout)
    assert [row["layer"] for row in layers["layers"]] == [0, 1]
    spans = json.loads(succeed("contrast", run, "--over", "span", "--json").stdout)
    pairs = {(row["query_role"], row["key_role"]) for row in spans["spans"]}
    assert pairs == {("answer", "instruction"), ("answer", "history"), ("answer", "answer")}
    assert "span pairs differ" in succeed("contrast", run, "--over", "span").stdout
    whole = json.loads(succeed("contrast", run, "--over", "whole", "--json").stdout)
    assert len(whole["values"]) == 1


def test_an_interaction_and_another_run_can_be_asked_for(run, base, tmp_path):
    text = succeed("contrast", run, "--interaction", "split").stdout
    assert "enrichment, answer → history: coarse − stepwise, seen − unseen (bits)." in text
    text = succeed("contrast", run, "--against", base, "--style", "coarse").stdout
    assert "coarse, tuned − base (bits)." in text
    out = tmp_path / "c.csv"
    text = succeed("contrast", run, "--against", base, "-o", out).stdout
    assert "coarse − stepwise, tuned − base (bits)." in text
    assert out.read_text(encoding="utf-8").startswith("a,b,measure,query,key,unit,within,filler,by")


@pytest.mark.parametrize(
    "asked", [["--interaction", "split"], ["--against", "BASE", "--style", "coarse"]]
)
def test_heads_are_drawn_of_whatever_is_compared(run, base, tmp_path, asked):
    asked = [str(base) if word == "BASE" else word for word in asked]
    figure, numbers, table = (tmp_path / name for name in ("h.png", "h.csv", "c.json"))
    succeed("plot", "heads", run, *asked, "-o", figure, "--data", numbers)
    succeed("contrast", run, *asked, "-o", table)
    assert figure.read_bytes().startswith(b"\x89PNG")
    with numbers.open(encoding="utf-8", newline="") as stream:
        drawn = [float(row["value"]) for row in csv.DictReader(stream)]
    rows = json.loads(table.read_text(encoding="utf-8"))["heads"]
    assert drawn == pytest.approx([row["estimate"] for row in rows], rel=1e-5)


def test_filler_is_named_in_the_verdict(run):
    text = succeed("contrast", run, "--key", "coarse_history").stdout
    assert "answer → coarse_history (in stepwise: filler of its length)" in text
    assert "Refused: coarse_history" not in text
    assert "Refused: step_1, step_2: only stepwise has them" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--over", "heads"], "nothing is compared over this; got 'heads'; did you mean 'head'?"),
        (["--interaction", "spilt"], "no such column; got 'spilt'; did you mean 'split'?"),
        (["--interaction", "split", "--levels", "seen"], "--levels: two groups are compared"),
        (
            ["--interaction", "split", "--levels", "seen,new"],
            "no item with a pair is in this group",
        ),
        (["--interaction", "style"], "the records of one item differ in 'style'"),
        (["--style", "coarse"], "--style: one style is compared between two runs"),
        (["--against", "RUN", "--b-run", "RUN"], "--b-run: two models are compared"),
        (["--scale", "log"], "no such scale; got 'log'; did you mean 'log-ratio'?"),
        (["--scale", "log-ratio"], "a ratio needs values above 0"),
        (["--screening", "fdr"], "no such false discovery rate; got 'fdr'"),
        (["--over", "span", "--measure", "entropy"], "this measure has no keys"),
    ],
)
def test_wrong_use_is_told(run, arguments, message):
    result = invoke("contrast", run, *[run if one == "RUN" else one for one in arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("c.txt", "got suffix '.txt', expected .csv or .nc or .json"),
        ("folder.csv", "got a folder of this name; name another file"),
        ("file/c.csv", "file is no folder; name another file"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_told_before_anything_is_computed(
    run, tmp_path, monkeypatch, name, told
):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("attnprobe.store.open_run", lambda _: pytest.fail("it began"))
    for command in (["contrast", run], ["passfail", run]):
        result = invoke(*command, "-o", tmp_path / name)
        assert result.exit_code == 2
        assert told in result.output
    for command in (
        ["knockout", run], ["faithfulness", run], ["confirm", run, "--a", "coarse", "--b", "direct"]
    ):  # fmt: skip
        result = invoke(*command, "-o", tmp_path / name)
        assert result.exit_code == 2
        assert told.replace(".nc or ", "") in result.output
    assert (tmp_path / "file").read_text() == "mine"


def test_a_contrast_of_an_unfinished_run_says_so(tmp_path):
    captures = make_captures(tasks=8)
    writer = open_writer(tmp_path / "run", captures, chunk_size=4)
    for index, chunk in enumerate(chunked(captures, 4)[:7]):
        with writer.chunk(index) as sink:
            for capture in chunk:
                sink.append(capture)
    out = tmp_path / "c.json"
    text = succeed("contrast", tmp_path / "run", "--methods", "en", "-o", out).stdout
    notice = "The run is unfinished: 28 of 32 records so far"
    assert text.count(notice) == 2  # in the verdict, and in the methods paragraph
    assert json.loads(out.read_text(encoding="utf-8"))["notice"] == f"{notice}."
    chinese = succeed("contrast", tmp_path / "run", "--methods", "zh").stdout
    assert "提取尚未完成，结果只含已有的记录" in chinese
