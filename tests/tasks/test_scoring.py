"""Scores by hand-worked and published numbers, by law, and under hostile text."""

import json
import re
from dataclasses import replace
from fractions import Fraction
from math import inf, isfinite, nan, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprobe.errors import RecordError, SelectionError
from attnprobe.tasks.maths import MathsSettings, generate
from attnprobe.tasks.scoring import RecordScore, rule_of, score_record, score_table, wilson
from attnprobe.tasks.scoring.exact import find_numbers, value_of
from attnprobe.tasks.sequences import SequenceSettings, generate_tests
from attnprobe.tasks.styles import STYLES, Direct
from attnprobe.types import Record, Segment

HISTORY = "0 10 20 30 40 50 60 70 80 90 100 50"


def sequence(kind: str, answer: list[float], **options) -> Record:
    meta = {"kind": kind, "answer": answer, "horizon": len(answer), "history": []}
    return Record(
        id=f"{options.get('item', 'a')}/direct",
        item=options.get("item", "a"),
        style="direct",
        task=options.get("task", "family"),
        split="seen",
        prompt=(Segment("instruction", "Continue."), Segment("history", HISTORY)),
        target=(Segment("answer", " ".join(map(str, answer))),),
        meta=meta | options.get("meta", {}),
    )


def problem(template: str, style: str = "direct", language: str = "en", seed: int = 0) -> Record:
    options = MathsSettings(
        n=1, templates=(template,), styles=(style,), language=language, seed=seed
    )
    return next(generate(options))


@pytest.fixture(scope="module")
def mixed() -> list[Record]:
    styles = tuple(STYLES)
    sequences = generate_tests(SequenceSettings(n_per_family=2, styles=styles))
    return [*generate(MathsSettings(n=44, styles=styles)), *sequences]


# The rule


def test_integers_must_be_exact():
    record = sequence("integer", [50, 60, 70])
    assert score_record(record, "50 60 70").passed is True
    assert score_record(record, "50, 60, 70.").passed is True
    assert score_record(record, "50 60 71").passed is False


def test_reals_may_be_off_by_2_percent_of_the_range_of_the_history():
    record = sequence("real", [50.0, 60.0, 70.0])  # the range is 100, so 2 is the bound
    assert score_record(record, "52.00 58.00 70.00").passed is True
    assert score_record(record, "52.01 58.00 70.00").passed is False
    assert score_record(record, "50 60").passed is False


def test_a_value_at_the_bound_passes_whatever_floats_make_of_it():
    history = Segment("history", "0.1 0.2 0.4 0.1 0.1 0.1 0.1 0.1 0.1 0.1 0.1 0.1")
    record = sequence("real", [0.1, 0.1, 0.1])
    record = replace(record, prompt=(record.prompt[0], history))
    assert score_record(record, "0.106 0.1 0.1").passed is True  # 0.106 − 0.1 > 0.006 in floats
    assert score_record(record, "0.10601 0.1 0.1").passed is False


def test_nothing_that_can_be_read_fails():
    score = score_record(sequence("integer", [50, 60, 70]), "I do not know.")
    assert (score.passed, score.coverage, score.first_failure) == (False, 0.0, 1)
    assert (score.mae, score.nrmse, score.smape) == (None, None, None)


def test_a_negative_control_has_errors_but_no_pass():
    record = sequence("integer", [50, 60, 70], meta={"control": True})
    score = score_record(record, "50 60 71")
    assert score.passed is None
    assert score.coarse_passed is None
    assert score.mae == pytest.approx(1 / 3)
    (row,) = score_table([score])
    assert (row["records"], row["n"], row["pass_rate"], row["pass_low"]) == (1, 0, None, None)
    assert score_record(sequence("integer", [1], task="random_walk"), "1").passed is None


