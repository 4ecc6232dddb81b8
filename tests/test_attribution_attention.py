"""Methods that read attention, against references written out in float64 from eager weights."""

import copy

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
)

from attnprobe.attribution import Focus, attribute
from attnprobe.errors import CertificateError, ModelError
from tests.test_attribution import MODELS, SMALL, some_ids
from tests.tiny import tiny_llama

N_PROMPT, N_STEPS = 11, 7
QUERIES = range(N_PROMPT - 1, N_PROMPT - 1 + N_STEPS)


def eager(model):
    """The same model in float64, which shows its weights itself."""
    model = copy.deepcopy(model).double()
    model.set_attn_implementation("eager")
    return model


def looked(model, **options):
    return eager(model)(some_ids()[None, :-1], output_attentions=True, **options)


def scores_of(model, method, **more):
    return attribute(model, some_ids(), N_PROMPT, method, **more).scores


def compare(found, expected, tolerance=1e-4):
    there = ~np.isnan(found)
    expected = np.pad(np.asarray(expected), ((0, 0), (0, found.shape[1] - expected.shape[1])))
    scale = np.abs(expected[there]).max()
    np.testing.assert_allclose(found[there] / scale, expected[there] / scale, atol=tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_attention_is_the_mean_weight(name):
    model = MODELS[name]()
    weights = torch.stack(looked(model).attentions)[:, 0].mean((0, 1)).detach()
    found = scores_of(model, "attention")
    compare(found, weights[QUERIES].numpy())
    np.testing.assert_allclose(np.nansum(found, 1), 1, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_rollout_is_the_product_of_layers(name):
    model = MODELS[name]()
    flow = torch.eye(17, dtype=torch.float64)
    for weights in looked(model).attentions:
        mixed = 0.5 * weights[0].mean(0) + 0.5 * torch.eye(17)
        flow = mixed / mixed.sum(-1, keepdim=True) @ flow
    found = scores_of(model, "rollout")
    compare(found, flow.detach()[QUERIES].numpy())


@pytest.mark.parametrize("target", ["logprob", "contrast"])
@pytest.mark.parametrize("name", MODELS)
def test_gradient_times_attention_is_chefers_relevance(name, target):
    model, ids = MODELS[name](), some_ids()
    foils = (ids[N_PROMPT:] + 5) % 120
    seen = looked(model)
    expected = []
    for step, query in enumerate(QUERIES):
        row = seen.logits[0, query]
        value = row.log_softmax(-1)[ids[query + 1]]
        if target == "contrast":
            value = row[ids[query + 1]] - row[foils[step]]
        gradients = torch.autograd.grad(value, seen.attentions, retain_graph=True)
        relevance = torch.eye(17, dtype=torch.float64)
        for weights, gradient in zip(seen.attentions, gradients, strict=True):
            relevance = relevance + (weights * gradient)[0].clamp(min=0).mean(0) @ relevance
        expected.append((relevance - torch.eye(17))[query].detach())
    focus = Focus(foils=foils) if target == "contrast" else None
    found = scores_of(model, "grad_attention", target=target, focus=focus)
    compare(found, torch.stack(expected).numpy())


def values_of_llama(model, seen):
    """What each layer's heads would add for each key: [layer][head, key, size], float64."""
    for layer, x in zip(model.model.layers, seen.hidden_states, strict=False):
        normed = layer.input_layernorm(x)
        value = layer.self_attn.v_proj(normed)[0].view(17, -1, layer.self_attn.head_dim)
        value = value.transpose(0, 1).repeat_interleave(layer.self_attn.num_key_value_groups, dim=0)
        out = layer.self_attn.o_proj.weight.view(-1, len(value), layer.self_attn.head_dim)
        yield torch.einsum("hkd,ohd->hko", value, out)


def test_value_norm_is_the_length_of_what_heads_fetch():
    model = tiny_llama()
    seen, double = looked(model, output_hidden_states=True), eager(model)
    expected = 0
    for weights, moved in zip(seen.attentions, values_of_llama(double, seen), strict=True):
        expected += (weights[0, :, :, :, None] * moved[:, None]).norm(dim=-1).sum(0)
    found = scores_of(model, "value_norm")
    compare(found, (expected / len(seen.attentions)).detach()[QUERIES].numpy())


def test_a_norm_after_attention_belongs_to_the_value():
    """Gemma 2: what is added is c · out / rms(out), c = 1 + weight."""
    model = MODELS["gemma2"]()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.post_attention_layernorm.weight.normal_(std=0.5)
    seen, double = looked(model, output_hidden_states=True), eager(model)
    expected = 0
    for layer, weights, moved in zip(
        double.model.layers, seen.attentions, values_of_llama(double, seen), strict=True
    ):
        parts = weights[0, :, :, :, None] * moved[:, None]
        norm = layer.post_attention_layernorm
        scale = 1 / (parts.sum((0, 2)).square().mean(-1) + norm.eps).sqrt()
        expected += (parts * (1 + norm.weight)).norm(dim=-1).sum(0) * scale[:, None]
    found = scores_of(model, "value_norm")
    compare(found, (expected / len(seen.attentions)).detach()[QUERIES].numpy())


@pytest.mark.parametrize("target", ["logit", "contrast"])
def test_alti_logit_by_its_equations(target):
    model, ids = tiny_llama(), some_ids()
    seen, double = looked(model, output_hidden_states=True), eager(model)
    foils = (ids[N_PROMPT:] + 5) % 120
    readout = double.lm_head.weight[ids[N_PROMPT:]]
    if target == "contrast":
        readout = readout - double.lm_head.weight[foils]
    last = []
    double.model.norm.register_forward_pre_hook(lambda module, args: last.append(args[0][0]))
    double(ids[None, :-1])
    norm = double.model.norm
    scale = 1 / (last[0].square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
    aims = readout * norm.weight * scale[QUERIES]
    expected, below = 0, torch.eye(17, dtype=torch.float64)
    for x, weights, moved in zip(
        seen.hidden_states, seen.attentions, values_of_llama(double, seen), strict=False
    ):
        parts = torch.einsum("hqk,hko->qko", weights[0], moved)
        expected = expected + torch.einsum("sko,so->sk", parts[QUERIES], aims) @ below
        parts = parts + torch.eye(17)[..., None] * x[0][:, None]
        whole = parts.sum(1)
        near = whole.abs().sum(-1)[:, None] - (whole[:, None] - parts).abs().sum(-1)
        near = near.clamp(min=0)
        below = near / near.sum(-1, keepdim=True) @ below
    focus = Focus(foils=foils) if target == "contrast" else None
    found = scores_of(model, "alti_logit", target=target, focus=focus)
    compare(found, expected.detach().numpy())


@pytest.mark.parametrize("method", ["attention", "rollout", "grad_attention", "value_norm"])
def test_spans_are_sums_over_tokens(method):
    model, spans = tiny_llama(), [(0, 4), (4, 9), (9, 11)]
    tokens = scores_of(model, method)
    found = scores_of(model, method, focus=Focus(spans=spans, target_spans=[(11, 14)]))
    assert found.shape == (1, 3)
    expected = [np.nansum(tokens[:3, start:stop]) for start, stop in spans]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4)


def refusal(model, method):
    with pytest.raises(ModelError) as error:
        attribute(model, some_ids(), N_PROMPT, method)
    return str(error.value)


def bloom():
    torch.manual_seed(4)
    return BloomForCausalLM(BloomConfig(vocab_size=120, hidden_size=32, n_layer=2, n_head=4)).eval()


def test_attention_of_ones_own_code_is_read_where_weights_are_enough():
    model = bloom()
    weights = torch.stack(
        model(some_ids()[None, :-1], output_attentions=True).attentions
    )[:, 0].mean((0, 1)).detach()  # fmt: skip
    compare(scores_of(model, "attention"), weights[QUERIES].numpy())
    for method in ("grad_attention", "value_norm", "alti_logit", "attn_lrp"):
        assert refusal(model, method) == (
            f"'{method}', BloomForCausalLM: this method does not fit the model; got attention in "
            "code of its own, expected transformers' attention interface; use one that works on "
            "every model, such as input_x_gradient or feature_ablation."
        )


def test_methods_say_which_architectures_they_are_for():
    torch.manual_seed(5)
    post_norm = Olmo2ForCausalLM(Olmo2Config(**{k: v for k, v in SMALL.items() if k != "head_dim"}))
    assert (
        "got no norm before the attention of layer 0, expected norms before attention"
        in refusal(post_norm.eval(), "alti_logit")
    )
    parallel = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=120, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4,
        )
    ).eval()  # fmt: skip
    assert "got the attention of layer 0 runs beside the MLP, or is scaled" in refusal(
        parallel, "alti_logit"
    )
    assert not np.isnan(scores_of(parallel, "value_norm")[:, 0]).any()
    experts = MixtralForCausalLM(
        MixtralConfig(**SMALL, num_local_experts=2, num_experts_per_tok=1)
    ).eval()
    message = refusal(experts, "attn_lrp")
    assert "this method does not fit the model; got Mixtral" in message
    assert "expected modules that there are rules for" in message
    assert "got attention scores that are bent or added to" in refusal(
        MODELS["gemma2"](), "attn_lrp"
    )


def test_a_value_that_was_not_used_is_refused(monkeypatch):
    """Weights that do not make the model's output are not believed."""
    from attnprobe.attribution import watching

    real = watching.softmax_rows
    monkeypatch.setattr(watching, "softmax_rows", lambda *args: real(*args).flip(1))
    with pytest.raises(CertificateError, match="the attention that was seen is not what the model"):
        attribute(tiny_llama(), some_ids(), N_PROMPT, "value_norm")


@pytest.mark.parametrize(
    "method", ["attention", "rollout", "grad_attention", "value_norm", "alti_logit", "attn_lrp"]
)
def test_models_leave_as_they_came(method):
    model = tiny_llama().train()
    before = model.config._attn_implementation
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    attribute(model, some_ids(), N_PROMPT, method)
    assert model.config._attn_implementation == before
    assert model.training
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    torch.manual_seed(0)
    again = attribute(model, some_ids(), N_PROMPT, "input_x_gradient").scores
    np.testing.assert_array_equal(again, attribute(tiny_llama(), some_ids(), N_PROMPT).scores)
