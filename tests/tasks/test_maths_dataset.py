"""The dataset: sizes, splits, languages, styles, and the same bytes wherever it is made."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import asdict

import pytest

from attnprobe.errors import DatasetError
from attnprobe.tasks.maths import HELD_OUT, TEMPLATES, MathsSettings, draw_problems, generate
from attnprobe.tasks.styles import STYLES, style_of
from tests.tasks.maths_solvers import SOLVERS

DIGEST_PROGRAM = """
import hashlib, json
from dataclasses import asdict
from attnprobe.tasks.maths import MathsSettings, generate
lines = [json.dumps(asdict(r)) for r in generate(MathsSettings(n=88, language="both", seed=5))]
print(hashlib.sha256("\\n".join(lines).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def records():
    return list(generate(MathsSettings(styles=("direct",))))


def test_1000_problems_22_or_23_of_each_template_and_700_to_train(records):
    by_template = Counter(record.task for record in records)
    assert len(records) == 1000
    assert Counter(by_template.values()) == {22: 12, 23: 32}
    assert Counter(record.split for record in records) == {"train": 700, "seen": 300}
    trained = Counter(record.task for record in records if record.split == "train")
    assert all(abs(trained[name] - 0.7 * n) < 1 for name, n in by_template.items())


def test_no_problem_is_there_twice_nor_its_mirror_image(records):
    questions = [record.prompt[1].text for record in records]
    assert len(set(questions)) == len(questions)
    numbers = {(r.task, *sorted(re.findall(r"[\d.]+", r.prompt[1].text))) for r in records}
    assert len(numbers) == len(records)


def test_held_out_templates_appear_in_no_other_split():
    templates, counts = defaultdict(set), Counter()
    for record in generate(MathsSettings(n=440, unseen=HELD_OUT, styles=("direct",))):
        templates[record.split].add(record.task)
        counts[record.split] += 1
    assert templates["unseen"] == set(HELD_OUT)
    assert templates["train"] == templates["seen"] == set(TEMPLATES) - set(HELD_OUT)
    assert counts == {"train": 245, "seen": 105, "unseen": 90}
    assert {TEMPLATES[name].group for name in HELD_OUT} == {t.group for t in TEMPLATES.values()}


def test_same_seed_same_bytes_in_other_processes():
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST_PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    settings = MathsSettings(n=88, language="both", seed=5)
    here = "\n".join(json.dumps(asdict(record)) for record in generate(settings))
    assert digests == {hashlib.sha256(here.encode()).hexdigest()}


def test_another_seed_gives_other_problems():
    def questions(seed: int) -> set[str]:
        settings = MathsSettings(n=88, styles=("direct",), seed=seed)
        return {record.prompt[1].text for record in generate(settings)}

    assert len(questions(0) & questions(1)) < 5


def test_a_problem_does_not_depend_on_which_other_templates_are_asked_for():
    alone = MathsSettings(n=3, templates=("age",))
    among = MathsSettings(n=132)
    assert [r.prompt for r in generate(alone)] == [
        r.prompt for r in generate(among) if r.task == "age"
    ]


def test_both_languages_ask_the_same_problem_on_the_same_side_of_the_split():
    pairs = defaultdict(list)
    for record in generate(MathsSettings(n=88, language="both", styles=("direct",))):
        pairs[record.item.rpartition("-")[0]].append(record)
    for english, chinese in pairs.values():
        assert english.item.endswith("-en")
        assert chinese.item.endswith("-zh")
        assert english.split == chinese.split
        assert english.meta["operands"] == chinese.meta["operands"]
        assert SOLVERS[english.task](english.prompt[1].text) == SOLVERS[chinese.task](
            chinese.prompt[1].text
        )


@pytest.mark.parametrize("merge", [2, 4])
def test_every_style_is_read_back_as_it_was_written(merge: int):
    settings = MathsSettings(n=88, language="both", merge=merge, styles=tuple(STYLES))
    for record in generate(settings):
        text = record.target_text
        spans = style_of(record).parse(text, record)
        read = [(span.role, text[span.start : span.stop]) for span in spans]
        assert read == [(segment.role, segment.text) for segment in record.target]


def test_ids_pair_styles_by_item():
    records = list(generate(MathsSettings(n=44)))
    assert len({record.id for record in records}) == len(records) == 132
    assert all(record.id == f"{record.item}/{record.style}" for record in records)
    assert records[0].item == "maths-addition-0000"
    assert [segment.role for segment in records[0].prompt] == ["instruction", "question"]


def test_only_the_splits_asked_for_are_written():
    kept = list(generate(MathsSettings(n=440, splits=("seen",), styles=("direct",))))
    assert {record.split for record in kept} == {"seen"}
    assert len(kept) == 132


def test_meta_is_json_and_says_what_the_answer_is():
    for record in generate(MathsSettings(n=88)):
        assert json.loads(json.dumps(record.meta)) == record.meta
        assert record.meta["answer_text"] == record.target[-1].text
        assert record.meta["kind"] == "exact"
        assert len(record.meta["answer"]) == record.meta["horizon"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templates": ("additon",)}, "templates: unknown template; got 'additon'; did you mean"),
        ({"unseen": ("age",), "templates": ("change",)}, "there is: change"),
        ({"styles": ("stepwize",)}, "did you mean 'stepwise'"),
        ({"language": "fr"}, "language: unknown language; got 'fr'"),
        ({"splits": ("test",)}, "splits: unknown split"),
        ({"styles": ("direct", "direct")}, "the same style twice"),
        ({"styles": ()}, "no style to write"),
        ({"n": 43}, "n: too few problems; got 43, expected one for each of 44 templates or more"),
        ({"train_share": 1.5}, "train_share: share is out of range"),
        ({"merge": 1}, "coarse reading changes nothing"),
    ],
)
def test_impossible_settings_are_refused(options: dict, message: str):
    with pytest.raises(DatasetError, match=re.escape(message)):
        MathsSettings(**options)


def test_a_template_that_runs_out_says_so():
    with pytest.raises(DatasetError, match="template 'age': template has no more different"):
        draw_problems(TEMPLATES["age"], 5000, 0)
