"""Knockout: exact on both routes, seen by recordings, and gone afterwards."""

import pytest
import torch

from attnprobe.attention import Edge, Survey, knockout, record
from attnprobe.errors import AttnprobeError, ModelError, SelectionError
from tests import handmade
from tests.handmade import HEAD_SIZE, MIXES, N_HEADS, N_LAYERS, HandMade
from tests.tiny import tiny_llama

EVERY = pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
FUSED_AXIS = {"fused_axis", "fused_kernel_fused_axis"}
EDGES = [Edge((0, 2), (1, 3), (5, None), (1, 4)), Edge(1, None, (7, 9), (2, 6))]


def ids_of(n_examples=1, length=11, vocabulary=50):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(2, vocabulary, (n_examples, length), generator=generator)


def message(error, action):
    with pytest.raises(error) as caught:
        action()
    return str(caught.value)


def cut_by(edges, length, n_layers=N_LAYERS, n_heads=N_HEADS):
    """What `edges` cut, [layer, head, query, key], written with loops over plain numbers."""
    cut = torch.zeros(n_layers, n_heads, length, length, dtype=torch.bool)
    for layers, heads, (q0, q1), (k0, k1) in edges:
        for layer in range(n_layers):
            for head in range(n_heads):
                in_layers = layers is None or layer in (
                    layers if isinstance(layers, tuple) else (layers,)
                )
                in_heads = heads is None or head in heads
                if in_layers and in_heads:
                    cut[layer, head, q0 : q1 or length, k0 : k1 or length] = True
    return cut


@torch.no_grad()
def reference(model, ids, cut):
    """Logits and weights of a hand-made model in float64 with an explicit mask."""
    model = model.double()
    seen = handmade.visible(ids, None)
    x, weights = model.embed(ids), []
    for number, block in enumerate(model.blocks):
        query, key, value = block.attn.qkv(x).unflatten(-1, (3, N_HEADS, HEAD_SIZE)).unbind(2)
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / HEAD_SIZE**0.5
        weights.append(scores.masked_fill(~seen | cut[number], -torch.inf).softmax(-1))
        mixed = torch.einsum("bhqk,bkhd->bqhd", weights[-1], value).flatten(2)
        x = x + block.attn.out(mixed)
        shares = block.router(x).softmax(-1)
        made = torch.stack([expert(x) for expert in block.experts], -1)
        x = x + 0.1 * (made * shares[..., None, :]).sum(-1)
    logits = model.head(x)
    model.float()
    return logits, weights


def same(found, expected, tolerance=1e-4):
    """Hold against float64: what float32 rounds off grows with the largest value."""
    largest = float(expected.abs().max().clamp(min=1))
    torch.testing.assert_close(found.double(), expected.double(), atol=tolerance * largest, rtol=0)


# --- exact ---------------------------------------------------------------------------------------


@EVERY
@torch.no_grad()
def test_a_handmade_model_is_cut_exactly(mix):
    model, ids = HandMade(mix), ids_of()
    logits, weights = reference(model, ids, cut_by(EDGES, 11))
    with knockout(model, EDGES):
        same(model(ids), logits)
    for first, second in ((knockout, record), (record, knockout)):  # whichever is outside
        edges = {knockout: {"edges": EDGES}, record: {}}
        with first(model, **edges[first]) as one, second(model, **edges[second]) as two:
            same(model(ids), logits)
        recording = two if first is knockout else one
        for layer, expected in enumerate(weights):
            same(recording.full[layer], expected)
        assert recording.certificate.route == "interception"


