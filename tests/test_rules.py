"""Segment rules: what they cut, that they change no text, and what is said of bad ones."""

import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnprobe.errors import RecordError
from attnprobe.records import parse_record, read_records
from attnprobe.records.rules import (
    SegmentRule,
    SegmentRules,
    apply_rules,
    parse_rules,
    read_rules,
)
from attnprobe.types import Record, Segment

EXAMPLES = Path(__file__).parents[1] / "artifacts" / "examples"


def plain(prompt="A: 1 2 B: 3", target="x = 4\n5", **options):
    fields = {"id": "a/x", "item": "a", "style": "x", "prompt": prompt, **options}
    return parse_record(fields | ({"target": target} if target else {}), "data.jsonl:7")


def rules(*prompt, target=()):
    def numbered(side, pairs):
        return tuple(
            SegmentRule(role, pattern, "{n}" in role, f"rules.toml, [[{side}]] {n}")
            for n, (role, pattern) in enumerate(pairs, start=1)
        )

    return SegmentRules(numbered("prompt", prompt), numbered("target", target))


def cut(record, *prompt, target=()):
    (result,) = apply_rules([record], rules(*prompt, target=target))
    return result


def pairs(segments):
    return [(segment.role, segment.text) for segment in segments]


def test_matches_become_segments_and_the_rest_is_template_verbatim():
    record = cut(
        plain(), ("history", r"A: (?P<text>[\d ]+?) B"), ("question", r"\d$"),
        target=[("step_{n}", "(?m)^.* = .*$"), ("answer", r"^\d+\Z|(?<=\n)\d+\Z")],
    )  # fmt: skip
    assert pairs(record.prompt) == [
        ("template", "A: "), ("history", "1 2"), ("template", " B: "), ("question", "3"),
    ]  # fmt: skip
    assert pairs(record.target) == [("step_1", "x = 4"), ("template", "\n"), ("answer", "5")]


def test_a_repeated_rule_counts_its_matches_and_another_takes_the_first():
    record = cut(plain("q1 q2 q3 r4 r5"), ("demo_{n}.question", r"q(?P<text>\d)"), ("last", r"r\d"))
    assert pairs(record.prompt)[1::2] == [
        ("demo_1.question", "1"), ("demo_2.question", "2"), ("demo_3.question", "3"), ("last", "r4")
    ]  # fmt: skip
    (repeated,) = apply_rules(
        [plain("q1 q2")], SegmentRules((SegmentRule("question", r"q\d", repeat=True),))
    )
    assert [s.role for s in repeated.prompt] == ["question", "template", "question"]


def test_what_is_cut_already_and_what_no_rule_matches_stays_as_it_is():
    ready = plain([{"role": "prompt_part", "text": "1 2"}], [{"role": "answer", "text": "3"}])
    other = plain("nothing here")
    results = list(apply_rules([ready, other, plain()], rules(("a", r"A: \d"))))
    assert results[:2] == [ready, other]
    assert results[0] is ready


def test_an_empty_match_makes_no_segment():
    record = cut(plain("in: \nout: 1"), ("input", r"in: (?P<text>.*)|out: (?P<text>.*)"))
    assert pairs(record.prompt) == [("template", "in: \nout: "), ("input", "1")]


def test_joiners_are_spelled_out_when_one_side_is_cut():
    target = [{"role": "step", "text": "2"}, {"role": "answer", "text": "3"}]
    record = cut(plain("x 1", target), ("history", r"\d"))
    assert pairs(record.prompt) == [("template", "x "), ("history", "1"), ("template", "\n")]
    assert pairs(record.target) == [("step", "2"), ("template", "\n"), ("answer", "3")]
    assert record.joiner == ""


TEXT = st.text(alphabet="ab1 .\n项答：", max_size=30).filter(bool)
PATTERNS = st.sampled_from(
    [
        r"\d+",
        r"(?m)^.*$",
        r"(?s)a(?P<text>.*?)b",
        "项|答",
        r"\s+",
        r"b*",
        r"(?=(?P<text>..))",
        r".\Z",
    ]
)


