"""Gradient and perturbation methods against Captum itself, laws, and spans against tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import (
    FeatureAblation,
    IntegratedGradients,
    LayerGradientXActivation,
    Saliency,
    ShapleyValues,
)

from attnprobe.attribution import METHODS, Focus, Prediction, attribute, spread
from attnprobe.attribution.gradients import backwards, forwards
from attnprobe.attribution.graph import Graph, row_gradients
from attnprobe.attribution.prediction import with_foils
from attnprobe.attribution.targets import TARGETS
from attnprobe.errors import ModelError, SelectionError
from attnprobe.types import Attribution, Span, is_source
from tests.test_attribution import MODELS, some_ids
from tests.tiny import tiny_llama

N_PROMPT = 11
SPANS = [(0, 3), (3, 4), (4, 9), (9, 14), (14, 18)]


def prediction(model, **more):
    return Prediction(model, some_ids()[None], N_PROMPT, TARGETS["logprob"], {}, **more)


def value_at(model, embeddings, step):
    """The log-probability of a step's token, over embeddings."""
    logits = model(inputs_embeds=embeddings[:, : N_PROMPT + step]).logits[:, -1]
    return logits.log_softmax(-1)[:, some_ids()[N_PROMPT + step]]


def embeddings_of(model):
    return model.get_input_embeddings()(some_ids()[None]).detach()


@pytest.mark.parametrize("target", ["logprob", "logit", "contrast"])
@pytest.mark.parametrize("name", MODELS)
def test_captum_finds_the_same_gradient_x_input(name, target):
    model, ids = MODELS[name](), some_ids()
    with torch.no_grad():
        logits = model(ids[None]).logits[0]
    ours = attribute(model, ids, N_PROMPT, target=target).scores
    for step in (0, 4, 6):
        at = N_PROMPT + step
        others = logits[at - 1].clone()
        others[ids[at]] = -torch.inf
        foil = int(others.argmax())

        def value(tokens, at=at, foil=foil):
            row = model(tokens).logits[:, -1]
            if target == "contrast":
                return row[:, ids[at]] - row[:, foil]
            return (row.log_softmax(-1) if target == "logprob" else row)[:, ids[at]]

        explainer = LayerGradientXActivation(value, model.get_input_embeddings())
        theirs = explainer.attribute(ids[None, :at])[0].sum(-1).detach().numpy()
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours[step, :at] / scale, theirs / scale, atol=1e-5)


def test_captum_finds_the_same_saliency():
    model = tiny_llama()
    ours = attribute(model, some_ids(), N_PROMPT, "saliency").scores
    for step in (0, 6):
        explainer = Saliency(lambda vectors, step=step: value_at(model, vectors, step))
        theirs = explainer.attribute(
            embeddings_of(model)[:, : N_PROMPT + step].requires_grad_(), abs=False
        )
        expected = theirs[0].norm(dim=-1).numpy()
        np.testing.assert_allclose(ours[step, : N_PROMPT + step], expected, rtol=1e-4)


@pytest.mark.parametrize("baseline", ["zero", "mean", 7])
def test_captum_finds_the_same_integrated_gradients(baseline):
    model = tiny_llama()
    ours = attribute(
        model, some_ids(), N_PROMPT, "integrated_gradients", points=12, max_points=12,
        baseline=baseline,
    )  # fmt: skip
    table = model.get_input_embeddings().weight.detach()
    start = {"zero": 0 * table[0], "mean": table.mean(0), 7: table[7]}[baseline]
    for step in (0, 6):
        vectors = embeddings_of(model)[:, : N_PROMPT + step].requires_grad_()
        explainer = IntegratedGradients(lambda v, step=step: value_at(model, v, step))
        theirs, delta = explainer.attribute(
            vectors, start.expand_as(vectors), n_steps=12, method="gausslegendre",
            return_convergence_delta=True,
        )  # fmt: skip
        expected = theirs[0].sum(-1).detach().numpy()
        scale = float(np.abs(expected).max())
        found = ours.scores[step, : N_PROMPT + step]
        np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)
        assert ours.delta[step] == pytest.approx(float(delta[0]), abs=1e-4 * scale)


