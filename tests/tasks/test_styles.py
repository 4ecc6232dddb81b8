"""Styles: what is written is read back exactly, and anything else is survived."""

import dataclasses
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprobe.errors import DatasetError
from attnprobe.tasks import styles
from attnprobe.tasks.sequences import FAMILIES, SequenceSettings, generate
from attnprobe.tasks.styles import (
    READINGS,
    STYLES,
    BaseStyle,
    CoarseReading,
    NumberFormat,
    Problem,
    Segment,
    Step,
    coarse_values,
    filler,
    find_style,
    merge_steps,
    number_line,
    number_of,
    record_of,
    style_of,
)
from attnprobe.types import Record

FIBONACCI = "2 3 5 8 12 17 23 30 38 47 57 68"


def problem(**changes):
    fields = {
        "item": "lin2-0007",
        "task": "linear_recurrence_2",
        "instruction": "Continue.",
        "given": (Segment("history", FIBONACCI),),
        "steps": (Step("68 + 12", "80"), Step("80 + 13", "93"), Step("93 + 14", "107")),
        "answer": ("80", "93", "107"),
        "history": tuple(FIBONACCI.split(" ")),
    }
    return Problem(**{**fields, **changes})


def record(style, **changes):
    return record_of(problem(**changes), style, split="unseen")


def roles(text, of):
    spans = style_of(of).parse(text, of)
    return [(span.role, text[span.start : span.stop]) for span in spans]


def written(of):
    return [(segment.role, segment.text) for segment in of.target]


# Writing ------------------------------------------------------------------------------------------


def test_coarse_writes_the_block_sums_of_the_worked_example():
    coarse = record("coarse")
    assert coarse.id == "lin2-0007/coarse"
    assert coarse.prompt[2] == Segment("coarse_history", "10 37 91 172")
    assert coarse.target == (Segment("coarse_answer", "280"), Segment("answer", "80 93 107"))
    assert coarse.meta["coarse"]["answer"] == [280]
    assert coarse.meta["answer"] == [80, 93, 107]


def test_means_have_one_decimal_more_than_the_terms():
    coarse = record("coarse", coarse=CoarseReading("means", 3))
    assert coarse.prompt[2].text == "3.3 12.3 30.3 57.3"
    assert coarse.target[0].text == "93.3"


def test_bins_divide_the_range_of_the_history_and_go_on_beyond_it():
    coarse = record("coarse", coarse=CoarseReading("bins", 4))
    assert "bin 0 starts at 2 and every bin is 17 wide" in coarse.prompt[0].text
    assert coarse.prompt[2].text == "0 0 0 0 0 0 1 1 2 2 3 3"
    assert coarse.target[0].text == "4 5 6"


def test_merged_steps_put_a_computation_where_its_result_was():
    coarse = record("coarse", coarse=CoarseReading("merge", 2))
    assert written(coarse) == [
        ("step_1", "(68 + 12) + 13 = 93"),
        ("step_2", "93 + 14 = 107"),
        ("answer", "80 93 107"),
    ]
    assert coarse.meta["coarse"]["answer"] == [93, 107]


def test_merged_steps_keep_what_no_later_step_uses():
    steps = (Step("4*3", "12"), Step("2*5", "10"), Step("12 + 10", "22"), Step("turn it round"))
    assert [step.text for step in merge_steps(steps[:3], 3)] == ["(4*3) + (2*5) = 22"]
    assert [step.text for step in merge_steps(steps[1:], 3)] == ["12 + (2*5) = 22; turn it round"]


def test_merged_steps_know_negative_operands_from_differences():
    steps = (Step("3 - 8", "-5"), Step("2*(-5) + 5", "-5"), Step("-5 - 1", "-6"))
    assert merge_steps(steps, 3)[0].text == "(2*(3 - 8) + 5) - 1 = -6"


def test_blocks_end_with_the_history():
    coarse = record("coarse", history=("7", "9", *FIBONACCI.split(" ")))
    assert coarse.prompt[2].text == "10 37 91 172"