@pytest.mark.parametrize(
    ("template", "text", "passed"),
    [
        ("unit_conversion", "{0}", True),
        ("unit_conversion", "{0} metres", True),
        ("unit_conversion", "Answer: {0}.", True),
        ("unit_conversion", "**{0}**", True),
        ("unit_conversion", "{0}.0", True),
        ("unit_conversion", "-{0}", False),
        ("unit_conversion", "{0}1", False),
        ("remainder_division", "{0} remainder {1}", True),
        ("remainder_division", "{0} 余 {1}", True),
        ("remainder_division", "{0}, {1}", True),
        ("remainder_division", "{1}, {0}", False),
        ("remainder_division", "{0}", False),
        ("chicken_rabbit", "{0},{1}", True),
    ],
)
def test_maths_answers_count_by_value_not_by_words(template: str, text: str, passed: bool):
    record = problem(template)
    text = text.format(*record.meta["answer"])
    assert score_record(record, text).passed is passed, text


def test_fractions_count_by_value_unless_lowest_terms_are_asked_for():
    record = problem("fraction_addition")
    value = Fraction(record.meta["answer_text"])
    assert score_record(record, f"{value.numerator}/{value.denominator}").passed is True
    assert score_record(record, f"{3 * value.numerator}/{3 * value.denominator}").passed is True
    record = problem("fraction_simplify")
    top, bottom = record.meta["operands"]
    score = score_record(record, f"{top}/{bottom}")
    assert (score.passed, score.is_exact) == (False, False)
    assert score_record(record, record.meta["answer_text"]).passed is True


def test_a_decimal_counts_where_it_is_the_fraction_and_not_where_it_is_near():
    def passed(answer: str, text: str) -> bool | None:
        meta = {"kind": "exact", "answer_text": answer, "answer": [float(Fraction(answer))]}
        return score_record(replace(problem("fraction_addition"), meta=meta), text).passed

    assert passed("29/20", "1.45") is True
    assert passed("29/20", "1 9/20") is True
    assert passed("1/3", "0.333333333333333") is False


@pytest.mark.parametrize(
    ("text", "count", "numbers"),
    [
        ("1,692", 1, ("1,692",)),
        ("120,450", 2, ("120", "450")),
        ("45, 75", 2, ("45", "75")),
        ("1 1/2", 1, ("1 1/2",)),
        ("−3.50 km", 1, ("−3.50",)),
        ("14 remainder 2", 2, ("14", "2")),
        ("9" * 16, 1, ()),
        ("x", 3, ()),
    ],
)
def test_numbers_are_found_as_they_are_written(text: str, count: int, numbers: tuple):
    assert find_numbers(text, count) == numbers


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("1,692", 1692),
        ("-1 1/2", Fraction(-3, 2)),
        ("−0.25", Fraction(-1, 4)),
        ("6/8", Fraction(3, 4)),
        ("1/0", None),
    ],
)
def test_numbers_are_worth_exactly_what_is_written(number: str, value: Fraction | None):
    assert value_of(number) == value


def test_thousands_in_an_answer():
    record = replace(problem("price_quantity"), meta={"kind": "exact", "answer": [1692]}, target=())
    assert score_record(record, "1,692").passed is True
    assert score_record(record, "1 692").passed is False


def test_words_are_compared_as_words():
    record = Record("q/direct", "q", "mine", (Segment("question", "Capital of France?"),))
    record = replace(record, target=(Segment("answer", "Paris"),))
    assert score_record(record, "  paris.").passed is True
    assert score_record(record, "Rome").passed is False
    assert score_record(record, "").passed is False


def test_kind_is_taken_from_the_numbers_when_it_is_not_said():
    def kind(answer: list[float], prompt: tuple[Segment, ...]) -> str:
        record = replace(sequence("", answer), prompt=prompt)
        meta = {key: record.meta[key] for key in ("answer", "horizon")}
        return rule_of(replace(record, meta=meta)).kind

    history = (Segment("history", HISTORY),)
    assert kind([1, 2], history) == "integer"
    assert kind([1.5, 2], history) == "real"
    assert kind([1.5], ()) == "exact"


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"answer": [nan]}, "answer cannot be scored; got nan, expected finite numbers"),
        ({"answer": [1, inf]}, "got inf"),
        ({"answer": ["x"]}, "got 'x'"),
        ({"kind": "reel"}, "meta.kind: unknown kind of answer; got 'reel'; did you mean 'real'?"),
        (
            {"coarse": {"reading": "sums", "size": 0, "answer": [1]}},
            "meta.coarse.size: coarse reading has no size; got 0",
        ),
    ],
)
def test_records_that_cannot_be_scored_say_why(meta: dict, message: str):
    record = sequence("integer", [1], meta=meta)
    with pytest.raises(RecordError, match=re.escape(message)):
        score_record(record, "1")


