"""Ablation: heads' outputs replaced, exactly, on both routes."""

import pytest
import torch

from attnprobe.attention import ablate_heads, head_outputs, knockout, record
from attnprobe.errors import AttnprobeError
from tests import handmade
from tests.handmade import HEAD_SIZE, MIXES, N_HEADS, HandMade
from tests.test_knockout import ids_of, message, same
from tests.tiny import tiny_llama

EVERY = pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
HEADS = [(0, 1), (0, 3), (2, 0)]
TEXTS = list(ids_of(1, 28)[0].split((9, 12, 7)))


@torch.no_grad()
def reference(model, ids, heads, values, queries):
    """Logits and heads' own outputs of a hand-made model in float64, heads replaced by hand."""
    seen = handmade.visible(ids, None)
    x, own = model.embed(ids), []
    for number, block in enumerate(model.blocks):
        query, key, value = block.attn.qkv(x).unflatten(-1, (3, N_HEADS, HEAD_SIZE)).unbind(2)
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / HEAD_SIZE**0.5
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", weights, value)
        own.append(mixed)
        mixed = mixed.clone()
        for layer, head in heads:
            if layer == number:
                mixed[:, queries, head] = values(layer, head).double()
        x = x + block.attn.out(mixed.flatten(2))
        shares = block.router(x).softmax(-1)
        made = torch.stack([expert(x) for expert in block.experts], -1)
        x = x + 0.1 * (made * shares[..., None, :]).sum(-1)
    logits = model.head(x)
    return logits, own


@EVERY
def test_what_heads_give_is_collected_exactly(mix):
    model = HandMade(mix).double()
    found = head_outputs(model, TEXTS, n_samples=100)
    own = [reference(model, text[None], [], None, slice(0))[1] for text in TEXTS]
    for layer in range(3):
        every = torch.cat([text[layer][0] for text in own])
        same(found.mean[layer], every.mean(0))
        same(found.samples[layer], every)
    assert found.n_tokens == 28
    some = head_outputs(model, TEXTS, n_samples=5, seed=1)
    assert all(len(samples) == 5 for samples in some.samples.values())
    where = [(found.samples[0] == one).all(-1).all(-1).nonzero().item() for one in some.samples[0]]
    again = [(found.samples[2] == one).all(-1).all(-1).nonzero().item() for one in some.samples[2]]
    assert where == again
    assert len(set(where)) == 5


@EVERY
@pytest.mark.parametrize("mode", ["mean", "zero"])
@torch.no_grad()
def test_a_handmade_model_is_ablated_exactly(mix, mode):
    model, ids = HandMade(mix).double(), ids_of(2)
    found = head_outputs(model, TEXTS)
    values = (
        (lambda layer, head: torch.zeros(HEAD_SIZE))
        if mode == "zero"
        else lambda layer, head: found.mean[layer][head]
    )
    plain = model(ids)
    for example in (0, 1):
        own = ids[example : example + 1]
        expected, _ = reference(model, own, HEADS, values, slice(3, 9))
        with ablate_heads(model, HEADS, found, mode=mode, queries=(3, 9)), record(model) as got:
            same(model(own), expected)
        with record(model) as outside, ablate_heads(model, HEADS, found, mode=mode, queries=(3, 9)):
            same(model(own), expected)
        with ablate_heads(model, HEADS, found, mode=mode, queries=(3, 9)):
            same(model(own), expected)
        for layer in range(3):
            same(got.full[layer], outside.full[layer])
        assert got.certificate.worst[2] < 1e-4
    assert torch.equal(model(ids), plain)
    with ablate_heads(model, []):
        assert torch.equal(model(ids), plain)


@pytest.mark.parametrize("base", ["sdpa", "eager"])
@torch.no_grad()
def test_a_model_of_transformers_is_ablated_before_its_output_projection(base):
    model, ids = tiny_llama(), ids_of(2)
    model.set_attn_implementation(base)
    found = head_outputs(model, TEXTS)
    plain = model(ids).logits

    def replace(module, args):
        mixed = args[0].clone()
        mixed[..., 8:16] = found.mean[1][1]
        return (mixed, *args[1:])

    hook = model.model.layers[1].self_attn.o_proj.register_forward_pre_hook(replace)
    expected = model(ids).logits
    hook.remove()
    with ablate_heads(model, [(1, 1)], found):
        same(model(ids).logits, expected)
    with ablate_heads(model, [(1, 1)], found), record(model) as recording:
        same(model(ids).logits, expected)
    assert recording.certificate.route == "interface"
    with record(model), ablate_heads(model, [(1, 1)], found):
        same(model(ids).logits, expected)
    assert torch.equal(model(ids).logits, plain)
    assert model.config._attn_implementation == base