@EVERY
@torch.no_grad()
def test_knocking_out_nothing_changes_nothing(mix):
    model, ids = HandMade(mix), ids_of()
    plain = model(ids)
    with knockout(model, []):
        assert torch.equal(model(ids), plain)
    with knockout(model, EDGES):
        assert not torch.allclose(model(ids), plain)
    assert torch.equal(model(ids), plain)
    with pytest.raises(RuntimeError, match="mine"), knockout(model, EDGES):
        raise RuntimeError("mine")
    assert torch.equal(model(ids), plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@EVERY
@torch.no_grad()
def test_each_example_of_a_batch_has_edges_of_its_own(mix):
    model, ids = HandMade(mix), ids_of(3)
    own = [[], [Edge(None, None, (4, 8), (1, 3))], [Edge(0, None, (6, None), (2, 5))]]

    def run():
        with knockout(model, per_example=own), record(model) as recording:
            logits = model(ids)
        return logits, recording.full

    if mix.__name__ in FUSED_AXIS:
        assert "examples and heads share an axis" in message(ModelError, run)
        return
    logits, full = run()
    for example, edges in enumerate(own):
        expected, weights = reference(model, ids[example : example + 1], cut_by(edges, 11))
        same(logits[example], expected[0])
        for layer, rows in enumerate(weights):
            same(full[layer][example], rows[0])


@EVERY
@torch.no_grad()
def test_padding_does_not_shift_edges(mix):
    model, ids = HandMade(mix), ids_of(2)
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[1, :3] = 0
    edges = [Edge(None, None, (4, 7), (1, 3))]
    if mix.__name__ in FUSED_AXIS:
        return
    with knockout(model, edges):
        logits = model(ids, mask)
    for example, own in ((0, ids[:1]), (1, ids[1:, 3:])):
        expected, _ = reference(model, own, cut_by(edges, own.shape[1]))
        same(logits[example, -own.shape[1] :], expected[0])


@pytest.mark.parametrize("base", ["sdpa", "eager"])
@pytest.mark.parametrize("route", ["interface", "interception"])
@torch.no_grad()
def test_a_model_of_transformers_is_cut_exactly_on_both_routes(base, route):
    model, ids = tiny_llama(), ids_of(2)
    model.set_attn_implementation(base)
    edges = [Edge(None, None, (6, None), (1, 4)), Edge(None, None, (3, 5), (2, 3))]
    allowed = torch.ones(11, 11).tril().bool() & ~cut_by(edges, 11)[0, 0]
    mask = torch.zeros(1, 1, 11, 11, dtype=torch.float64).masked_fill_(~allowed, -torch.inf)
    exact = tiny_llama().double()
    exact.set_attn_implementation("eager")
    expected = exact(ids, attention_mask=mask.expand(2, 1, -1, -1)).logits
    plain = model(ids).logits
    survey = Survey(model, route)
    with knockout(model, edges), record(model, survey=survey) as recording:
        same(model(ids).logits, expected, 1e-4)
    assert recording.certificate.route == route
    assert recording.full[2][:, :, ~allowed].abs().max() == 0
    with record(model, survey=survey) as recording, knockout(model, edges):
        same(model(ids).logits, expected, 1e-4)
    assert recording.full[2][:, :, ~allowed].abs().max() == 0
    with knockout(model, edges):
        same(model(ids).logits, expected, 1e-4)
        assert model.config._attn_implementation != base
    assert model.config._attn_implementation == base
    assert torch.equal(model(ids).logits, plain)


@torch.no_grad()
def test_heads_and_layers_are_cut_alone():
    model, ids = tiny_llama(), ids_of()
    edges = [Edge(1, (0, 3), (4, None), (0, 2))]
    with record(model) as before:
        model(ids)
    with knockout(model, edges), record(model) as after:
        model(ids)
    cut = cut_by(edges, 11)
    assert torch.equal(after.full[0], before.full[0])
    kept = before.full[1].masked_fill(cut[1], 0)
    same(after.full[1], kept / kept.sum(-1, keepdim=True))
    assert not torch.allclose(after.full[2], before.full[2])


@pytest.mark.parametrize("base", ["sdpa", "eager"])
@torch.no_grad()
def test_generation_is_cut_as_one_pass_over_the_finished_text(base):
    model, ids = tiny_llama(), ids_of(2, 8)
    model.set_attn_implementation(base)
    mask = torch.ones_like(ids)
    edges = [Edge(None, (0, 2), (7, None), (2, 5))]
    with knockout(model, edges), record(model) as written:
        texts = model.generate(
            ids, attention_mask=mask, max_new_tokens=5, do_sample=False, pad_token_id=0
        )
    with knockout(model, edges), record(model) as once:
        logits = model(texts[:, :-1]).logits
    for layer in range(3):
        same(written.full[layer], once.full[layer])
    assert torch.equal(logits[:, 7:].argmax(-1), texts[:, 8:])


@torch.no_grad()
def test_knockouts_add_up():
    model, ids = tiny_llama(), ids_of()
    first, second = Edge(0, None, (4, None), (1, 3)), Edge((0, 1), 2, (6, 9), (3, 5))
    with knockout(model, [first, second]):
        together = model(ids).logits
    with knockout(model, [first]), knockout(model, [second]):
        same(model(ids).logits, together)
    handmade_model = HandMade(handmade.plain)
    with knockout(handmade_model, [first, second]):
        together = handmade_model(ids)
    with knockout(handmade_model, [first]), knockout(handmade_model, [second]):
        same(handmade_model(ids), together)


def test_gradients_flow_past_a_knockout():
    model, ids = tiny_llama(), ids_of()
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    with knockout(model, [Edge(None, None, (10, 11), (3, 5))]):
        model(inputs_embeds=embedded).logits[0, -1].sum().backward()
    assert embedded.grad.isfinite().all()


def test_planted_copy_needs_its_edge():
    """A layer that copies what it attends to: with the edge cut, nothing is left to copy."""
    model, ids = HandMade(handmade.plain), ids_of()
    with torch.no_grad():
        plain = model(ids)
        with knockout(model, [Edge(None, None, (10, 11), (0, 10))]):
            cut = model(ids)
        alone = reference(model, ids, cut_by([Edge(None, None, (10, 11), (0, 10))], 11))[0]
    assert torch.equal(cut[:, :10], plain[:, :10])
    same(cut, alone)


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny_llama, lambda: HandMade(handmade.plain)])
@torch.no_grad()
def test_errors_name_what_is_wrong_and_leave_the_model_alone(make):
    model, ids = make(), ids_of()
    before = model(ids)
    plain = getattr(before, "logits", before)

    def told(*edges, inputs=ids):
        def run():
            with knockout(model, edges):
                model(inputs)

        return message(AttnprobeError, run)

    name = type(model).__name__
    assert told(Edge(1, 2, (3, 4), (0, 4))) == (
        "layer 1, head 2, example 0, query 3: a row would be left without any key to look at; got "
        "every key that it can see is knocked out; leave it a key, such as the first token or the "
        "query itself."
    )
    assert told(Edge(0, None, (3, 4), (0, None))).startswith(
        "layer 0, every head, example 0, query 3: a row would be left without any key"
    )
    assert told(Edge(7, None, (3, 4), (0, 2))) == (
        f"{name}: the model has no attention in this layer; got 7, expected one of 0, 1, 2."
    )
    assert told(Edge(0, 9, (3, 4), (0, 2))) == (
        "knockout: the model has no such head; got 9, expected 0 to 3."
    )
    assert told(Edge(0, None, (3, 12), (0, 2))) == (
        "example 0: the queries of an edge lie outside the text; got 3 to 12, expected [start, "
        "stop) within 0 to 11."
    )
    assert told(Edge(0, None, (3, 4), (11, None))).startswith(
        "example 0: the keys of an edge lie outside the text; got 11 to None"
    )
    assert told(Edge(0, None, (3, 3), (0, 2))) == (
        "knockout: the queries of an edge are no range; got 3 to 3, expected [start, stop) with "
        "0 ≤ start < stop, or a stop of None."
    )
    assert told(Edge((), None, (3, 4), (0, 2))) == (
        "knockout: the layers of an edge are none; got (), expected numbers from 0 on, or None "
        "for all."
    )
    after = model(ids)
    assert torch.equal(getattr(after, "logits", after), plain)