def test_a_record_without_any_answer_says_so():
    record = Record("q/direct", "q", "direct", (Segment("question", "?"),), where="d.jsonl:3")
    with pytest.raises(RecordError, match=r"d\.jsonl:3: nothing to score against"):
        score_record(record, "1")


def test_a_real_answer_needs_a_history():
    record = replace(sequence("real", [1.5]), prompt=())
    with pytest.raises(RecordError, match="tolerance has nothing to be a share of"):
        score_record(record, "1.5")


# Coarse values


def coarse_sequence(reading: str, answer: list[float], coarse: list[float]) -> Record:
    entry = {"reading": reading, "size": 3, "answer": coarse, "decimals": 2}
    return sequence("real", answer, meta={"coarse": entry | {"low": 0.0, "width": 10.0}})


def test_block_values_of_a_direct_answer_are_its_sums_or_means():
    sums = coarse_sequence("sums", [50.0, 60.0, 70.0], [180.0])
    assert score_record(sums, "44 62 70").passed is False
    assert score_record(sums, "44 62 70").coarse_passed is True  # 176, and 3 × 2 is the bound
    assert score_record(sums, "43 61 69").coarse_passed is False  # 173
    means = coarse_sequence("means", [50.0, 60.0, 70.0], [60.0])
    assert score_record(means, "44 62 70").coarse_passed is True
    assert score_record(means, "43 61 69").coarse_passed is False


def test_bins_must_be_exact():
    record = coarse_sequence("bins", [50.0, 60.0, 70.0], [5, 6, 7])
    assert score_record(record, "59 60 70").coarse_passed is True
    assert score_record(record, "59 59.99 70").coarse_passed is False


def test_the_coarse_style_is_scored_by_the_block_values_it_writes():
    record = replace(coarse_sequence("sums", [50.0, 60.0, 70.0], [180.0]), style="coarse")
    assert score_record(record, "186\n50 60 70").coarse_passed is True
    assert score_record(record, "187\n50 60 70").coarse_passed is False
    assert score_record(record, "180\n50 60 99").passed is False


def test_merged_steps_are_the_coarse_values_of_maths():
    record = problem("addition", "stepwise")
    lines = record.target_text.split("\n")
    assert score_record(record, record.target_text).coarse_passed is True
    assert score_record(problem("addition"), record.meta["answer_text"]).coarse_passed is None
    wrong = [re.sub(r"= \d+$", "= 1", lines[0]), *lines[1:]]
    score = score_record(record, "\n".join(wrong))
    assert score.coarse_passed is True  # the first result lies within the first merged step
    assert score.derivation_passes == (False, *[True] * (len(lines) - 2))
    wrong = [lines[0], re.sub(r"= \d+$", "= 1", lines[1]), *lines[2:]]
    assert score_record(record, "\n".join(wrong)).coarse_passed is False
    assert score_record(record, "\n".join(wrong)).passed is True


# Errors


def test_errors_by_hand():
    score = score_record(sequence("real", [50.0, 60.0, 70.0]), "52 56 70")
    assert score.mae == pytest.approx((2 + 4 + 0) / 3)
    assert score.nrmse == pytest.approx(sqrt((4 + 16 + 0) / 3) / 100)
    assert score.smape == pytest.approx((2 * 2 / 102 + 2 * 4 / 116 + 0) / 3)
    assert score.step_passes == (True, False, True)
    assert (score.first_failure, score.is_exact) == (2, False)