def test_a_problem_without_history_merges_its_steps():
    bare = problem(history=(), given=(Segment("question", "68 + 12 + 13 + 14 = ?"),))
    assert [segment.role for segment in record_of(bare, "coarse", split="seen").target] == [
        "step_1",
        "answer",
    ]


def test_filler_keeps_roles_and_lengths_and_says_nothing():
    for style in ("stepwise", "coarse"):
        plain, filled = record(style), record(f"{style}-filler")
        assert [s.role for s in filled.prompt] == [s.role for s in plain.prompt]
        assert [s.role for s in filled.target] == [s.role for s in plain.target]
        assert filled.target[-1] == plain.target[-1]
        for segment in filled.target[:-1]:
            assert set(segment.text) == {".", " "} or segment.text == "."
    assert filler("68 + 12 = 80") == " ".join("." * 10)


def test_a_step_that_would_be_read_as_the_answer_is_refused():
    for text in ("80 93", "no digit", "two\nlines 2", " 3 + 4"):
        with pytest.raises(DatasetError, match="could not be told from the answer"):
            problem(steps=(Step(text),))


def test_unknown_styles_are_answered_with_the_nearest():
    with pytest.raises(DatasetError, match="unknown style; got 'corse'; did you mean 'coarse'"):
        find_style("corse")


# Reading what was written -------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("family", FAMILIES)
def test_parse_gives_back_what_write_wrote(style, family):
    """For every reading, language and a few formats."""
    formats = [
        NumberFormat(),
        NumberFormat(digits=6, decimals=3, separator=", "),
        NumberFormat(decimals=1, separator="、"),
    ]
    split = "unseen" if FAMILIES[family].held_out else "seen"
    for number, kind in enumerate(READINGS):
        made = SequenceSettings(
            families=(family,),
            styles=(style,),
            split=split,
            n_per_family=3,
            seed=number,
            horizon=(3, 6)[number % 2],
            history=16,
            language=("en", "zh")[number % 2],
            number_format=formats[number % 3],
            coarse=CoarseReading(kind, 3),
        )
        for one in generate(made):
            assert roles(one.target_text, one) == written(one)
            reader = style_of(one)
            assert reader.read_answer(one.target_text, one) == one.meta["answer"]
            if style != "direct":
                assert reader.read_coarse(one.target_text, one) == one.meta["coarse"]["answer"]


numbers = st.decimals(-(10**9), 10**9, places=2).map(str) | st.integers(-(10**9), 10**9).map(str)
expressions = st.text("0123456789+-*/() x年", min_size=1, max_size=20).map(
    lambda text: f"f({text.strip()})"
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(STYLES)),
    st.lists(st.builds(Step, expressions, numbers), max_size=5),
    st.lists(numbers, min_size=1, max_size=6),
    st.sampled_from([" ", ", ", "，", "、", "; ", "\t"]),
)
def test_parse_gives_back_any_problem(style, steps, answer, separator):
    made = problem(
        steps=tuple(steps),
        answer=tuple(answer),
        separator=separator,
        coarse=CoarseReading("merge", 2),
    )
    one = record_of(made, style, split="seen")
    assert roles(one.target_text, one) == written(one)
    assert style_of(one).read_answer(one.target_text, one) == [float(text) for text in answer]


def test_direct_answers_amount_to_block_values():
    direct = record("direct")
    assert style_of(direct).read_coarse("80 93 107", direct) == [280.0]
    assert style_of(direct).read_coarse("80 93 108", direct) == [281.0]


def test_coarse_values_follow_every_reading():
    answer = [80, 93, 107, 122, 138, 155]
    for kind, expected in (
        ("sums", [280.0, 415.0]),
        ("means", [93.3, 138.3]),
        ("merge", [107.0, 155.0]),
        ("bins", [3.0, 3.0, 4.0, 5.0, 5.0, 6.0]),
    ):
        meta = record("coarse", coarse=CoarseReading(kind, 3)).meta["coarse"]
        assert coarse_values(answer, meta) == expected


# Reading what a model wrote -----------------------------------------------------------------------


