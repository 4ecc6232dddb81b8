"""Spans over tokens: every token in one span, straddlers with their first character."""

import numpy as np
import pytest

from attnprobe.encode import encode
from attnprobe.errors import EncodeError
from attnprobe.types import Record, Segment, Span, key_groups, step_query
from tests.tiny import make_record, make_tokenizer


def record_of(*prompt, target=(("answer", "23"),), joiner="\n"):
    return Record(
        id="a", item="a", style="s",
        prompt=tuple(Segment(*part) for part in prompt),
        target=tuple(Segment(*part) for part in target),
        joiner=joiner, where="data.jsonl:7",
    )  # fmt: skip


def as_tuples(encoding):
    return [(span.role, "".join(encoding.texts[span.start : span.stop])) for span in encoding.spans]


def test_spans_partition_the_tokens_and_name_their_roles(tokenizer):
    encoding = encode(record_of(("instruction", "Go:"), ("history", "5 7")), tokenizer)
    assert as_tuples(encoding) == [
        ("special", "<s>"), ("instruction", "Go:"), ("template", "\n"), ("history", "5 7"),
        ("template", "\n"), ("answer", "23"),
    ]  # fmt: skip
    assert encoding.spans[0].start == 0
    assert all(a.stop == b.start for a, b in zip(encoding.spans, encoding.spans[1:], strict=False))
    assert encoding.spans[-1].stop == encoding.n_tokens
    assert encoding.n_prompt == encoding.spans[-1].start
    assert encoding.sinks == (0, 1, 2, 3)


@pytest.mark.parametrize("number", range(5))
def test_tokens_of_random_records_lie_in_exactly_one_span(tokenizer, number):
    encoding = encode(make_record(number, length=3 + number), tokenizer)
    covered = np.zeros(encoding.n_tokens, int)
    for span in encoding.spans:
        covered[span.start : span.stop] += 1
    assert (covered == 1).all()
    assert encoding.n_steps == len(encoding.step_queries) > 0


def test_a_straddling_token_belongs_to_the_segment_of_its_first_character(tokenizer):
    # ".\n" is one token: its first character is the instruction's, its second the joiner's
    encoding = encode(record_of(("instruction", "Go."), ("history", "5")), tokenizer)
    assert as_tuples(encoding)[1:4] == [
        ("instruction", "Go.\n"), ("history", "5"), ("template", "\n")
    ]  # fmt: skip


def test_a_token_that_would_straddle_prompt_and_target_is_split_as_in_generation(tokenizer):
    # "23" is one token, but the model that generates after "2" never sees it
    encoding = encode(record_of(("history", "52"), target=[("answer", "3")], joiner=""), tokenizer)
    assert encoding.texts == ("<s>", "5", "2", "3")
    assert encoding.n_prompt == 3
    assert as_tuples(encoding)[-1] == ("answer", "3")


def test_the_prompt_is_tokenized_as_for_generation(tokenizer):
    record = make_record(1)
    encoding = encode(record, tokenizer)
    alone = tokenizer(record.prompt_text)["input_ids"]
    assert encoding.ids[: encoding.n_prompt].tolist() == alone
    assert tokenizer.decode(encoding.ids[1:]) == record.prompt_text + record.target_text


def test_bytes_of_chinese_characters_are_marked_never_mojibake(tokenizer):
    encoding = encode(record_of(("instruction", "求3"), ("history", "😀 1")), tokenizer)
    assert encoding.texts[1:5] == ("求[1/3]", "求[2/3]", "求[3/3]", "3")
    assert encoding.texts[6:10] == ("😀[1/4]", "😀[2/4]", "😀[3/4]", "😀[4/4]")
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(encoding.texts)
    assert as_tuples(encoding)[1][0] == "instruction"
    assert encoding.spans[1] == Span(1, 5, "instruction")


def test_smollm2_marks_a_space_merged_with_the_first_byte(smollm2):
    encoding = encode(record_of(("instruction", "每3项 龘"), ("history", "2 3")), smollm2.tokenizer)
    assert encoding.texts[:8] == (
        "每[1/2]", "每[2/2]", "3", "项[1/2]", "项[2/2]", " 龘[1/3]", "龘[2/3]", "龘[3/3]"
    )  # fmt: skip


def test_a_replacement_character_in_the_text_itself_stays(tokenizer):
    encoding = encode(record_of(("history", "a\N{REPLACEMENT CHARACTER}b")), tokenizer)
    assert "".join(encoding.texts[1:3]).startswith("a")
    assert encoding.n_tokens == len(encoding.texts)


