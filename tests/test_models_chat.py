"""Chat templates: the prompt is what a user says, the target answers, and spans stay exact."""

import datetime

import pytest

from attnprobe.encode import encode, encode_prompt
from attnprobe.errors import EncodeError
from attnprobe.types import Record, Segment
from tests.model_kinds import CHATML
from tests.test_encode import as_tuples, record_of
from tests.tiny import make_record, make_tokenizer

LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} </s>{% endif %}{% endfor %}"
)
THINKING = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}<think></think>{% endif %}"
    "{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
OPEN_THOUGHT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>{% endif %}"
)
RECORD = record_of(("instruction", "Go:"), ("history", "5 7"))


def with_template(template):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def chat(template, record=RECORD, **options):
    return encode(record, with_template(template), chat=True, **options)


def fault(template, record=RECORD):
    with pytest.raises(EncodeError) as caught:
        chat(template, record)
    return str(caught.value)


def test_segments_keep_their_roles_inside_the_template():
    encoding = chat(CHATML)
    assert as_tuples(encoding) == [
        ("template", "<|user|>\n"), ("instruction", "Go:"), ("template", "\n"), ("history", "5 7"),
        ("special", "</s>"), ("template", "\n<|assistant|>\n"), ("answer", "23"),
    ]  # fmt: skip
    assert encoding.n_prompt == encoding.spans[-1].start
    assert encoding.texts[0] == "<"  # the template writes its own BOS, or none


@pytest.mark.parametrize("number", range(5))
def test_tokens_are_those_that_the_tokenizer_makes_of_the_chat(number):
    tokenizer, record = with_template(CHATML), make_record(number, length=3 + number)
    encoding = encode(record, tokenizer, chat=True)
    said = record.joiner.join(segment.text for segment in record.prompt)
    alone = tokenizer.apply_chat_template(
        [{"role": "user", "content": said}], add_generation_prompt=True, return_dict=False
    )
    assert encoding.ids[: encoding.n_prompt].tolist() == alone
    assert tokenizer.decode(encoding.ids[encoding.n_prompt :]) == record.target_text
    assert encode_prompt(record, tokenizer, chat=True).ids.tolist() == alone
    spoken = {span.role: encoding.ids[span.start : span.stop] for span in encoding.spans}
    assert tokenizer.decode(spoken["history"]) == record.prompt[1].text
    assert tokenizer.decode(spoken["answer"]) == "80 93 107"


def test_text_that_occurs_in_the_template_too_is_not_mistaken_for_it():
    template = (
        "Go: 5 7\nGo:{% for m in messages %}|{{ m.role }}: {{ m.content }}|{% endfor %}Go:5 7"
    )
    assert as_tuples(chat(template))[:4] == [
        ("template", "Go: 5 7\nGo:|user: "), ("instruction", "Go:"), ("template", "\n"),
        ("history", "5 7"),
    ]  # fmt: skip


def test_white_space_that_a_template_cuts_off_is_no_ones():
    record = record_of(("instruction", "  Go:"), ("history", "5 7 \n"))
    assert as_tuples(chat(LLAMA2, record)) == [
        ("template", "[INST] "), ("instruction", "Go:"), ("template", "\n"), ("history", "5 7"),
        ("template", " [/INST]"), ("answer", " 23"),
    ]  # fmt: skip


def test_what_a_template_writes_before_the_answer_is_predicted_as_template():
    assert as_tuples(chat(THINKING))[-3:] == [
        ("template", "<assistant>"), ("template", "<think></think>"), ("answer", "23")
    ]  # fmt: skip
    assert as_tuples(chat(OPEN_THOUGHT))[-2:] == [
        ("template", "<assistant><think>"), ("answer", "23")
    ]  # fmt: skip


def test_a_template_that_cannot_ask_gives_the_answers_header_all_the_same():
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}|{% endfor %}"
    encoding = chat(template)
    assert as_tuples(encoding)[-2:] == [("template", "|assistant:"), ("answer", " 23")]
    assert encoding.n_prompt == encoding.spans[-1].start


def test_a_record_without_target_ends_where_the_model_begins():
    encoding = chat(CHATML, record_of(("history", "5 7"), target=()))
    assert as_tuples(encoding)[-1] == ("template", "\n<|assistant|>\n")
    assert encoding.n_steps == 0


def test_the_date_is_the_same_tomorrow():
    template = "{{ strftime_now('%d %b %Y') }}" + CHATML
    assert "".join(chat(template).texts).startswith("26 Jul 2024")
    assert datetime.date.today() > datetime.date(2024, 7, 26)


def test_chinese_in_a_template_stays_readable():
    record = Record(
        "a", "a", "s", (Segment("instruction", "求3项"),), (Segment("answer", "四"),), joiner=""
    )
    encoding = chat("用户：{{ messages[0].content }}\n助手：{% if messages[1] %}"
                    "{{ messages[1].content }}{% endif %}", record)  # fmt: skip
    assert [(s.role, len(s)) for s in encoding.spans] == [
        ("template", 9), ("instruction", 7), ("template", 10), ("answer", 3)
    ]  # fmt: skip
    assert encoding.texts[-1] == "四[3/3]"


def test_templates_that_cannot_be_used():
    assert fault(None) == (
        "data.jsonl:7 (id 'a'): this tokenizer has no chat template; got TokenizersBackend; leave "
        "out --chat, or use the tokenizer of a model made for chats."
    )
    assert fault("{% for m in messages %}{{ m.content | upper }}{% endfor %}").startswith(
        "data.jsonl:7 (id 'a'): the chat template does not show each message once; got 0 times"
    )
    assert fault("{{ messages[0].content }}{{ messages[0].content }}").startswith(
        "data.jsonl:7 (id 'a'): the chat template does not show each message once; got 2 times"
    )
    assert fault("{{ messages[0].content | replace(' ', '_') }}") == (
        "data.jsonl:7 (id 'a'): the chat template changes the text of the prompt; got "
        "'Go:\\n5_7', expected 'Go:\\n5 7'; leave out --chat, or mend the template."
    )
    assert "the chat template cannot be rendered; got Only tools" in fault(
        "{{ raise_exception('Only tools') }}"
    )
    assert "the chat template cannot be rendered" in fault("{{ messages[0].content")


def test_unknown_tokens_are_refused_before_the_model_runs():
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<|plot|>"])
    record = record_of(("history", "5 <|plot|>"))
    assert encode(record, tokenizer, n_ids=262).n_tokens > 3
    with pytest.raises(EncodeError) as caught:
        encode(record, tokenizer, n_ids=261)
    assert str(caught.value) == (
        "data.jsonl:7 (id 'a'): the tokenizer makes a token that the model does not know; got "
        "'<|plot|>' (261), expected ids below 261; use the tokenizer files of the model's own "
        "checkpoint."
    )