def test_labels_brackets_and_punctuation_around_an_answer_are_unparsed():
    direct = record("direct")
    for text in (
        "Answer: 80 93 107",
        "The next numbers are: [80, 93, 107].",
        "答案：80，93，107。",
        "**80 93 107**",
        "接下来是 80、93 和 107",
    ):
        found = roles(text, direct)
        assert style_of(direct).read_answer(text, direct) == [80.0, 93.0, 107.0]
        assert [role for role, _ in found if role != "unparsed"] == ["answer"]


def test_an_answer_that_goes_on_is_read_as_far_as_asked():
    direct = record("direct")
    text = "80 93 107 122 138\n80 93 107"
    assert roles(text, direct) == [("answer", "80 93 107"), ("unparsed", "122 138\n80 93 107")]


def test_a_truncated_answer_is_read_as_far_as_it_goes():
    stepwise = record("stepwise")
    text = stepwise.target_text
    assert style_of(stepwise).read_answer(text[: text.index("107", 45)], stepwise) == [80.0, 93.0]
    assert style_of(stepwise).read_answer(text[:30], stepwise) is None
    assert roles(text[:20], stepwise) == [("step_1", "68 + 12 = 80"), ("step_2", "80 + 13")]


def test_steps_beyond_those_of_the_record_are_unparsed():
    stepwise = record("stepwise")
    text = "1 + 1 = 2\n" * 5 + "80 93 107"
    found = roles(text, stepwise)
    assert [role for role, _ in found] == ["step_1", "step_2", "step_3", "unparsed", "answer"]


def test_talk_around_the_parts_is_unparsed():
    coarse = record("coarse")
    text = "Sure! 好的\n280\nand so\n80 93 107\nI hope that helps 1 2 3"
    assert roles(text, coarse) == [
        ("unparsed", "Sure! 好的"),
        ("coarse_answer", "280"),
        ("unparsed", "and so"),
        ("answer", "80 93 107"),
        ("unparsed", "I hope that helps 1 2 3"),
    ]
    assert style_of(coarse).read_coarse(text, coarse) == [280.0]


def test_a_coarse_answer_alone_is_no_answer():
    coarse = record("coarse")
    assert style_of(coarse).read_coarse("280", coarse) == [280.0]
    assert style_of(coarse).read_answer("280", coarse) is None
    assert style_of(coarse).read_answer("Answer: 80 93 107", coarse) == [80.0, 93.0, 107.0]
    assert style_of(coarse).read_coarse("Answer: 80 93 107", coarse) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80 93 107", [80, 93, 107]),
        ("-3.50, −2", [-3.5, -2]),
        ("3/4", [0.75]),
        ("15%", [15]),
        ("3 remainder 2", [3, 2]),
        ("商：3 余 2", None),
        ("答：3余2", [3, 2]),
        ("$12.50", [12.5]),
        ("Answer: 12 cm", [12]),
        ("12 apples and more", None),
        ("68 + 12 = 80", None),
        ("next = 80", None),
        ("１２ ３", None),
        ("٣ ٤", None),
        ("1/0", None),
        ("1234567890123456", None),
        ("1.2.3", None),
        ("5-3", None),
        ("", None),
        ("...", None),
    ],
)
def test_what_is_a_line_of_numbers(text, expected):
    found = number_line(text)
    assert (found and [number.value for number in found.numbers]) == expected


def test_number_of_refuses_what_is_no_number():
    assert [number_of(text) for text in ("12", "-3.50", "3/4")] == [12, -3.5, 0.75]
    for text in ("", "x", "1/0", "9" * 5000, "１２", "nan", "1e5"):
        with pytest.raises(DatasetError, match="is no number"):
            number_of(text)