@given(
    prompt=TEXT,
    target=TEXT | st.just(""),
    joiner=st.sampled_from(["", "\n", " | "]),
    prompt_rules=st.lists(st.tuples(PATTERNS, st.booleans()), max_size=3),
    target_rules=st.lists(st.tuples(PATTERNS, st.booleans()), max_size=2),
)
def test_cutting_never_changes_the_text(prompt, target, joiner, prompt_rules, target_rules):
    record = plain(prompt, target, joiner=joiner)
    made = SegmentRules(*(
        tuple(SegmentRule(f"role_{n}", *rule) for n, rule in enumerate(side))
        for side in (prompt_rules, target_rules)
    ))  # fmt: skip
    results: list[Record] = []
    with suppress(RecordError):  # rules that overlap or match nothing
        results.extend(apply_rules([record], made))
    for result in results:
        assert result.prompt_text == record.prompt_text
        assert result.target_text == record.target_text
        assert all(segment.text for segment in (*result.prompt, *result.target))
        assert bool(result.target) == bool(record.target)


def test_rules_that_overlap_name_both_and_the_text():
    with pytest.raises(RecordError) as caught:
        cut(plain("one 12 34"), ("history", r"\d+ \d+"), ("last", r"\d+$"))
    assert str(caught.value) == (
        "data.jsonl:7 (id 'a/x'): two segments overlap: 'history' and 'last'; got '34' in both, by "
        "rules.toml, [[prompt]] 1 (role 'history') and rules.toml, [[prompt]] 2 (role 'last'); let "
        "one of them end earlier, e.g. with a group (?P<text>…) or a lookahead."
    )


def test_only_what_is_in_both_segments_is_shown():
    with pytest.raises(RecordError, match="'a' and 'b'; got '2' in both"):
        cut(plain("x 1 2 3 y"), ("a", r"\d.*\d"), ("b", "2"))


def test_a_rule_that_matches_nothing_is_named_after_the_last_record():
    made = rules(("history", r"\d"), ("coarse_history", r"sums: .*"))
    cuts = apply_rules([plain(), plain()], made)
    assert [next(cuts).prompt[1].role, next(cuts).prompt[1].role] == ["history", "history"]
    with pytest.raises(RecordError) as caught:
        next(cuts)
    assert str(caught.value) == (
        "rules.toml, [[prompt]] 2 (role 'coarse_history'): this rule matches nothing in any record;"
        " got pattern sums: .*, 2 records of which it saw 2 as plain text; correct or remove the "
        "rule."
    )


def test_a_rule_may_match_in_the_last_record_alone():
    made = rules(("last", "B"))
    results = list(apply_rules([plain("A")] * 200 + [plain("B")], made))
    assert results[-1].prompt == (Segment("last", "B"),)


def test_a_pattern_without_end_is_stopped():
    began = time.monotonic()
    with pytest.raises(RecordError, match=r"longer than 2 s over one text.*\(a\|aa\)\+\$"):
        cut(plain("a" * 60 + "b"), ("history", "(a|aa)+$"))
    assert time.monotonic() - began < 30


RULE = "[[prompt]]\nrole = 'history'\npattern = 'x'\n"
BAD_RULES = {
    "no TOML": (
        "[[prompt]]\nrole = \n",
        "rules.toml: this rules file is not valid TOML; got Invalid value (at line 2, column 8); "
        "put patterns between ''' and ''', where backslashes need no doubling.",
    ),
    "unknown table": (
        RULE + "[[promt]]\nrole = 'a'\n",
        "rules.toml: unknown table 'promt'; did you mean 'prompt'? there is: prompt, target.",
    ),
    "one table": (
        "[target]\nrole = 'a'\n",
        "rules.toml: 'target' is no list of rules; begin each rule with [[target]].",
    ),
    "no rules": (
        "prompt = []\n",
        "rules.toml: no rules in this file; expected [[prompt]] or [[target]].",
    ),
    "no table": (
        "prompt = [1]\n",
        "rules.toml, [[prompt]] 1: this is no rule; got 1, expected a table.",
    ),
    "unknown key": (
        RULE + RULE + "patern = 'x'\n",
        "rules.toml, [[prompt]] 2: unknown key 'patern'; did you mean 'pattern'? there is: "
        "pattern, repeat, role.",
    ),
    "no role": (
        "[[prompt]]\npattern = 'x'\n",
        "rules.toml, [[prompt]] 1: this rule has no role; got null, expected role = '…'.",
    ),
    "repeat of another type": (
        RULE + "repeat = 'yes'\n",
        "rules.toml, [[prompt]] 1: 'repeat' is neither true nor false; got yes, expected "
        "repeat = true or repeat = false.",
    ),
    "a counter that counts to one": (
        "[[prompt]]\nrole = 'step_{n}'\npattern = 'x'\n",
        "rules.toml, [[prompt]] 1: the role counts matches with {n}, but the rule takes only one; "
        "got step_{n}; add repeat = true.",
    ),
    "no regular expression": (
        "[[target]]\nrole = 'a'\npattern = '[Round (1'\n",
        "rules.toml, [[target]] 1 (role 'a'): this pattern is no regular expression (unterminated "
        "character set at position 9); got [Round (1; escape characters meant as they are, such as "
        "\\[.",
    ),
}