def test_special_tokens_inside_a_text_get_their_role(tokenizer):
    encoding = encode(record_of(("history", "5<s>7")), tokenizer)
    assert as_tuples(encoding)[1:4] == [("history", "5"), ("special", "<s>"), ("history", "7")]
    assert encoding.sinks == (0, 1, 2, 3)
    later = encode(record_of(("history", "5 6 7 8<s>9")), tokenizer)
    assert later.sinks == (0, 1, 2, 3, later.texts.index("<s>", 1))


def test_a_record_longer_than_the_context_is_refused_with_both_lengths(tokenizer):
    with pytest.raises(EncodeError) as caught:
        encode(record_of(("history", "5 7 9")), tokenizer, max_tokens=6)
    assert str(caught.value) == (
        "data.jsonl:7 (id 'a'): prompt and target are longer than the model's context; got 8 "
        "tokens (7 of them prompt), expected at most 6; shorten the record."
    )


def test_a_segment_swallowed_by_its_neighbour_is_an_error(tokenizer):
    with pytest.raises(EncodeError) as caught:
        encode(record_of(("history", "2"), ("last", "3"), joiner=""), tokenizer)
    assert str(caught.value) == (
        "data.jsonl:7 (id 'a'): segment role 'last' has no token of its own; got '3'; its text was "
        "merged into the token before it; put a space or line break there."
    )


class InPython:
    """A tokenizer that gives no offsets: a token for each character, those it knows."""

    is_fast = False
    all_special_ids, all_special_tokens, bos_token_id = [1], ["<eos>"], None

    def __init__(self, known="0123456789. \n"):
        self.known = ["<unk>", "<eos>", *known]

    def __len__(self):
        return len(self.known)

    def tokenize(self, text):
        return [char if char in self.known else "<unk>" for char in text]

    def convert_tokens_to_ids(self, tokens):
        if isinstance(tokens, list):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        return self.known.index(tokens) if tokens in self.known else 0

    def convert_ids_to_tokens(self, token):
        return self.known[token]

    def build_inputs_with_special_tokens(self, ids):
        ids.append(1)
        return ids

    def decode(self, ids, **_):
        return "".join("?" if token == 0 else self.known[token] for token in ids if token != 1)


def test_offsets_are_found_by_decoding_where_a_tokenizer_gives_none():
    encoding = encode(record_of(("history", "5 7"), ("last", "9.")), InPython())
    assert "".join(encoding.texts) == "5 7\n9.\n<eos>23"
    assert [span.role for span in encoding.spans] == [
        "history", "template", "last", "template", "special", "answer",
    ]  # fmt: skip


def test_a_tokenizer_that_loses_text_is_refused_with_what_it_lost():
    with pytest.raises(EncodeError) as caught:
        encode(record_of(("history", "5 seven")), InPython())
    assert str(caught.value) == (
        "data.jsonl:7 (id 'a'): the tokens of InPython do not give back the text, so that none can "
        "be placed in it; got '?????\\n', expected 'seven\\n'; replace characters that the "
        "tokenizer does not know, or use a fast tokenizer (tokenizer.json)."
    )


def test_a_record_without_target_encodes_its_prompt_alone(tokenizer):
    encoding = encode(record_of(("history", "5 7"), target=()), tokenizer)
    assert (encoding.n_steps, encoding.n_prompt) == (0, encoding.n_tokens)


def test_an_end_of_text_token_added_by_the_tokenizer_is_no_part_of_the_target():
    from tokenizers import processors

    closing = make_tokenizer()
    closing.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    encoding = encode(record_of(("history", "5")), closing)
    assert encoding.texts == ("<s>", "5", "\n", "</s>", "23")
    assert as_tuples(encoding)[-2:] == [("special", "</s>"), ("answer", "23")]


def test_groups_cut_spans_at_sinks_and_partition_them():
    groups = key_groups([Span(0, 3, "special"), Span(3, 9, "history")], (0, 1, 2, 3, 6))
    assert [(g.start, g.stop, g.span, g.is_sink) for g in groups] == [
        (0, 1, 0, True), (1, 2, 0, True), (2, 3, 0, True), (3, 4, 1, True), (4, 6, 1, False),
        (6, 7, 1, True), (7, 9, 1, False),
    ]  # fmt: skip


def test_the_step_is_read_one_row_before_its_token(tokenizer):
    encoding = encode(make_record(), tokenizer)
    assert step_query(encoding.n_prompt, 0) == encoding.n_prompt - 1
    assert list(encoding.step_queries) == list(range(encoding.n_prompt - 1, encoding.n_tokens - 1))


def test_the_digest_tells_encodings_apart(tokenizer):
    one = encode(make_record(1), tokenizer)
    assert one.digest == encode(make_record(1), tokenizer).digest
    assert one.digest != encode(make_record(2), tokenizer).digest
    assert one.digest != encode(make_record(1, style="stepwise"), tokenizer).digest
