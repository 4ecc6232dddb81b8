"""Templates: solved twice, derived truly."""

import re
from collections import Counter
from fractions import Fraction
from functools import cache
from random import Random

import pytest

from attnprobe.tasks.maths import TEMPLATES, Problem
from attnprobe.tasks.maths.derivation import decimal, done, merge_steps, whole
from tests.tasks.maths_solvers import SOLVERS, evaluate, statement_holds

N_DRAWS = 230  # × 44 templates: over 10,000 in all


@cache
def draws(name: str) -> list[Problem]:
    rng = Random(name)
    return [Problem(TEMPLATES[name], TEMPLATES[name].draw(rng)) for _ in range(N_DRAWS)]


def test_there_are_44_templates_in_five_groups():
    assert Counter(template.group for template in TEMPLATES.values()) == {
        "arithmetic": 10,
        "fractions": 10,
        "proportions": 8,
        "word_problems": 10,
        "geometry_and_equations": 6,
    }
    assert set(SOLVERS) == set(TEMPLATES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_independent_solver_finds_the_same_answer_in_both_languages(name: str):
    for problem in draws(name):
        answer = tuple(number.exact for number in problem.answer)
        assert SOLVERS[name](problem.question("zh")) == answer
        assert SOLVERS[name](problem.question("en")) == answer


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_step_is_true_and_the_answer_is_derived(name: str):
    for problem in draws(name)[:80]:
        steps = problem.steps
        assert len(steps) >= 2
        for step in steps:
            assert statement_holds(str(step)), str(step)
        answer = {number.exact for number in problem.answer}
        assert name == "fraction_compare" or answer <= {step.result.exact for step in steps}


@pytest.mark.parametrize("name", TEMPLATES)
def test_merged_steps_are_true_and_as_many_as_asked_for(name: str):
    for problem in draws(name)[:12]:
        steps = problem.steps
        assert problem.merged_steps(1) == tuple(str(step) for step in steps)
        for k in (2, 3, 99):
            lines = problem.merged_steps(k)
            assert len(lines) == -(-len(steps) // k)
            assert lines[-1].endswith(f" = {steps[-1].result.text}")
            assert all(statement_holds(part) for line in lines for part in line.split("; "))


@pytest.mark.parametrize("name", TEMPLATES)
def test_numbers_are_one_to_six_digits_and_written_exactly(name: str):
    for problem in draws(name)[:80]:
        for operand in problem.operands:
            assert 1 <= len(operand.text.replace(".", "").lstrip("0")) <= 6
            assert operand.exact > 0
        for number in problem.answer:
            assert evaluate(number.text) == number.exact >= 0
            assert Fraction(str(number.json)) == number.exact
            if TEMPLATES[name].group != "fractions":
                assert "/" not in number.text


@pytest.mark.parametrize("name", TEMPLATES)
def test_questions_are_whole_sentences_in_one_language(name: str):
    for problem in draws(name)[:12]:
        zh, en = problem.question("zh"), problem.question("en")
        assert re.search(r"[\u4e00-\u9fff]", zh)
        assert not re.search(r"[a-wyzA-Z]", zh)
        assert not re.search(r"[\u3000-\u9fff\uff00-\uffef]", en)
        assert zh[-1] in "。？"
        assert en[-1] in ".?"
        assert "\n" not in zh + en
        assert not re.search(r"(?<![\d/:.])1 [a-z]+s\b", en), "a plural after one"


def test_hand_worked_problems():
    def solve(name: str, *operands: int | str) -> str:
        numbers = tuple(decimal(Fraction(operand)) for operand in operands)
        return Problem(TEMPLATES[name], numbers).answer_text("en")

    assert solve("remainder_division", 100, 7) == "14 remainder 2"
    assert solve("fraction_addition", 3, 4, 5, 6) == "19/12"
    assert solve("fraction_division", 3, 4, 3, 8) == "2"
    assert solve("rounding", "3.14159", 2) == "3.14"
    assert solve("simple_interest", 1000, "2.5", 3) == "75"
    assert solve("ratio_share", 120, 3, 5) == "45, 75"
    assert solve("work_rate", 6, 12) == "4"
    assert solve("chicken_rabbit", 35, 94) == "23, 12"  # Sunzi Suanjing, chapter 3
    assert solve("tree_planting", 100, 5) == "21"


def test_carry_and_borrow_mark_the_border_between_the_templates():
    def passes_nine(a: int, b: int) -> bool:
        return sum(map(int, str(a))) + sum(map(int, str(b))) != sum(map(int, str(a + b)))

    for name, expected in (("addition", False), ("carry_addition", True)):
        for problem in draws(name):
            a, b = (int(operand.text) for operand in problem.operands)
            assert passes_nine(a, b) is expected
    for name, expected in (("subtraction", False), ("borrow_subtraction", True)):
        for problem in draws(name):
            a, b = (int(operand.text) for operand in problem.operands)
            assert passes_nine(a - b, b) is expected


def test_merging_substitutes_and_keeps_parentheses_where_they_are_needed():
    two, three, four, five = (whole(value) for value in (2, 3, 4, 5))
    difference = done(five - done(four - three))
    quotient = done(difference / done(two * three))
    assert merge_steps((quotient,), 9) == ("(5 − (4 − 3)) ÷ (2 × 3) = 2/3",)
    assert merge_steps((quotient,), 2) == ("5 − (4 − 3) = 4", "4 ÷ (2 × 3) = 2/3")


def test_a_result_used_twice_is_stated():
    once = done(whole(2) + whole(3))
    assert merge_steps((done(once * once),), 2) == ("2 + 3 = 5; 5 × 5 = 25",)


@pytest.mark.parametrize(
    ("value", "text"),
    [("5", "5"), ("1/8", "0.125"), ("-7/20", "-0.35"), ("1/3", "1/3"), ("1/100", "0.01")],
)
def test_decimals_are_exact(value: str, text: str):
    assert decimal(Fraction(value)).text == text
