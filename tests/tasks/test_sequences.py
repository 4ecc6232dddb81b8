"""Number sequences: every answer has a rule, a split, its sources, and the same bytes again."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from attnprobe.errors import DatasetError
from attnprobe.tasks.sequences import (
    FAMILIES,
    SequenceSettings,
    families_of,
    generate,
    generate_tests,
    instances,
    split_of,
)
from attnprobe.tasks.styles import CoarseReading, NumberFormat
from tests.tasks.solvers import agrees, solve_all

SOLVABLE = [name for name, family in FAMILIES.items() if not family.control]
N_SOLVED = 10_000


def splits_of(name):
    return ("unseen",) if FAMILIES[name].held_out else ("train", "seen", "unseen-parameters")


def draws(name, n, **changes):
    for split in splits_of(name):
        settings = SequenceSettings(families=(name,), split=split, n_per_family=n, **changes)
        yield from generate(dataclasses.replace(settings, styles=("direct",)))


def test_there_are_nine_trained_families_six_held_out_and_a_control():
    assert len(families_of("train")) == 9
    assert families_of("train") == families_of("seen") == families_of("unseen-parameters")
    assert len(families_of("unseen")) == 6
    assert set(FAMILIES) == {*families_of("train"), *families_of("unseen"), "random_walk"}


@pytest.mark.parametrize("name", SOLVABLE)
def test_an_independent_solver_finds_every_answer(name):
    n = -(-N_SOLVED // len(SOLVABLE) // len(splits_of(name)))
    histories, answers = [], []
    for split in splits_of(name):
        settings = SequenceSettings(families=(name,), split=split, n_per_family=n, seed=11)
        for instance in instances(FAMILIES[name], settings):
            histories.append(instance.terms[:12])
            answers.append(instance.terms[12:])
    predictions = solve_all(name, histories, 3)
    failed = [
        (history, answer, list(predicted))
        for history, answer, predicted in zip(histories, answers, predictions, strict=True)
        if not agrees(FAMILIES[name].kind, history, predicted, answer)
    ]
    assert failed == []


@pytest.mark.parametrize("name", SOLVABLE)
@pytest.mark.parametrize(
    ("history", "horizon", "number_format"),
    [(16, 5, NumberFormat(decimals=3, digits=6)), (13, 3, NumberFormat(digits=4, decimals=1))],
)
def test_other_sizes_and_formats_can_be_solved_too(name, history, horizon, number_format):
    sizes = {"history": history, "horizon": horizon, "number_format": number_format}
    records = list(draws(name, 12, **sizes))
    predictions = solve_all(name, [record.meta["history"] for record in records], horizon)
    for record, predicted in zip(records, predictions, strict=True):
        assert agrees(record.meta["kind"], record.meta["history"], predicted, record.meta["answer"])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_printed_history_and_answer_are_the_numbers_in_meta(name):
    for record in draws(name, 10):
        history = next(s.text for s in record.prompt if s.role == "history")
        assert [float(text) for text in history.split(" ")] == record.meta["history"]
        assert [float(t) for t in record.target_text.split(" ")] == record.meta["answer"]
        assert all(1 <= len(t.strip("-").replace(".", "")) <= 5 for t in history.split(" "))


@pytest.mark.parametrize("name", FAMILIES)
def test_oracle_sources_and_nothing_else_change_the_answer(name):
    family = FAMILIES[name]
    for record in draws(name, 15, horizon=4):
        meta = json.loads(json.dumps(record.meta))
        sides = {"history": meta["history"], "answer": meta["answer"]}
        nudges = (1, 5, 37) if family.kind == "integer" else (0.75, 6.25, 31.0)
        for place, sources in enumerate(meta["oracle"]):
            assert sources, "an answer number without a source"
            prefix = sides["answer"][:place]
            answer = family.recompute(sides["history"], prefix, meta["parameters"])
            assert answer == meta["answer"][place]
            for where, numbers in (("history", sides["history"]), ("answer", prefix)):
                for index in range(len(numbers)):
                    moved = {
                        recompute_moved(family, sides["history"], prefix, meta, where, index, by)
                        for by in nudges
                    }
                    assert (moved != {answer}) == ([where, index] in sources)


def recompute_moved(family, history, prefix, meta, where, index, by):
    sides = {"history": list(history), "answer": list(prefix)}
    sides[where][index] += by
    return family.recompute(sides["history"], sides["answer"], meta["parameters"])


@pytest.mark.parametrize("name", FAMILIES)
def test_each_step_is_true_arithmetic(name):
    """Read the computation back with Python's own evaluation of the printed text."""
    settings = SequenceSettings(
        families=(name,), split=splits_of(name)[0], n_per_family=10, styles=("stepwise",)
    )
    for record in generate(settings):
        terms = record.meta["history"] + record.meta["answer"]
        known = {f"x{k}": value for k, value in enumerate(terms, start=1)}
        steps = [s for s in record.target if s.role.startswith("step_")]
        for segment, answer in zip(steps, record.meta["answer"], strict=True):
            left, right = segment.text.rsplit(" = ", 1)
            expression = left.rsplit(" = ", 1)[-1].replace("mod", "%")
            value = eval(expression, {"__builtins__": {}}, known)
            assert float(right) == answer
            tolerance = 1e-9 if record.meta["kind"] == "integer" else 0.00501
            assert abs(value - answer) <= tolerance