fragments = st.sampled_from(
    [
        "80 93 107",
        "280",
        "68 + 12 = 80",
        "答案：",
        "Answer: ",
        ". . .",
        "９９",
        "-",
        "−",
        "1/0",
        "1e999",
        "nan",
        "，",
        "第1步：",
        "=",
        "[",
        "👍",
    ]
) | st.sampled_from(["\n", "\r\n", "\u2028", "\x00", "\u200b", "9" * 400])


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(STYLES)),
    st.sampled_from(READINGS),
    st.lists(fragments | st.text(max_size=8), max_size=25).map("".join),
)
def test_parsers_survive_any_text_and_cover_it(style, reading, text):
    one = record(style, coarse=CoarseReading(reading, 3))
    reader = style_of(one)
    spans = reader.parse(text, one)
    assert all(span.start < span.stop for span in spans)
    edges = [0, *(edge for span in spans for edge in (span.start, span.stop)), len(text)]
    assert edges == sorted(edges)
    uncovered = "".join(text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))
    assert not uncovered.strip()
    assert {span.role for span in spans} <= {s.role for s in one.target} | {"unparsed"}
    answer = reader.read_answer(text, one)
    assert answer is None or 1 <= len(answer) <= 3
    coarse = reader.read_coarse(text, one)
    assert coarse is None or coarse


@pytest.mark.parametrize(
    "text",
    [
        "1" * 200_000,
        "1 " * 20_000,
        "1 + 1 = 2\n" * 10_000,
        "\n" * 200_000,
        " " * 200_000 + "x",
        ". " * 100_000,
        "([" * 100_000,
        "Answer: " * 30_000,
        "1/" * 100_000,
        "-" * 200_000,
        "= 1 " * 50_000,
        "答" * 200_000 + "1",
    ],
    ids=range(12),
)
def test_hostile_text_takes_linear_time(text):
    begin = time.process_time()
    for style in STYLES:
        one = record(style)
        style_of(one).parse(text, one)
        style_of(one).read_coarse(text, one)
    assert time.process_time() - begin < 5


# Styles of one's own ------------------------------------------------------------------------------


def test_a_style_of_ones_own_is_one_class_as_documented():
    registered = dict(STYLES)
    example = styles.__doc__.split("one class:\n\n")[1].split("\n\n`BaseStyle`")[0]
    code = "\n".join(line.removeprefix("    ") for line in example.split("\n"))
    try:
        exec(code, {})
        assert isinstance(STYLES["reversed"], BaseStyle)
        one = record("reversed")
        assert roles(one.target_text, one) == [("backwards", "107 93 80"), ("answer", "80 93 107")]
        assert style_of(one).read_answer("107 93 80\n80 93 107", one) == [80.0, 93.0, 107.0]
        assert style_of(one).read_coarse("107 93 80\n80 93 107", one) == [280.0]
    finally:
        STYLES.clear()
        STYLES.update(registered)


def test_a_style_known_only_from_a_file_is_read_line_by_line():
    plain = Record(
        id="a/mine",
        item="a",
        style="mine",
        prompt=(Segment("question", "How many?"),),
        target=(Segment("thought", "Let me see.\nTwo and two."), Segment("answer", "4 5")),
    )
    assert roles("Hm.\nYes.\n7 8\nmore", plain) == [
        ("thought", "Hm.\nYes."),
        ("answer", "7 8"),
        ("unparsed", "more"),
    ]
    assert style_of(plain).read_answer("Hm.\nYes.\n7 8\nmore", plain) == [7.0, 8.0]
    assert style_of(plain).read_coarse("Hm.\nYes.\n7 8", plain) is None


def test_sentences_without_results_have_no_coarse_values():
    steps = (Step("Take 68 and 12 together"), Step("then 13 more makes 93"))
    made = problem(history=(), steps=steps, answer=("93",))
    for style in ("direct", "coarse"):
        one = record_of(made, style, split="seen")
        assert one.meta["coarse"] == {"reading": "merge", "size": 3, "answer": None}
        assert roles(one.target_text, one) == written(one)
        assert style_of(one).read_coarse(one.target_text, one) is None


def test_a_record_without_target_is_read_in_its_style():
    bare = dataclasses.replace(record("stepwise"), target=())
    assert [role for role, _ in roles("1 + 1 = 2\n2 + 2 = 4\n80 93 107", bare)] == [
        "step_1",
        "step_2",
        "answer",
    ]