def test_a_delta_is_the_sum_of_scores_minus_the_gain():
    model, ids = tiny_llama(), some_ids()
    found = attribute(
        model, ids, N_PROMPT, "integrated_gradients", points=2, max_points=2, baseline="zero"
    )  # fmt: skip
    vectors = embeddings_of(model)
    with torch.no_grad():
        gain = [value_at(model, vectors, i) - value_at(model, 0 * vectors, i) for i in range(7)]
    expected = np.nansum(found.scores, 1) - torch.cat(gain).numpy()
    np.testing.assert_allclose(found.delta, expected, atol=1e-5)
    assert np.abs(found.delta).max() > 1e-3  # two points are not enough


@pytest.mark.parametrize("target", ["logprob", "logit", "contrast"])
@pytest.mark.parametrize("name", MODELS)
def test_integrated_gradients_are_complete(name, target):
    model = MODELS[name]()
    found = attribute(model, some_ids(), N_PROMPT, "integrated_gradients", target)
    gain = np.nansum(found.scores, 1) - found.delta
    assert (np.abs(found.delta) <= 0.01 * np.maximum(np.abs(gain), 0.1)).all()


@pytest.mark.parametrize("name", MODELS)
def test_forward_mode_is_reverse_mode(name):
    asked = prediction(MODELS[name](), spans=tuple(SPANS))
    vectors = asked.embeddings()[None]
    directions = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1))
    there, back = (way(asked, vectors, directions) for way in (forwards, backwards))
    assert there.shape == (1, 7, 5)
    torch.testing.assert_close(there, back, rtol=1e-4, atol=1e-4 * float(back.abs().max()))


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients"])
def test_fewer_spans_than_steps_go_forwards(method, monkeypatch):
    model, seen = tiny_llama(), []
    import attnprobe.attribution.gradients as gradients

    real = gradients.forwards
    monkeypatch.setattr(gradients, "forwards", lambda *a: seen.append(1) or real(*a))
    few = attribute(model, some_ids(), N_PROMPT, method, focus=Focus(spans=SPANS)).scores
    assert seen
    seen.clear()
    tokens = attribute(model, some_ids(), N_PROMPT, method).scores
    many = [(i, i + 1) for i in range(18)]
    apart = attribute(model, some_ids(), N_PROMPT, method, focus=Focus(spans=many)).scores
    assert not seen
    np.testing.assert_allclose(apart, tokens, rtol=1e-4, atol=1e-4)
    for column, (start, stop) in enumerate(SPANS):
        expected = np.nansum(tokens[:, start:stop], 1)
        there = is_source(N_PROMPT, 7)[:, start]
        np.testing.assert_allclose(few[there, column], expected[there], rtol=2e-2, atol=2e-3)
        assert np.isnan(few[~there, column]).all()


def test_an_operation_without_forward_derivative_goes_backwards(monkeypatch):
    import attnprobe.attribution.gradients as gradients

    expected = attribute(tiny_llama(), some_ids(), N_PROMPT, focus=Focus(spans=SPANS)).scores

    def refuse(*_):
        raise NotImplementedError("Trying to use forward AD with something that does not have it")

    monkeypatch.setattr(gradients, "forwards", refuse)
    found = attribute(tiny_llama(), some_ids(), N_PROMPT, focus=Focus(spans=SPANS)).scores
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["input_x_gradient", "saliency", "integrated_gradients"])
def test_a_target_span_is_the_sum_of_its_steps(method):
    model = tiny_llama()
    steps = attribute(model, some_ids(), N_PROMPT, method, points=8) if method.startswith(
        "int"
    ) else attribute(model, some_ids(), N_PROMPT, method)  # fmt: skip
    whole = attribute(
        model, some_ids(), N_PROMPT, method, focus=Focus(target_spans=[(11, 13), (13, 18)])
    )
    for row, part in enumerate((slice(0, 2), slice(2, 7))):
        expected = np.nansum(steps.scores[part], 0)
        there = ~np.isnan(whole.scores[row])
        assert there.sum() == (12, 17)[row]
        np.testing.assert_allclose(whole.scores[row][there], expected[there], rtol=2e-2, atol=5e-3)