def test_no_instance_is_in_two_splits():
    seen = {}
    for name in FAMILIES:
        for split in splits_of(name):
            for seed in (0, 1):
                settings = SequenceSettings(
                    families=(name,), split=split, n_per_family=40, seed=seed
                )
                for instance in instances(FAMILIES[name], settings):
                    assert split_of(instance.terms) == split
                    assert seen.setdefault(instance.terms[:12], split) == split


def test_a_longer_history_does_not_move_an_instance_to_another_split():
    record = next(generate(SequenceSettings(families=("arithmetic",), history=20)))
    assert split_of(record.meta["history"]) == split_of(record.meta["history"][:12]) == "seen"


@pytest.mark.parametrize("name", families_of("train"))
def test_unseen_parameters_come_from_a_range_of_their_own(name):
    key = {
        "arithmetic": lambda p: abs(p["difference"]),
        "geometric": lambda p: abs(p["ratio"]),
        "second_difference": lambda p: abs(p["second_difference"]),
        "order2_recurrence": lambda p: tuple(p["coefficients"]),
        "modular": lambda p: p["p"],
        "run_length": lambda p: tuple(p["runs"]),
        "copy_reverse": lambda p: tuple({str(value)[0] >= "7" for value in p["start"]}),
        "logistic_map": lambda p: p["rate"],
        "euler_ode": lambda p: (p["system"], p.get("k", p.get("a"))),
    }[name]
    values = {}
    for split in splits_of(name):
        settings = SequenceSettings(families=(name,), split=split, n_per_family=80)
        values[split] = {key(i.parameters) for i in instances(FAMILIES[name], settings)}
    assert not values["unseen-parameters"] & (values["train"] | values["seen"])


def test_instances_of_a_family_all_differ():
    settings = SequenceSettings(families=("modular",), n_per_family=400)
    drawn = [instance.terms for instance in instances(FAMILIES["modular"], settings)]
    assert len(set(drawn)) == 400


def test_ids_pairs_and_splits():
    records = list(generate(SequenceSettings(n_per_family=2, styles=("stepwise", "coarse"))))
    assert len(records) == 9 * 2 * 2
    assert Counter(record.style for record in records) == {"stepwise": 18, "coarse": 18}
    assert len({record.id for record in records}) == 36
    for stepwise, coarse in zip(records[::2], records[1::2], strict=True):
        assert stepwise.item == coarse.item
        assert stepwise.id == f"{stepwise.item}/stepwise"
        assert stepwise.prompt[1] == coarse.prompt[1]
        assert stepwise.target[-1] == coarse.target[-1]
        assert stepwise.meta["answer"] == coarse.meta["answer"]
        assert stepwise.split == "seen"
    assert records[0].id == "arithmetic-seen-0000/stepwise"


def test_the_test_splits_together_hold_every_family():
    records = list(generate_tests(SequenceSettings(n_per_family=1)))
    counts = Counter(record.split for record in records)
    assert counts == {"seen": 27, "unseen-parameters": 27, "unseen": 21}
    assert {record.task for record in records} == set(FAMILIES)
    assert {r.task for r in records if r.meta["control"]} == {"random_walk"}


def test_a_problem_depends_on_nothing_that_was_asked_for_beside_it():
    alone = generate(
        SequenceSettings(families=("modular",), n_per_family=2, styles=("coarse",), seed=5)
    )
    among = generate(SequenceSettings(n_per_family=7, seed=5))
    wanted = {f"modular-seen-{n:04d}/coarse" for n in range(2)}
    assert list(alone) == [record for record in among if record.id in wanted]


def test_other_seeds_give_other_problems():
    first, second = (next(generate(SequenceSettings(seed=seed))) for seed in (0, 1))
    assert first.meta["history"] != second.meta["history"]