@pytest.mark.parametrize("name", BAD_RULES)
def test_a_bad_rules_file_is_named(tmp_path, name):
    text, message = BAD_RULES[name]
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(RecordError) as caught:
        read_rules(path)
    assert str(caught.value) == message


def test_a_rules_file_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "rules.toml"
    with pytest.raises(RecordError, match="cannot read this rules file"):
        read_rules(path)
    path.write_bytes("# 项".encode("gb18030"))
    with pytest.raises(RecordError, match="this rules file is not UTF-8"):
        read_rules(path)


def test_the_alpaca_example_names_every_part():
    made = read_rules(EXAMPLES / "alpaca.toml")
    before = list(read_records(EXAMPLES / "alpaca.csv"))
    direct, stepwise, *_ = after = list(apply_rules(before, made))
    assert pairs(direct.prompt)[1::2] == [
        ("instruction", "Continue the sequence with the next 3 numbers. Write only the answer."),
        ("history", "2 5 8 11 14 17 20 23 26 29 32 35"),
    ]
    assert pairs(direct.prompt)[-1] == ("template", "\n\n### Response:\n")
    assert pairs(direct.target) == [("answer", "38 41 44")]
    assert pairs(stepwise.target)[::2] == [
        ("step_1", "35 + 3 = 38"), ("step_2", "38 + 3 = 41"), ("step_3", "41 + 3 = 44"),
        ("answer", "38 41 44"),
    ]  # fmt: skip
    texts = [[r.prompt_text + r.target_text for r in records] for records in (before, after)]
    assert texts[0] == texts[1]


def test_the_chatglm_example_tells_rounds_from_the_problem():
    made = read_rules(EXAMPLES / "chatglm.toml")
    before = list(read_records(EXAMPLES / "chatglm.jsonl"))
    _, coarse, *_ = after = list(apply_rules(before, made))
    assert pairs(coarse.prompt) == [
        ("template", "[Round 1]\n\n问："),
        ("demo_1.question", "先求每3项之和，再写出数列的后3项：2 5 8 11 14 17"),
        ("template", "\n\n答："),
        ("demo_1.answer", "69\n20 23 26"),
        ("template", "\n\n[Round 2]\n\n问："),
        ("instruction", "先求每3项之和，再写出数列的后3项："),
        ("history", "7 9 11 13 15 17"),
        ("template", "\n\n答："),
    ]
    assert pairs(coarse.target) == [
        ("coarse_answer", "63"), ("template", "\n"), ("answer", "19 21 23"),
    ]  # fmt: skip
    texts = [[r.prompt_text + r.target_text for r in records] for records in (before, after)]
    assert texts[0] == texts[1]


def test_rounds_may_be_as_many_as_they_like():
    rounds = "".join(f"[Round {n}]\n\n问：题{n}：{n}\n\n答：{n}\n\n" for n in range(1, 12))
    record = plain(rounds + "[Round 12]\n\n问：题：9 9\n\n答：", "1\n2")
    (after,) = apply_rules([record], parse_rules((EXAMPLES / "chatglm.toml").read_text("utf-8")))
    assert [s.text for s in after.prompt if s.role == "demo_11.answer"] == ["11"]
    assert [s.text for s in after.prompt if s.role == "history"] == ["9 9"]