@pytest.mark.parametrize("spans", [SPANS, None])
def test_captum_finds_the_same_ablation(spans):
    model, ids = tiny_llama(), some_ids()
    found = attribute(
        model, ids, N_PROMPT, "feature_ablation", baseline="zero",
        focus=Focus(spans=spans and [Span(a, b, "x") for a, b in spans]),
    ).scores  # fmt: skip
    columns = spans or [(i, i + 1) for i in range(18)]
    for step in (0, 6):
        vectors = embeddings_of(model)[:, : N_PROMPT + step]
        mask = torch.tensor([n for n, (a, b) in enumerate(columns) for _ in range(a, b)])
        explainer = FeatureAblation(lambda v, step=step: value_at(model, v, step))
        theirs = explainer.attribute(
            vectors, feature_mask=mask[: vectors.shape[1]][None, :, None].expand_as(vectors)
        )[0, :, 0]
        for column, (start, _) in enumerate(columns):
            if start < len(theirs):
                assert found[step, column] == pytest.approx(float(theirs[start]), abs=2e-5)
            else:
                assert np.isnan(found[step, column])


def test_shapley_values_come_near_the_exact_ones():
    model, ids = tiny_llama(), some_ids()
    spans = SPANS[:4]
    found = attribute(
        model, ids, N_PROMPT, "shapley", focus=Focus(spans=spans), samples=400, baseline="zero"
    )
    # Tokens outside the spans always stay: here none is before the first step.
    vectors = embeddings_of(model)[:, :N_PROMPT]
    mask = torch.tensor([n for n, (a, b) in enumerate(spans) for _ in range(a, b)])[:N_PROMPT]
    exact = ShapleyValues(lambda v: value_at(model, v, 0)).attribute(
        vectors, feature_mask=mask[None, :, None].expand_as(vectors).contiguous()
    )[0, :, 0]
    expected = np.array([float(exact[start]) for start, _ in spans])
    spread = np.abs(expected).max()
    np.testing.assert_allclose(found.scores[0], expected, atol=0.15 * spread)
    np.testing.assert_allclose(found.delta, 0, atol=1e-4)
    again = attribute(
        model, ids, N_PROMPT, "shapley", focus=Focus(spans=spans), samples=400, baseline="zero"
    )
    np.testing.assert_array_equal(found.scores, again.scores)


def test_random_numbers_go_on_as_if_nothing_was_drawn():
    model = tiny_llama()
    state = torch.random.get_rng_state()
    attribute(model, some_ids(), N_PROMPT, "shapley", focus=Focus(spans=SPANS), samples=2)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_foils_of_ones_own():
    model, ids = tiny_llama(), some_ids()
    foils = (ids[N_PROMPT:] + 1) % 120
    found = attribute(model, ids, N_PROMPT, target="contrast", focus=Focus(foils=foils)).scores
    gold = attribute(model, ids, N_PROMPT, target="logit").scores
    # Against itself, a token has nothing to explain.
    none = attribute(model, ids, N_PROMPT, target="contrast", focus=Focus(foils=ids[N_PROMPT:]))
    assert np.nanmax(np.abs(none.scores)) == 0
    assert np.nanmax(np.abs(found - gold)) > 0.01


def refusal(**kwargs):
    with pytest.raises(SelectionError) as error:
        attribute(tiny_llama(), some_ids(), N_PROMPT, **kwargs)
    return str(error.value)


@pytest.mark.parametrize(
    ("focus", "words"),
    [
        (
            Focus(spans=[(0, 3), (5, 5)]),
            "spans[1]: this span is empty; got (5, 5), expected a start below its stop; "
            "leave it out.",
        ),
        (
            Focus(spans=[(3, 19)]),
            "spans[0]: this span reaches outside; got (3, 19), "
            "expected token positions from 0 to 18.",
        ),
        (
            Focus(target_spans=[(10, 12)]),
            "target_spans[0]: this span reaches outside; got (10, 12), "
            "expected token positions from 11 to 18.",
        ),
        (
            Focus(spans=[(4, 9), (0, 5)]),
            "spans: two spans overlap, so that tokens would be credited twice; "
            "got (0, 5) and (4, 9); cut them apart.",
        ),
        (Focus(spans=[]), "spans: there is no span; name at least one, or pass None."),
        (Focus(spans=["ab"]), "spans[0]: this is no span; got 'ab', expected (start, stop)."),
        (
            Focus(foils=[3] * 7),
            "foils: this target takes no foils; got target 'logprob', expected target 'contrast'.",
        ),
        (
            Focus(foils=[3, 4]),
            "foils: a foil is needed for each predicted token; got 2, expected 7.",
        ),
    ],
)
def test_what_cannot_be_asked_for(focus, words):
    assert refusal(focus=focus) == words