@pytest.mark.parametrize("make", [tiny_llama, lambda: HandMade(handmade.plain)])
@torch.no_grad()
def test_resampling_is_seeded_and_takes_what_was_seen(make):
    model, ids = make(), ids_of(2)
    found = head_outputs(model, TEXTS, n_samples=20)

    def run(seed):
        with ablate_heads(model, HEADS, found, mode="resample", seed=seed):
            out = model(ids)
        return getattr(out, "logits", out)

    assert torch.equal(run(1), run(1))
    assert not torch.allclose(run(1), run(2))


@torch.no_grad()
def test_resampling_while_decoding_draws_what_one_pass_draws():
    model, ids = tiny_llama(), ids_of(2, 8)
    found = head_outputs(model, TEXTS)
    with ablate_heads(model, HEADS, found, mode="resample"):
        texts = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
    with ablate_heads(model, HEADS, found, mode="resample"):
        logits = model(texts[:, :-1]).logits
    assert torch.equal(logits[:, 7:].argmax(-1), texts[:, 8:])


@torch.no_grad()
def test_ablation_and_knockout_add_up():
    model, ids = HandMade(handmade.fused_kernel).double(), ids_of()
    other = HandMade(handmade.plain).double()
    edges = [(None, None, (5, None), (1, 3))]
    for one in (model, other):
        with knockout(one, edges), ablate_heads(one, HEADS, mode="zero"), record(one):
            one_way = one(ids)
        with ablate_heads(one, HEADS, mode="zero"), knockout(one, edges):
            same(one(ids), one_way)
    same(model(ids), other(ids))


def test_gradients_flow_past_an_ablation():
    for model in (HandMade(handmade.plain), HandMade(handmade.fused_kernel)):
        ids = ids_of()
        with ablate_heads(model, HEADS, mode="zero"):
            model(ids)[0, -1].sum().backward()
        assert model.embed.weight.grad.isfinite().all()


def test_a_model_leaves_as_it_came_after_an_error():
    model, ids = tiny_llama(), ids_of()
    plain = model(ids).logits
    with pytest.raises(RuntimeError, match="mine"), ablate_heads(model, HEADS, mode="zero"):
        raise RuntimeError("mine")
    assert torch.equal(model(ids).logits, plain)


@torch.no_grad()
def test_errors_say_what_is_missing():
    model, ids = tiny_llama(), ids_of()
    found = head_outputs(model, TEXTS, layers=[0])

    def told(heads, *args, **settings):
        def run():
            with ablate_heads(model, heads, *args, **settings):
                model(ids)

        return message(AttnprobeError, run)

    assert told(HEADS, mode="means") == (
        "mode: unknown kind of ablation; got means; did you mean 'mean'? there is: mean, resample, "
        "zero."
    )
    assert told(HEADS) == (
        "ablate_heads: ablation by 'mean' needs to know what the heads give usually; pass "
        "reference=head_outputs(model, texts)."
    )
    assert told(HEADS, found) == (
        "ablate_heads: the reference does not hold this layer; got 2, expected one of 0; make it "
        "with head_outputs(model, texts, layers=None)."
    )
    assert told([(0, 4)], found) == "layer 0: the model has no such head; got 4, expected 0 to 3."
    assert told([(5, 0)], mode="zero") == (
        "LlamaForCausalLM: the model has no attention in this layer; got 5, expected one of 0, 1, "
        "2."
    )
    assert told([(0, 0)], mode="zero", queries=(2, 2)).startswith(
        "ablate_heads: the queries are no range; got 2 to 2"
    )
    assert told([(0, 0)], mode="zero", queries=(4, 30)) == (
        "example 0: the queries to ablate lie outside the text; got 4 to 30, expected [start, "
        "stop) within 0 to 11."
    )
    assert message(AttnprobeError, lambda: head_outputs(model, [])) == (
        "head_outputs: there are no reference texts; pass token ids of some records, such as "
        "[encoding.ids, …]."
    )
