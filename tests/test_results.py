"""The results table: data with published bytes, answers that go on, general questions, the page."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attnprobe import load_model
from attnprobe.encode import encode
from attnprobe.records import read_records
from attnprobe.tasks.scoring import score_record
from attnprobe.tasks.sequences import SequenceSettings, generate
from tests.tiny import save_model

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import make_results  # noqa: E402
from results import answering, data, measuring, page, questions  # noqa: E402

QUESTIONS = list(read_records(ROOT / "artifacts" / "examples" / "general.jsonl"))
SMALL = SequenceSettings(styles=("direct", "coarse"), n_per_family=2, seed=data.SEED)


def small():
    yield from generate(SMALL)
    yield from generate(SMALL.for_split("unseen"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def loaded(folder):
    return load_model(str(folder), device="cpu")


# data


def test_the_test_problems_have_the_published_bytes(tmp_path):
    data.make([data.TEST], tmp_path, ROOT / "artifacts" / "data.sha256")
    records = list(read_records(tmp_path / data.TEST))
    cells = {(r.split, r.style): 0 for r in records}
    for record in data.first_items(records, measuring.SOME):
        cells[record.split, record.style] += 1
    assert len(cells) == 9
    assert min(cells.values()) >= 200


def test_other_bytes_are_refused_until_they_are_published(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DATASETS", {"small.jsonl": small})
    published = tmp_path / "data.sha256"
    with pytest.raises(SystemExit, match=r"not what was published: got SHA-256 \w+, expected none"):
        data.make(["small.jsonl"], tmp_path / "made", published)
    data.publish(tmp_path / "made", published)
    data.make(["small.jsonl"], tmp_path / "again", published)
    monkeypatch.setattr(data, "DATASETS", {"small.jsonl": lambda: list(small())[1:]})
    with pytest.raises(SystemExit, match="on purpose, run with --accept-data"):
        data.make(["small.jsonl"], tmp_path / "made", published)


# answers


def test_answers_go_on_where_they_were_stopped(loaded, tmp_path):
    records = list(small())[:12]
    writing = answering.Writing(at_once=4, max_new_tokens=5)
    whole = answering.answers(loaded, records, tmp_path / "a", writing)
    assert list(whole) == [record.id for record in records]
    (file,) = (tmp_path / "a").iterdir()
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    file.write_text("".join(lines[:5]) + lines[5][:7], encoding="utf-8")
    counted = []
    again = answering.answers(
        loaded, records, tmp_path / "a", writing, lambda *n: counted.append(n)
    )
    assert again == whole
    assert counted == [(4, 12), (8, 12), (12, 12)]
    assert dict(map(json.loads, file.read_text(encoding="utf-8").splitlines())) == whole
    answering.answers(loaded, records, tmp_path / "a", replace(writing, max_new_tokens=6))
    answering.answers(loaded, records[1:], tmp_path / "a", writing)
    assert len(list((tmp_path / "a").iterdir())) == 3


# general questions


def test_the_questions_are_many_and_their_first_answer_is_the_target():
    assert len(QUESTIONS) == 120
    assert len({record.prompt_text for record in QUESTIONS}) == 120
    for record in QUESTIONS:
        assert record.target_text == record.meta["accepted"][0]
        assert questions.is_right(record, record.target_text)
    assert sum(record.meta["language"] == "zh" for record in QUESTIONS) == 60


@pytest.mark.parametrize(
    ("accepted", "text", "right"),
    [
        ("6", "\nThe answer is 6.", True),
        ("6", "16", False),
        ("6", "I do not know.\n6", False),
        ("Rome", "rome, of course", True),
        ("Rome", "Romeo", False),
        ("北京", "是北京。", True),
        ("8", "有8条", True),
        ("北京", "", False),
    ],
)
def test_an_accepted_answer_counts_as_a_word_of_the_first_line(accepted, text, right):
    record = replace(QUESTIONS[0], meta={"accepted": [accepted]})
    assert questions.is_right(record, text) is right


def test_the_log_probability_is_that_of_the_models_own_loss(loaded):
    record = QUESTIONS[0]
    encoding = encode(record, loaded.tokenizer)
    ids = torch.tensor(encoding.ids.tolist())[None]
    labels = ids.clone()
    labels[:, : encoding.n_prompt] = -100
    with torch.inference_mode():
        loss = loaded.model(ids, labels=labels).loss.item()
    found = questions.log_prob(loaded, record, chat=False)
    assert found == pytest.approx(-loss * encoding.n_steps, rel=1e-4)


def test_questions_lost_and_won_are_counted():
    def found(*right):
        each = {str(number): {"right": one} for number, one in enumerate(right)}
        row = {"language": "all", "n": 3, "right": 0.5, "low": 0.1, "high": 0.9, "log_prob": -1.5}
        return {"rows": [row], "each": each}

    text = page.question_text({"a": found(True, True, False), "b": found(False, False, True)})
    assert text[-1] == "From a to b: 2 questions lost, 1 won."
    assert "| a | all | 3 | 50.0 % (10–90) | -1.50 |" in text[1]


# the table


def test_tables_count_what_was_right():
    records = list(small())
    right = {r.style: r.style == "coarse" for r in records}
    scores = [score_record(r, r.target_text if right[r.style] else "1 2 3") for r in records]
    tables = measuring.tables(scores)
    assert {(r["style"], r["pass_rate"]) for r in tables["styles"]} == {
        ("coarse", 1),
        ("direct", 0),
    }
    assert {row["kind"] for row in tables["kinds"]} == {"integer", "real"}
    assert sum(row["n"] for row in tables["kinds"]) == len(records)
    assert {row["n"] for row in tables["families"]} == {2}
    text = page.page({"models": {"m": {"about": "a model", "kept": True} | tables}})
    assert "| arithmetic | seen | 2 | 0.0 % (0–66) | 100.0 % (34–100) |" in text
    assert "A model. Kept from an earlier run, of weights that" in text


def test_published_rates_stand_beside_what_was_reached():
    kinds = [{"kind": "integer", "split": "seen", "style": "coarse", "pass_rate": 0.7,
              "pass_low": 0.6, "pass_high": 0.8}]  # fmt: skip
    families = [
        {"task": task, "split": "seen", "style": "coarse", "pass_rate": rate}
        for task, rate in (("arithmetic", 0.98), ("modular", 0.44), ("logistic_map", 0.1))
    ]
    *_, shown = page.mark_text({"kinds": kinds, "families": families})
    (line,) = shown.splitlines()[2:]
    assert line == "| seen | coarse | 97.5 % | 70.0 % (60–80) | -27.5 | modular 44.0 % |"


def test_trainings_stand_side_by_side_with_their_seeds():
    def model(seed, rate):
        styles = [
            {"split": split, "style": style, "pass_rate": rate}
            for split in page.SPLITS
            for style in ("direct", "coarse")
        ]
        return {"training": {"seed": seed, "tokens": 5_000_000}, "styles": styles}

    *_, shown = page.seed_text({"a": model(0, 0.5), "b": model(1, 0.25)})
    first, second = shown.splitlines()[-2:]
    assert first.startswith("| a | 0 | 5.0 | 50.0 % / – / 50.0 % |")
    assert second.startswith("| b | 1 | 5.0 | 25.0 % / – / 25.0 % |")


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["make_results.py", *map(str, arguments)])
    make_results.main()


def test_the_table_is_made_from_weights_and_keeps_what_is_not_at_hand(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(data, "DATASETS", {data.TEST: small})
    artifacts, made = tmp_path / "artifacts", tmp_path / "made"
    (artifacts / "examples").mkdir(parents=True)
    shutil.copy(ROOT / "artifacts" / "examples" / "general.jsonl", artifacts / "examples")
    save_model(artifacts / "reference-model")
    common = ["--artifacts", artifacts, "--folder", made]
    run(monkeypatch, *common, "--accept-data", "--data-only")
    assert not (artifacts / "results.json").exists()

    run(
        monkeypatch,
        *common,
        "--only",
        "reference",
        "--only",
        "seed-1",
        "--also",
        f"seed-1={folder}",
    )
    facts = json.loads((artifacts / "results.json").read_text(encoding="utf-8"))
    assert list(facts["models"]) == ["reference", "seed-1"]
    assert facts["data"] == data.read_hashes(artifacts / "data.sha256")
    first = (artifacts / "results.md").read_text(encoding="utf-8")
    assert first == page.page(facts)

    run(monkeypatch, *common, "--only", "reference")
    second = (artifacts / "results.md").read_text(encoding="utf-8")
    assert (
        second.replace(" Kept from an earlier run, of weights that were not there this time.", "")
        == first
    )
    assert second != first

    capsys.readouterr()
    run(monkeypatch, *common, "--only", "reference", "--quick")
    assert "| arithmetic | seen | 2 |" in capsys.readouterr().out
    assert (artifacts / "results.md").read_text(encoding="utf-8") == second
    with pytest.raises(SystemExit, match="no such model: refernce; known: reference, smollm2"):
        run(monkeypatch, *common, "--only", "refernce")


def test_models_that_another_process_measured_meanwhile_stay_in_the_table(tmp_path):
    subjects = measuring.subjects(tmp_path)
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"models": {"elsewhere": {"n": 1}, "reference": {"n": 2}}}))
    found = make_results.new_and_kept({measuring.SMOLLM2: {"n": 3}}, subjects, file)
    assert list(found) == ["elsewhere", "reference", measuring.SMOLLM2]
    assert found[measuring.SMOLLM2] == {"n": 3}
    assert found["elsewhere"] == {"n": 1, "kept": True}
    assert found["reference"] == {"n": 2, "kept": True}


def test_the_published_page_is_what_its_facts_say():
    facts = json.loads((ROOT / "artifacts" / "results.json").read_text(encoding="utf-8"))
    shown = (ROOT / "artifacts" / "results.md").read_text(encoding="utf-8")
    looks = json.loads((ROOT / "artifacts" / "contrasts.json").read_text(encoding="utf-8"))
    assert shown == page.page(facts, looks)
    assert facts["data"] == data.read_hashes(ROOT / "artifacts" / "data.sha256")