@torch.no_grad()
def test_edges_per_example_must_fit_the_batch():
    model = tiny_llama()

    def run():
        with knockout(model, per_example=[[Edge(0, None, (3, 4), (0, 2))]] * 3):
            model(ids_of(2))

    assert message(SelectionError, run) == (
        "knockout: edges are given per example; got 3 of them, expected 2, as many as the batch "
        "has examples."
    )


@torch.no_grad()
def test_a_cache_from_outside_is_refused():
    model, ids = tiny_llama(), ids_of()
    cache = model(ids[:, :5], use_cache=True).past_key_values

    def run():
        with knockout(model, [Edge(0, None, (6, 7), (0, 2))]):
            model(ids[:, 5:], past_key_values=cache)

    assert "goes on from a cache that was filled before; got 5 tokens" in message(ModelError, run)


@torch.no_grad()
def test_attention_that_cannot_be_seen_is_refused():
    def own(query, key, value, seen):
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key)
        weights = scores.exp() * seen
        return torch.einsum(
            "bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdim=True), value
        ).flatten(2)

    model = HandMade(own)

    def run():
        with knockout(model, [Edge((0, 1), None, (6, 7), (0, 2))]):
            model(ids_of())

    assert message(ModelError, run) == (
        "HandMade: attention that should be changed was not seen; got layers [0, 1] missing; these "
        "layers attend by a function of their own; nothing was changed there."
    )


@torch.no_grad()
def test_two_models_are_not_edited_at_once():
    one, two = tiny_llama(), tiny_llama(seed=1)

    def run():
        edges = [Edge(0, None, (6, 7), (0, 2))]
        with knockout(one, edges), knockout(two, edges):
            pass

    assert "another model is being recorded or edited" in message(ModelError, run)