def test_errors_are_those_of_the_numbers_read():
    score = score_record(sequence("real", [50.0, 60.0, 70.0]), "52 56")
    assert score.coverage == pytest.approx(2 / 3)
    assert score.mae == pytest.approx(3)
    assert score.first_failure == 2


def test_smape_of_zero_for_zero_is_zero_and_never_above_2():
    score = score_record(sequence("integer", [0, 0, 5]), "0 7 -5")
    assert score.smape == pytest.approx((0 + 2 + 2) / 3)


def test_a_constant_history_has_no_range_to_divide_by():
    record = sequence("integer", [5, 5])
    record = replace(record, prompt=(Segment("history", "5 5 5 5"),))
    assert score_record(record, "5 6").nrmse is None
    assert score_record(record, "5 6").mae == 0.5


def test_valid_prediction_time_by_hand():
    # terms 0 and 10 in equal parts: standard deviation 5, so errors up to 2 are valid
    record = sequence("real", [5.0, 5.0, 5.0, 5.0], meta={"chaotic": True})
    record = replace(record, prompt=(Segment("history", "0 10 0 10 0 10 0 10 0 10 0 10"),))
    assert score_record(record, "7 3 8 5").valid_steps == 2
    assert score_record(record, "8 5 5 5").valid_steps == 0
    assert score_record(record, "5 5").valid_steps == 2
    assert score_record(record, "5 5 5 5").valid_steps == 4
    assert score_record(sequence("real", [5.0]), "5").valid_steps is None


# The table


