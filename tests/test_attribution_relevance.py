"""AttnLRP against its rules, written out as relevance that is shared out, in float64."""

import copy

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from attnprobe.attribution import attribute
from attnprobe.attribution.norms import held_norm
from attnprobe.errors import ModelError
from tests.test_attribution import MODELS, SMALL, some_ids
from tests.tiny import tiny_llama

N_PROMPT = 11


def through_matrix(x, weight, output, relevance):
    """The ε-rule: an input's share of an output is what it added to it."""
    return x * ((relevance / output) @ weight)


def many(kv, q):
    """Give each query head its KV head."""
    return kv.repeat_interleave(len(q) // len(kv), 0)


def grouped(t, kv):
    """Sum over the query heads of each KV head."""
    return t.view(len(kv), -1, *t.shape[1:]).sum(1)


def turned(t, cos, sin):
    """Rotary positions, as a matrix over the two halves of a head."""
    half = t.shape[-1] // 2
    return t * cos + torch.cat([-t[..., half:], t[..., :half]], -1) * sin


def turned_back(t, cos, sin):
    """The transpose of that matrix."""
    half = t.shape[-1] // 2
    by_sin = t * sin
    return t * cos + torch.cat([by_sin[..., half:], -by_sin[..., :half]], -1)


def flattened(t):
    return t.transpose(0, 1).flatten(1)


def by_rules(model, ids, query):
    """Relevance of the tokens for the logit of what follows `query`; no gradient is taken."""
    config, x = model.config, model.model.embed_tokens(ids[None, :-1])
    cos, sin = model.model.rotary_emb(x, torch.arange(len(ids) - 1)[None])
    x, kept = x[0], []
    for layer in model.model.layers:
        at = layer.self_attn
        n = layer.input_layernorm(x)
        q, k, v = (
            p(n).view(len(n), -1, config.head_dim).transpose(0, 1)
            for p in (at.q_proj, at.k_proj, at.v_proj)
        )
        rq, rk = turned(q, cos[0], sin[0]), turned(k, cos[0], sin[0])
        scores = rq @ many(rk, q).mT * config.head_dim**-0.5
        mask = torch.ones(len(n), len(n)).tril().bool()
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        mixed = weights @ many(v, q)
        flat = mixed.transpose(0, 1).reshape(len(n), -1)
        added = at.o_proj(flat)
        middle = x + added
        m = layer.post_attention_layernorm(middle)
        gate, up = layer.mlp.gate_proj(m), layer.mlp.up_proj(m)
        inside = layer.mlp.act_fn(gate) * up
        down = layer.mlp.down_proj(inside)
        kept.append((x, n, q, k, v, rq, rk, scores, weights, mixed, flat, added, middle, m, gate,
                     up, inside, down))  # fmt: skip
        x = middle + down
    last = model.model.norm(x)
    relevance = torch.zeros_like(x)
    relevance[query] = last[query] * model.lm_head.weight[ids[query + 1]]
    for layer, values in zip(model.model.layers[::-1], kept[::-1], strict=True):
        (x, n, q, k, v, rq, rk, scores, weights, mixed, flat, added, middle, m, gate, up, inside,
         down) = values  # fmt: skip
        mlp, at = layer.mlp, layer.self_attn
        from_mlp = relevance * down / (middle + down)
        product = through_matrix(inside, mlp.down_proj.weight, down, from_mlp) / 2
        relevance = relevance * middle / (middle + down)
        relevance = relevance + through_matrix(m, mlp.gate_proj.weight, gate, product)
        relevance = relevance + through_matrix(m, mlp.up_proj.weight, up, product)
        from_attention = relevance * added / middle
        relevance = relevance * x / middle
        flat_r = through_matrix(flat, at.o_proj.weight, added, from_attention)
        mixed_r = flat_r.view(len(n), -1, config.head_dim).transpose(0, 1) / mixed / 2
        value_r = grouped(many(v, q) * (weights.mT @ mixed_r), v)
        weight_r = weights * (mixed_r @ many(v, q).mT)
        score_r = scores * (weight_r - weights * weight_r.sum(-1, keepdim=True))
        share = score_r / scores / 2 * config.head_dim**-0.5
        query_r = rq * (share @ many(rk, q))
        key_r = grouped(many(rk, q) * (share.mT @ rq), k)
        for raw, after, r, p in ((q, rq, query_r, at.q_proj), (k, rk, key_r, at.k_proj)):
            before = raw * turned_back(r / after, cos[0], sin[0])
            relevance = relevance + through_matrix(n, p.weight, flattened(raw), flattened(before))
        relevance = relevance + through_matrix(
            n, at.v_proj.weight, flattened(v), flattened(value_r)
        )
    return relevance.sum(-1)


@torch.no_grad()
def test_llama_by_the_rules_of_each_layer():
    model, ids = tiny_llama(), some_ids()
    found = attribute(model, ids, N_PROMPT, "attn_lrp", "logit").scores
    double = copy.deepcopy(model).double()
    for step in (0, 3, 6):
        query = N_PROMPT - 1 + step
        expected = by_rules(double, ids, query)[: query + 1].numpy()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found[step, : query + 1] / scale, expected / scale, atol=1e-4)
    plain = attribute(model, ids, N_PROMPT, "input_x_gradient", "logit").scores
    assert np.nanmax(np.abs(plain - found)) > 0.1


