"""Letting a model write: whose settings count, where a text ends, what it depends on."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from attnprobe.capturing import CaptureSettings, Decoding, capture, generate, token_limit
from attnprobe.capturing.decoding import _Draw
from attnprobe.encode import encode, encode_prompt
from attnprobe.errors import EncodeError
from attnprobe.models import LoadedModel
from attnprobe.types import Record, Segment
from tests.tiny import make_record, make_tokenizer, tiny_llama

GREEDY = Decoding("greedy")


@pytest.fixture(scope="module")
def loaded():
    return LoadedModel(tiny_llama(), make_tokenizer(), "tiny")


def prompts_of(loaded, n=5):
    return [encode_prompt(make_record(i, length=4 + 3 * i), loaded.tokenizer) for i in range(n)]


def texts_of(loaded, prompts, decoding):
    """New tokens of each prompt, in the order of the prompts."""
    found = {}
    for batch, encodings in generate(loaded, prompts, decoding):
        found |= dict(zip(batch, encodings, strict=True))
    return [found[i].ids[found[i].n_prompt :].tolist() for i in range(len(prompts))]


@torch.inference_mode()
def by_hand(model, prompt, limit):
    """Greedy decoding without cache, batch or library."""
    ids = prompt.ids.tolist()
    while len(ids) < prompt.n_tokens + limit:
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == 1:
            break
    return ids[prompt.n_tokens :]


def test_greedy_is_the_most_probable_token_again_and_again(loaded):
    prompts = prompts_of(loaded)
    expected = [by_hand(loaded.model, p, token_limit(loaded, p, GREEDY)) for p in prompts]
    assert texts_of(loaded, prompts, GREEDY) == expected
    assert texts_of(loaded, prompts, Decoding("greedy", batch_size=1)) == expected


def test_a_batch_that_goes_on_does_not_make_others_longer(loaded):
    short = Record("s", "s", "direct", (Segment("history", "1 2 3"),), (Segment("answer", "4"),))
    prompts = [*prompts_of(loaded), encode_prompt(short, loaded.tokenizer)]
    limits = [token_limit(loaded, prompt, GREEDY) for prompt in prompts]
    assert limits[-1] == 2 * 1 + 16
    texts = texts_of(loaded, prompts, GREEDY)
    for text, limit in zip(texts, limits, strict=True):
        assert len(text) == limit or (text[-1] == 1 and len(text) < limit)
        assert 1 not in text[:-1]


def test_limits_come_from_the_target_the_setting_and_the_context(loaded):
    prompt = prompts_of(loaded, 1)[0]
    n_target = len(loaded.tokenizer(prompt.record.target_text, add_special_tokens=False).input_ids)
    assert token_limit(loaded, prompt, GREEDY) == 2 * n_target + 16
    assert token_limit(loaded, prompt, Decoding("greedy", 7)) == 7
    free = encode_prompt(Record("a", "a", "s", (Segment("q", "1"),)), loaded.tokenizer)
    assert token_limit(loaded, free, GREEDY) == 256
    long = encode_prompt(make_record(length=185), loaded.tokenizer)
    assert token_limit(loaded, long, GREEDY) == 512 - long.n_tokens < 2 * n_target + 16
    full = encode_prompt(make_record(length=200), loaded.tokenizer)
    with pytest.raises(EncodeError, match="the prompt fills the model's context"):
        token_limit(loaded, full, GREEDY)


def test_no_text_of_a_batch_leaves_the_context():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=300, n_positions=96, n_embd=32, n_layer=2, n_head=4, initializer_range=0.4,
        bos_token_id=0, eos_token_id=None,
    )  # fmt: skip
    loaded = LoadedModel(GPT2LMHeadModel(config).eval(), make_tokenizer(), "gpt2")
    prompts = [encode_prompt(make_record(0, "stepwise", k), loaded.tokenizer) for k in (3, 26)]
    texts = texts_of(loaded, prompts, Decoding("greedy", 60))
    assert texts == [by_hand(loaded.model, p, min(60, 96 - p.n_tokens)) for p in prompts]


def test_what_a_checkpoint_recommends_is_set_aside_and_given_back(loaded):
    expected = texts_of(loaded, prompts_of(loaded), GREEDY)
    config = loaded.model.generation_config
    before = config.to_dict()
    try:
        config.update(
            do_sample=True, temperature=0.3, top_k=5, top_p=0.5, repetition_penalty=3.0,
            no_repeat_ngram_size=2, suppress_tokens=[5, 6], max_new_tokens=2, num_beams=3,
        )  # fmt: skip
        spoiled = config.to_dict()
        assert texts_of(loaded, prompts_of(loaded), GREEDY) == expected
        assert loaded.model.generation_config is config
        assert config.to_dict() == spoiled
    finally:
        config.update(**before)


def test_every_eos_of_the_checkpoint_ends_a_text(loaded):
    plain = texts_of(loaded, prompts_of(loaded, 1), GREEDY)[0]
    config = loaded.model.generation_config
    before, config.eos_token_id = config.eos_token_id, [1, plain[3]]
    try:
        ((_, (encoding,)),) = generate(loaded, prompts_of(loaded, 1), GREEDY)
    finally:
        config.eos_token_id = before
    text = encoding.ids[encoding.n_prompt :].tolist()
    assert text == plain[: plain.index(plain[3]) + 1]
    assert encoding.spans[-1].role == "special"


def test_a_sampled_text_depends_on_its_seed_and_id_alone(loaded):
    prompts = prompts_of(loaded)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = texts_of(loaded, prompts, Decoding("sample"))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert texts_of(loaded, prompts[::-1], Decoding("sample", batch_size=1)) == first[::-1]
    assert texts_of(loaded, prompts[2:3], Decoding("sample")) == first[2:3]
    assert texts_of(loaded, prompts, Decoding("sample", seed=1)) != first
    cold = Decoding("sample", temperature=1e-4)
    assert texts_of(loaded, prompts, cold) == texts_of(loaded, prompts, GREEDY)
    assert texts_of(loaded, prompts, Decoding("sample", top_p=1e-6)) == texts_of(
        loaded, prompts, GREEDY
    )


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.7)])
def test_draws_have_the_probabilities_asked_for(temperature, top_p):
    logits = torch.tensor([[2.0, 1.0, 0.5, -1.0]])
    expected = (logits.double() / temperature).softmax(-1)[0].numpy()
    if top_p < 1:
        kept = np.cumsum(expected) - expected < top_p
        expected = np.where(kept, expected, 0) / expected[kept].sum()
    draw = _Draw(Decoding("sample", temperature=temperature, top_p=top_p), "a")
    counts = np.zeros(4)
    for _ in range(4000):
        counts[int(draw(torch.zeros(1, 1, dtype=torch.long), logits).argmax())] += 1
    assert not counts[expected == 0].any()
    there = expected > 0
    assert chisquare(counts[there], 4000 * expected[there]).pvalue > 0.001


@pytest.mark.parametrize("how", ["greedy", "sample"])
def test_what_was_written_is_captured_like_a_target(loaded, how):
    prompts, sink, done = prompts_of(loaded), [], []
    decoding = Decoding(how, batch_size=2)
    settings = CaptureSettings(("rows", "steps"), batch_size=3, decoding=decoding)
    capture(loaded, prompts, settings, sink, done.append)
    assert [c.encoding.record.id for c in sink] == [p.record.id for p in prompts]
    assert sum(done) == len(prompts)
    texts = texts_of(loaded, prompts, decoding)
    for one, text in zip(sink, texts, strict=True):
        assert one.encoding.ids[one.encoding.n_prompt :].tolist() == text
        assert one.rows.queries.tolist() == list(one.encoding.step_queries)
        assert len(one.log_probs) == len(text) >= 1
        if how == "greedy":
            assert one.predicted.tolist() == text


def test_prompts_are_for_writing_and_targets_for_showing(loaded):
    gold = encode(make_record(), loaded.tokenizer)
    with pytest.raises(EncodeError, match="decoding needs a prompt alone"):
        capture(loaded, [gold], CaptureSettings(decoding=GREEDY), [])
    with pytest.raises(EncodeError, match="teacher forcing needs a target"):
        capture(loaded, prompts_of(loaded, 1), CaptureSettings(), [])