def test_settings_that_make_no_sense():
    assert refusal(method="integrated_gradients", points=0) == (
        "points: the path needs points; got 0, expected a whole number ≥ 1."
    )
    assert refusal(method="feature_ablation", baseline="none") == (
        "baseline: no baseline of that name; got 'none', "
        "expected 'mean', 'zero', or a token id below 300."
    )
    assert refusal(method="shapley", samples=0) == (
        "samples: orders are needed; got 0, expected a whole number ≥ 1."
    )


class Short:
    """Runs out of memory the first time."""

    def __init__(self, run):
        self.run, self.calls = run, 0

    def __call__(self, prediction):
        self.calls += 1
        if self.calls == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.run(prediction)


@pytest.mark.parametrize(
    "method", ["input_x_gradient", "integrated_gradients", "grad_attention", "attn_lrp"]
)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_where_memory_is_short_layers_are_computed_anew(name, method, monkeypatch):
    model = MODELS[name]()
    layers = model.model.layers if name == "llama" else model.transformer.h
    expected = attribute(model, some_ids(), N_PROMPT, method).scores
    passes, known = [], METHODS[method]
    hooks = [
        layers[0].register_forward_pre_hook(lambda *_: passes.append("whole")),
        layers[0].mlp.register_forward_pre_hook(lambda *_: passes.append("inside")),
    ]
    short = Short(known.run)
    monkeypatch.setitem(METHODS, method, replace(known, run=short))
    found = attribute(model, some_ids(), N_PROMPT, method).scores
    for hook in hooks:
        hook.remove()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert short.calls == 2
    assert passes.count("inside") >= passes.count("whole") + 7  # once more for each step
    assert not any("forward" in layer.__dict__ for layer in layers)
    short.calls = 0
    monkeypatch.setattr(short, "run", Short(known.run))
    with pytest.raises(ModelError, match="memory does not suffice to attribute this sequence"):
        attribute(model, some_ids(), N_PROMPT, method)
    assert not any("forward" in layer.__dict__ for layer in layers)


def test_credit_of_spans_is_spread_over_their_tokens_before_the_step():
    scores = np.array([[6.0, 4.0, np.nan], [3.0, 8.0, 2.0]], np.float32)
    found = Attribution(scores, np.zeros(2, np.float32), "shapley")
    spans = [Span(0, 3, "a"), Span(3, 5, "b"), Span(5, 6, "c")]
    tokens = spread(found, spans, 4, 6).scores
    nan = np.nan
    np.testing.assert_array_equal(tokens, [[2, 2, 2, 4, nan, nan], [1, 1, 1, 4, 4, nan]])


@pytest.mark.parametrize("target", ["logprob", "contrast"])
@pytest.mark.parametrize("name", MODELS)
def test_parts_of_a_long_target_change_nothing(name, target):
    """Thirty steps of forty tokens are walked back in three parts."""
    model, ids = MODELS[name](), some_ids(40)
    asked = with_foils(Prediction(model, ids[None], 10, TARGETS[target], {}))
    vectors = asked.embeddings()[None]
    seen = []
    handle = model.get_input_embeddings().register_forward_hook(lambda *_: seen.append(1))
    found = list(row_gradients(asked, vectors))
    handle.remove()
    assert len(seen) == 3
    whole = list(Graph(asked, vectors))
    assert len(found) == len(whole) == 30
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@pytest.mark.smollm2
def test_integrated_gradients_are_complete_on_a_real_model(smollm2):
    """Which jumps on its way from the baseline: as many points, evenly spread, miss that."""
    ids = smollm2.tokenizer("The capital of France is Paris").input_ids
    method = "integrated_gradients"
    found = attribute(smollm2.model, ids, len(ids) - 1, method)
    gain = np.nansum(found.scores, 1) - found.delta
    assert abs(gain[0]) > 1
    assert abs(found.delta[0]) <= 0.01 * abs(gain[0])
    even = attribute(smollm2.model, ids, len(ids) - 1, method, points=64, max_points=64)
    assert abs(even.delta[0]) > 0.05 * abs(gain[0])