@pytest.mark.parametrize(
    "norm", [torch.nn.LayerNorm(8), torch.nn.RMSNorm(8, eps=1e-6), None], ids=["layer", "rms", "q"]
)
def test_a_norm_with_held_statistics_by_hand(norm):
    torch.manual_seed(0)
    if norm is None:
        norm = Qwen3ForCausalLM(Qwen3Config(**SMALL)).model.layers[0].self_attn.q_norm
    with torch.no_grad():
        for weight in norm.parameters():
            weight.uniform_(0.5, 1.5)
    x = torch.randn(3, 8).requires_grad_()
    held = held_norm(norm, 8, x.detach())
    output = held.same(x, norm(x))
    torch.testing.assert_close(output, norm(x))
    jacobian = torch.autograd.functional.jacobian(lambda t: held.same(t, norm(t)), x)[0, :, 0]
    centres = isinstance(norm, torch.nn.LayerNorm)
    centring = torch.eye(8) - (1 / 8 if centres else 0)
    centred = x[0] @ centring
    eps = getattr(norm, "eps", None) or norm.variance_epsilon
    expected = norm.weight[:, None] * centring / (centred.square().mean() + eps).sqrt()
    torch.testing.assert_close(jacobian, expected, rtol=1e-4, atol=1e-5)
    direction = torch.randn(1, 8)
    torch.testing.assert_close(
        held.back(direction, x[:1]), direction @ expected, rtol=1e-4, atol=1e-5
    )


def test_what_is_no_norm_is_told_apart():
    class StrangeNorm(torch.nn.Module):
        def forward(self, x):
            return torch.tanh(x)

    with pytest.raises(ModelError) as error:
        held_norm(StrangeNorm(), 8, torch.ones(1))
    assert str(error.value) == (
        "StrangeNorm: this norm is neither an RMSNorm nor a LayerNorm; use a method that does not "
        "look inside, such as integrated_gradients or knockout."
    )


@torch.no_grad()
def test_relevance_goes_through_an_ungated_mlp_unchanged():
    """Of a model without attention and biases nothing is lost: relevance sums to the logit."""
    model = MODELS["gpt2"]()
    for name, weight in model.named_parameters():
        if "bias" in name or "attn.c_proj" in name:
            weight.zero_()
    model.transformer.wpe.weight.zero_()
    found = attribute(model, some_ids(), N_PROMPT, "attn_lrp", "logit").scores
    logits = model(some_ids()[None]).logits[0]
    for step in range(7):
        query = N_PROMPT - 1 + step
        assert found[step, query] == pytest.approx(
            float(logits[query, some_ids()[query + 1]]), 1e-3
        )
        assert np.abs(found[step, :query]).max() < 1e-5


@torch.no_grad()
def test_relevance_goes_through_a_gate_unchanged():
    model = tiny_llama()
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
    found = attribute(model, some_ids(), N_PROMPT, "attn_lrp", "logit").scores
    logits = model(some_ids()[None]).logits[0]
    for step in range(7):
        query = N_PROMPT - 1 + step
        assert found[step, query] == pytest.approx(
            float(logits[query, some_ids()[query + 1]]), 1e-3
        )


def test_a_gate_that_is_not_known_is_refused():
    model = tiny_llama()
    mlp = model.model.layers[0].mlp
    mlp.first, mlp.second, mlp.third = mlp.gate_proj, mlp.up_proj, mlp.down_proj
    del mlp.gate_proj, mlp.up_proj, mlp.down_proj
    mlp.forward = lambda x: mlp.third(mlp.act_fn(mlp.first(x)) * mlp.second(x))
    with pytest.raises(ModelError) as error:
        attribute(model, some_ids(), N_PROMPT, "attn_lrp")
    assert "got what model.layers.0.mlp.act_fn gives is changed before the next layer" in str(
        error.value
    )