def test_same_seed_gives_the_same_bytes_in_every_process():
    program = (
        "import hashlib, json, dataclasses\n"
        "from attnprobe.tasks.sequences import SequenceSettings, generate_tests\n"
        "records = generate_tests(SequenceSettings(n_per_family=3, seed=9))\n"
        "lines = [json.dumps(dataclasses.asdict(r), ensure_ascii=False) for r in records]\n"
        "print(hashlib.sha256('\\n'.join(lines).encode()).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "4711")
    }
    here = generate_tests(SequenceSettings(n_per_family=3, seed=9))
    lines = [json.dumps(dataclasses.asdict(r), ensure_ascii=False) for r in here]
    assert digests == {hashlib.sha256("\n".join(lines).encode()).hexdigest() + "\n"}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_instructions_are_in_the_language_asked_for(language):
    settings = SequenceSettings(language=language, n_per_family=1, styles=("direct",))
    for record in generate(settings):
        is_chinese = any("一" <= character <= "鿿" for character in record.prompt[0].text)
        assert is_chinese == (language == "zh")


def test_separator_and_decimals_are_printed_as_asked():
    fmt = NumberFormat(decimals=3, separator=", ")
    record = next(generate(SequenceSettings(families=("logistic_map",), number_format=fmt)))
    history = record.prompt[1].text.split(", ")
    assert len(history) == 12
    assert all(len(text.partition(".")[2]) == 3 for text in history)


def message(**changes):
    with pytest.raises(DatasetError) as caught:
        list(generate(SequenceSettings(**changes)))
    return str(caught.value)


def test_unknown_names_are_answered_with_the_nearest():
    assert "unknown family; got 'arithmetik'; did you mean 'arithmetic'?" in message(
        families=("arithmetik",)
    )
    assert "did you mean 'stepwise'?" in message(styles=("stepwize",))
    assert "did you mean 'seen'" in message(split="sen")
    assert "did you mean 'unseen'" in message(split="unsene")
    assert "unknown language" in message(language="fr")


def test_a_family_of_another_split_is_refused():
    assert message(families=("lorenz",)).startswith(
        "family 'lorenz': family does not belong to this split; got split 'seen', expected 'unseen'"
    )
    assert "expected 'train', 'seen'" in message(families=("arithmetic",), split="unseen")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"history": 11}, "history: size is too small; got 11, expected 12 or more"),
        ({"horizon": 2}, "horizon: size is too small; got 2, expected 3 or more"),
        ({"n_per_family": 0}, "n_per_family: size is too small; got 0, expected 1 or more"),
        ({"seed": -1}, "seed: size is too small; got -1, expected 0 or more"),
        ({"history": 5000}, "history + horizon: sequence is too long"),
        ({"styles": ()}, "nothing to write"),
        ({"families": ()}, "nothing to write"),
        ({"styles": ("coarse", "coarse")}, "styles: name is given twice"),
        ({"families": ("modular", "modular")}, "families: name is given twice"),
    ],
)
def test_impossible_sizes_say_what_is_possible(changes, expected):
    assert message(**changes).startswith(expected)


def test_answers_that_fill_no_whole_block_are_refused():
    text = message(horizon=4, styles=("coarse",))
    assert "terms do not fill whole blocks" in text
    assert "history 12, horizon 4, blocks of 3" in text


def test_overflow_is_refused_with_the_way_out():
    text = message(families=("geometric",), history=200)
    assert "no new sequence fits the sizes and the number format" in text
    assert "family 'geometric', split 'seen', problem 0" in text
    assert "allow more digits, shorten history or horizon" in text


def test_asking_for_more_problems_than_there_are_is_refused():
    fmt = NumberFormat(digits=1, decimals=0)
    text = message(families=("run_length",), number_format=fmt, n_per_family=10_000)
    assert "ask for fewer problems" in text


def test_real_families_need_decimals():
    text = message(families=("logistic_map",), number_format=NumberFormat(decimals=0))
    assert "would lose its rule when printed in whole numbers" in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"digits": 0}, "NumberFormat.digits"),
        ({"digits": 2, "decimals": 2}, "NumberFormat.decimals"),
        ({"separator": ""}, "NumberFormat.separator"),
        ({"separator": "-"}, "NumberFormat.separator"),
        ({"separator": "\n"}, "NumberFormat.separator"),
    ],
)
def test_number_formats_that_cannot_be_read_back_are_refused(changes, expected):
    with pytest.raises(DatasetError, match=expected):
        NumberFormat(**changes)


def test_coarse_readings_that_change_nothing_are_refused():
    with pytest.raises(DatasetError, match="did you mean 'sums'"):
        CoarseReading("sum")
    with pytest.raises(DatasetError, match="expected 2 or more"):
        CoarseReading("means", 1)
