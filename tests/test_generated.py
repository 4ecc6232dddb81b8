"""What a model wrote, in tokens: its text, whose characters a token is, which role it plays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from attnprobe.encode import encode, encode_generated, encode_prompt, text_with_offsets
from attnprobe.errors import EncodeError
from attnprobe.tasks.styles import STYLES, Direct, TextSpan
from attnprobe.types import Record, Segment
from tests.tiny import make_record, make_tokenizer

TOKENIZER = make_tokenizer()
BOS, EOS = 0, 1
NEWLINE = TOKENIZER.encode("\n", add_special_tokens=False)


def ids_of(text, tokenizer=TOKENIZER):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def make_sentencepiece():
    """Words begin with `▁`, unknown characters fall back to bytes, a leading space is dropped."""
    characters = ["▁", "▁8", *"0123456789aBx\n。", "▁a"]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    merges = [("▁", "8"), ("▁", "a")]
    core = Tokenizer(
        BPE({w: i for i, w in enumerate(words)}, merges, byte_fallback=True, unk_token="<unk>")
    )
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(content=" ", left=1, right=0)]
    )  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


SENTENCEPIECE = make_sentencepiece()


def written(ids, record=None, tokenizer=TOKENIZER):
    return encode_generated(
        encode_prompt(record or make_record(), tokenizer), ids, tokenizer, stops=(EOS,)
    )


def roles(encoding):
    spans = [span for span in encoding.spans if span.start >= encoding.n_prompt]
    return [(span.role, "".join(encoding.texts[span.start : span.stop])) for span in spans]


@pytest.mark.parametrize("tokenizer", [TOKENIZER, SENTENCEPIECE], ids=["bytes", "sentencepiece"])
@settings(max_examples=60, deadline=None)
@given(text=st.text("01 8a。求龘😀\né", max_size=12))
def test_text_comes_back_from_its_tokens_and_every_character_is_some_tokens(tokenizer, text):
    ids = ids_of(text, tokenizer)
    back, offsets = text_with_offsets(ids_of("8", tokenizer), ids, tokenizer)
    assert back == text
    assert len(offsets) == len(ids)
    assert {c for start, stop in offsets for c in range(start, stop)} == set(range(len(text)))
    assert offsets == sorted(offsets)


def test_a_replacement_character_that_was_written_is_one_character():
    ids = ids_of("a\N{REPLACEMENT CHARACTER}b")
    text, offsets = text_with_offsets(NEWLINE, ids, TOKENIZER)
    assert (text, offsets) == ("a\N{REPLACEMENT CHARACTER}b", [(0, 1), *[(1, 2)] * 3, (2, 3)])


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(2, 260), max_size=12))
def test_any_bytes_whatever_have_a_text_and_places_in_it(ids):
    text, offsets = text_with_offsets(NEWLINE, ids, TOKENIZER)
    assert text == TOKENIZER.decode(ids)
    assert all(0 <= start < stop <= len(text) for start, stop in offsets)


@pytest.mark.parametrize("tokenizer", [TOKENIZER, SENTENCEPIECE], ids=["bytes", "sentencepiece"])
def test_bytes_of_one_character_share_its_place(tokenizer):
    ids = ids_of("a龘8", tokenizer)
    text, offsets = text_with_offsets(ids_of("8", tokenizer), ids, tokenizer)
    assert (text, offsets) == ("a龘8", [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)])


@pytest.mark.parametrize("tokenizer", [TOKENIZER, SENTENCEPIECE], ids=["bytes", "sentencepiece"])
@pytest.mark.parametrize("cut", [1, 2])
def test_a_character_cut_off_at_the_end_spoils_none_before_it(tokenizer, cut):
    ids = ids_of("求求", tokenizer)[: 3 + cut]
    text, offsets = text_with_offsets(ids_of("8", tokenizer), ids, tokenizer)
    assert text.rstrip("\N{REPLACEMENT CHARACTER}") == "求"
    assert offsets[:3] == [(0, 1)] * 3
    assert all(1 <= start < stop <= len(text) for start, stop in offsets[3:])


def test_a_leading_space_is_kept_where_the_tokenizer_would_drop_it():
    ids = ids_of(" 80 8", SENTENCEPIECE)
    assert SENTENCEPIECE.decode(ids) == "80 8"
    text, offsets = text_with_offsets(ids_of("x", SENTENCEPIECE), ids, SENTENCEPIECE)
    assert (text, offsets) == (" 80 8", [(0, 2), (2, 3), (3, 5)])


def test_roles_are_those_of_the_target_where_the_model_writes_the_target():
    for style in ("coarse", "stepwise"):
        record = make_record(style=style)
        if style == "stepwise":
            record = Record(**{f: getattr(record, f) for f in ("id", "item", "style", "prompt")},
                            target=(Segment("step_1", "1 + 2 = 3"), record.target[1]),
                            meta={"horizon": 3})  # fmt: skip
        gold = encode(record, TOKENIZER)
        encoding = written([*gold.ids[gold.n_prompt :].tolist(), EOS], record)
        assert encoding.generated == record.target_text
        assert encoding.spans[:-1] == gold.spans
        assert encoding.texts[:-1] == gold.texts
        assert (encoding.spans[-1].role, encoding.texts[-1]) == ("special", "</s>")


def test_what_the_parser_passes_over_is_unparsed_and_whitespace_between_is_template():
    encoding = written(ids_of("\nSure! 求\n51\n80 93 107 \nBye"))
    assert roles(encoding) == [
        ("template", "\n"), ("unparsed", "Sure! 求[1/3]求[2/3]求[3/3]"), ("template", "\n"),
        ("coarse_answer", "51"), ("template", "\n"), ("answer", "80 93 107"), ("template", " \n"),
        ("unparsed", "Bye"),
    ]  # fmt: skip


def test_a_token_that_begins_with_whitespace_belongs_to_what_it_goes_on_to():
    record = Record("a", "a", "direct", (Segment("history", "1 2"),), meta={"horizon": 1})
    encoding = written(ids_of("A: 1"), record)  # ` 1` is one token
    assert encoding.generated == "A: 1"
    assert roles(encoding)[-1] == ("unparsed", "A: 1")
    encoding = written(ids_of("Answer: 1"), record)
    assert roles(encoding) == [("unparsed", "Answer:"), ("answer", " 1")]


def test_special_tokens_keep_their_role_and_leave_no_text_at_the_end():
    encoding = written([*ids_of("51"), BOS, *ids_of("80"), BOS, EOS])
    assert encoding.generated == "51<s>80"
    assert [role for role, _ in roles(encoding)] == ["unparsed", "special", "unparsed", "special"]
    bos = [i for i, token in enumerate(encoding.ids) if token == BOS]
    assert set(bos) | {0, 1, 2, 3} == set(encoding.sinks)


def test_eos_at_once_is_one_step_without_text():
    encoding = written([EOS])
    assert (encoding.generated, encoding.n_steps, roles(encoding)) == ("", 1, [("special", "</s>")])


def test_half_a_character_is_all_there_is():
    encoding = written(ids_of("求")[:2])
    assert encoding.generated == "\N{REPLACEMENT CHARACTER}"
    assert encoding.texts[-2:] == (
        "\N{REPLACEMENT CHARACTER}[1/2]",
        "\N{REPLACEMENT CHARACTER}[2/2]",
    )
    assert {role for role, _ in roles(encoding)} == {"unparsed"}


@settings(max_examples=100, deadline=None)
@given(
    ids=st.lists(st.integers(0, 260), min_size=1, max_size=24),
    style=st.sampled_from([*STYLES, "nobody's"]),
)
def test_spans_partition_whatever_was_written(ids, style):
    encoding = written(ids, make_record(style=style))
    edges = [span.start for span in encoding.spans] + [encoding.n_tokens]
    assert edges[0] == 0
    assert edges[1:] == [span.stop for span in encoding.spans]
    assert encoding.n_prompt in edges
    assert encoding.ids[encoding.n_prompt :].tolist() == ids
    assert len(encoding.texts) == encoding.n_tokens


def test_a_parser_of_the_users_may_leave_gaps_and_point_outside(monkeypatch):
    class Odd(Direct):
        def parse(self, text, record):
            return (TextSpan(-3, 1, "first"), TextSpan(4, 99, "last"))

    monkeypatch.setitem(STYLES, "odd", Odd())
    encoding = written(ids_of("ab c d"), make_record(style="odd"))
    assert roles(encoding) == [
        ("first", "a"), ("unparsed", "b"), ("template", " "), ("unparsed", "c"), ("last", " d")
    ]  # fmt: skip


def test_a_prompt_alone_keeps_its_record_and_needs_room():
    record = make_record()
    prompt, whole = encode_prompt(record, TOKENIZER), encode(record, TOKENIZER)
    assert prompt.record == record
    assert prompt.n_steps == 0
    np.testing.assert_array_equal(prompt.ids, whole.ids[: whole.n_prompt])
    assert prompt.spans == tuple(span for span in whole.spans if span.stop <= whole.n_prompt)
    n = prompt.n_tokens
    assert encode_prompt(record, TOKENIZER, max_tokens=n + 1).n_tokens == n
    with pytest.raises(EncodeError) as caught:
        encode_prompt(record, TOKENIZER, max_tokens=n)
    assert str(caught.value) == (
        "record (id 'item-000/coarse'): the prompt fills the model's context, so that nothing can "
        f"be generated; got {n} tokens, expected at most {n - 1}; shorten the prompt."
    )


def test_the_digest_says_what_went_in_and_not_what_came_out():
    prompt = encode_prompt(make_record(), TOKENIZER)
    assert written([EOS]).digest == written(ids_of("80 93")).digest == prompt.digest
    assert prompt.digest != encode(make_record(), TOKENIZER).digest
    changed = Record(**{f: getattr(make_record(), f) for f in ("id", "item", "style", "prompt")})
    assert encode_prompt(changed, TOKENIZER).digest != prompt.digest