@pytest.mark.parametrize(
    ("passed", "n", "low", "high"),
    [  # Newcombe 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_as_published(passed: int, n: int, low: float, high: float):
    assert wilson(passed, n) == pytest.approx((low, high), abs=5e-5)


def test_no_trials_have_no_interval():
    assert wilson(0, 0) == (None, None)


def test_chance_is_the_rate_of_passing_with_another_items_answer():
    answers = {"a": [1, 1], "b": [1, 1], "c": [1, 2], "d": [3, 3]}
    scores = [
        score_record(sequence("integer", answer, item=item), "9 9")
        for item, answer in answers.items()
    ]
    (row,) = score_table(scores)
    assert row["chance"] == pytest.approx((1 / 3 + 1 / 3 + 0 + 0) / 4)
    assert row["pass_rate"] == 0


def test_chance_looks_within_the_family_only():
    scores = [
        score_record(sequence("integer", [1], item=item, task=task), "1")
        for item, task in (("a", "one"), ("b", "two"), ("c", "two"))
    ]
    rows = {row["task"]: row for row in score_table(scores, by=("task",))}
    assert rows["one"]["chance"] is None
    assert rows["two"]["chance"] == 1.0


def test_chance_in_a_large_family_is_taken_from_the_next_200_items():
    scores = [score_record(sequence("integer", [n % 2], item=f"{n:04d}"), "0") for n in range(240)]
    (row,) = score_table(scores)
    assert row["chance"] == pytest.approx(0.5)
    assert row["pass_rate"] == 0.5


def test_chance_of_real_families_and_of_blocks_uses_their_tolerance():
    values = {"a": ([50.0, 60.0, 70.0], [180.0]), "b": ([51.0, 61.0, 73.0], [185.0])}
    scores = []
    for item, (answer, coarse) in values.items():
        record = replace(coarse_sequence("sums", answer, coarse), item=item)
        scores.append(score_record(record, "0 0 0"))
    (row,) = score_table(scores)
    assert row["chance"] == 0.0
    assert row["coarse_chance"] == 1.0


def test_a_table_by_hand():
    record = sequence("real", [50.0, 60.0, 70.0])
    texts = ["50 60 70", "50 60 80", "?", "51 60"]
    (row,) = score_table(score_record(replace(record, item=text), text) for text in texts)
    assert (row["style"], row["split"], row["records"], row["n"]) == ("direct", "seen", 4, 4)
    assert row["pass_rate"] == 0.25
    assert (row["pass_low"], row["pass_high"]) == wilson(1, 4)
    assert row["exact"] == 0.25
    assert row["parsed"] == 0.5
    assert row["coverage"] == pytest.approx(8 / 12)
    assert row["step_pass"] == pytest.approx(7 / 12)
    assert row["step_passes"] == [0.75, 0.75, 0.25]
    assert row["first_failure"] == pytest.approx((4 + 3 + 1 + 3) / 4)
    assert row["mae"] == pytest.approx((0 + 10 / 3 + 0.5) / 3)
    assert row["nrmse"] == pytest.approx((0 + sqrt(100 / 3) / 100 + sqrt(0.5) / 100) / 3)
    assert (row["coarse_n"], row["coarse_rate"], row["derivation"]) == (0, None, None)
    assert row["valid_steps"] is None


def test_a_table_by_something_else_is_refused():
    with pytest.raises(SelectionError, match="did you mean 'style'"):
        score_table([], by=("styles",))
    assert score_table([]) == []


def test_what_a_record_asks_for_passes_in_every_style_and_family(mixed):
    scores = [score_record(record, record.target_text) for record in mixed]
    assert all(score.is_exact and score.passed is not False for score in scores)
    assert all(score.coarse_passed is not False for score in scores)
    for row in score_table(scores, by=("style", "split", "task")):
        assert row["pass_rate"] in (1.0, None)
        assert (row["parsed"], row["coverage"], row["mae"]) == (1.0, 1.0, 0.0)
        assert row["derivation"] in (1.0, None)


def test_rows_do_not_depend_on_the_order_of_the_records(mixed):
    scores = [score_record(record, record.target_text[::-1]) for record in mixed]
    by = ("style", "split", "task")

    def rows(of: list[RecordScore]) -> dict[tuple, dict]:
        return {tuple(row[key] for key in by): row for row in score_table(of, by=by)}

    there, back = rows(scores), rows(scores[::-1])
    assert there.keys() == back.keys()
    for key, row in there.items():
        assert row["pass_rate"] == back[key]["pass_rate"]
        assert row["chance"] == pytest.approx(back[key]["chance"])
    assert json.dumps(score_table(scores, by), allow_nan=False)


# Hostile text

HOSTILE = [
    "",
    "\n\n\x00\ufeff",
    "nan inf -inf 1e999",
    "9" * 5000,
    "1/0 1/0 1/0",
    "1 " * 800,
    "= = = 5",
    "step_1: 3 + 4 = \n= 7",
    "１２３ ٣ ②",
    "-" * 5000 + "1",
    "1,000,000,000,000,000,000",
    "答案：" * 300,
    "0/5 0/5 0/5",
    "1.2.3.4",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_scored_as_a_failure(mixed, text: str):
    scores = [score_record(record, text) for record in mixed[:: len(mixed) // 40]]
    assert not any(score.passed for score in scores)
    assert json.dumps(score_table(scores), allow_nan=False)


class Wild(Direct):
    def read_answer(self, text, record):
        return [50.0, nan, inf]


def test_a_style_that_reads_nonsense_is_scored_up_to_it():
    score = score_record(sequence("real", [50.0, 60.0, 70.0]), "", Wild())
    assert score.answer == (Fraction(50),)
    assert (score.passed, score.mae) == (False, 0.0)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_laws_for_any_text(mixed, data):
    record = data.draw(st.sampled_from(mixed))
    pieces = st.sampled_from([*record.target_text.split(), "\n", " ", "=", "1/0", ",", "-", "x"])
    noise = st.one_of(st.text(max_size=40), st.lists(pieces, max_size=15).map(" ".join))
    text = data.draw(noise)
    score = score_record(record, text)
    assert 0 <= score.coverage <= 1
    assert len(score.step_passes) == score.rule.horizon
    if score.passed:
        assert score.coverage == 1
    if score.is_exact:
        assert score.passed is not False
        assert score.mae == 0
    for error in (score.mae, score.nrmse, score.smape):
        assert error is None or (isfinite(error) and error >= 0)
    assert (score.smape or 0) <= 2
    assert score == score_record(record, text)
