"""Attribution against gradients written out by hand, against Captum itself, and its refusals."""

import numpy as np
import pytest
import torch
from captum.attr import LayerGradientXActivation, LLMGradientAttribution, TextTokenInput
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutput

from attnprobe.attribution import METHODS, Method, Prediction, attribute
from attnprobe.attribution.targets import TARGETS
from attnprobe.errors import ModelError, SelectionError
from attnprobe.types import is_source
from tests.tiny import make_tokenizer, tiny_llama

SMALL = {
    "vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3,
}  # fmt: skip


def gpt2():
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=120, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def gemma2():
    """Scales embeddings in the model."""
    torch.manual_seed(2)
    return Gemma2ForCausalLM(Gemma2Config(**SMALL, sliding_window=6)).eval()


def gemma3():
    """Scales embeddings in the embedding module."""
    torch.manual_seed(3)
    return Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, sliding_window=6)).eval()


MODELS = {"llama": tiny_llama, "gpt2": gpt2, "gemma2": gemma2, "gemma3": gemma3}


def some_ids(n=18, seed=0, n_words=120):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, n_words, (n,), generator=generator)


def by_hand(model, ids, n_prompt, target):
    """Embedding times gradient, from one forward pass over embeddings and autograd alone."""
    embeddings = model.get_input_embeddings()(ids[None]).detach().requires_grad_()
    logits = model(inputs_embeds=embeddings).logits[0].float()
    rows = logits.log_softmax(-1) if target == "logprob" else logits
    expected = np.full((len(ids) - n_prompt, len(ids)), np.nan)
    for step, position in enumerate(range(n_prompt, len(ids))):
        value = rows[position - 1, ids[position]]
        (gradient,) = torch.autograd.grad(value, embeddings, retain_graph=True)
        products = (gradient * embeddings)[0].sum(-1).detach().numpy()
        assert np.abs(products[position:]).max(initial=0) == 0  # the future has no share
        expected[step, :position] = products[:position]
    return expected


@pytest.mark.parametrize("target", ["logprob", "logit"])
@pytest.mark.parametrize("name", MODELS)
def test_scores_are_embedding_times_gradient(name, target):
    model, ids = MODELS[name](), some_ids()
    found = attribute(model, ids, 11, target=target)
    expected = by_hand(model, ids, 11, target)
    scale = np.nanmax(np.abs(expected))
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-5 * scale)
    assert found.scores.dtype == np.float32
    assert np.isnan(found.delta).all()
    assert found.method == "input_x_gradient"
    assert found.params == {"target": target, "unit": {"logprob": "nat", "logit": "logit"}[target]}


def test_captum_over_language_models_finds_the_same():
    """Captum's own loop over a target, which knows scores of the prompt alone."""
    model, tokenizer = tiny_llama(), make_tokenizer(bos=False)
    prompt, target = "1 2 3 4", tokenizer(" 5 6", return_tensors="pt").input_ids[0]
    explainer = LLMGradientAttribution(
        LayerGradientXActivation(model, model.get_input_embeddings()), tokenizer
    )
    theirs = explainer.attribute(TextTokenInput(prompt, tokenizer), target=target)
    ids = tokenizer(prompt, return_tensors="pt").input_ids[0]
    ours = attribute(model, torch.cat([ids, target]), len(ids))
    np.testing.assert_allclose(
        ours.scores[:, : len(ids)], theirs.token_attr.numpy(), rtol=1e-4, atol=1e-5
    )


class LinearConfig(PreTrainedConfig):
    model_type = "sum_of_words"


class SumOfWords(PreTrainedModel):
    """logits at a position = W · (sum of the vectors up to it): every share is known by hand."""

    config_class = LinearConfig
    _tied_weights_keys = None

    def __init__(self, vectors, readout):
        super().__init__(LinearConfig())
        self.words = torch.nn.Embedding.from_pretrained(vectors, freeze=False)
        self.readout = torch.nn.Parameter(readout)

    def get_input_embeddings(self):
        return self.words

    def forward(self, input_ids):
        return CausalLMOutput(logits=self.words(input_ids).cumsum(1) @ self.readout.T)


VECTORS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, -1.0]])
READOUT = torch.tensor([[1.0, 1.0], [2.0, 0.0], [0.0, -1.0]])


def test_a_sum_of_words_by_hand():
    """W·E is known: the logit of token 1 (2, 0) credits words 0, 1, 2 with 2, 0, 6."""
    model = SumOfWords(VECTORS, READOUT)
    found = attribute(model, [0, 2, 1, 0], 2, target="logit")
    nan = np.nan
    # step 0 predicts 1 from 0, 2; step 1 predicts 0 (readout 1, 1) from 0, 2, 1.
    expected = [[2, 6, nan, nan], [1, 2, 2, nan]]
    np.testing.assert_array_equal(found.scores, np.array(expected, np.float32))


def test_a_sum_of_words_by_hand_as_log_probability():
    """Of a log-probability the mean readout is taken away; here both words are as likely."""
    readout = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    model = SumOfWords(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), readout)
    found = attribute(model, [0, 1, 0], 2)
    # Sum of words: (2, 2), so p = ½, ½; readout of token 0 minus the mean: (½, −½).
    np.testing.assert_allclose(found.scores, [[1, -1, np.nan]], atol=1e-6)


def test_one_forward_pass_gives_the_values_of_all_steps():
    model, ids = tiny_llama(), some_ids()
    prediction = Prediction(model, ids[None], 11, TARGETS["logprob"], {})
    apart = [prediction.value(prediction.sources(step), step) for step in range(7)]
    torch.testing.assert_close(prediction.values(), torch.cat(apart), rtol=1e-5, atol=1e-5)
    logits = model(ids[None]).logits[0].log_softmax(-1)
    expected = logits[torch.arange(10, 17), ids[11:]]
    torch.testing.assert_close(prediction.values(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_counts():
    base = tiny_llama()
    plain = attribute(base, some_ids(), 11).scores
    model = get_peft_model(tiny_llama(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    torch.manual_seed(5)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    learned = {name for name, weight in model.named_parameters() if weight.requires_grad}
    adapted = attribute(model, some_ids(), 11).scores
    assert learned == {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learned
    merged = by_hand(model.merge_and_unload().eval(), some_ids(), 11, "logprob")
    np.testing.assert_allclose(adapted, merged, rtol=1e-3, atol=1e-4)
    assert np.nanmax(np.abs(adapted - plain)) > 0.05


def test_half_precision_is_near_and_gives_float32():
    single = attribute(tiny_llama(initializer_range=0.1), some_ids(), 11).scores
    half = attribute(tiny_llama(initializer_range=0.1).bfloat16(), some_ids(), 11).scores
    assert half.dtype == np.float32
    there = is_source(11, 7)
    assert np.corrcoef(single[there], half[there])[0, 1] > 0.98


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_leaves_as_it_came(monkeypatch, fails):
    model = tiny_llama().train()
    model.model.layers[0].eval()
    model.lm_head.weight.requires_grad_(False)
    before = [(module.training, len(module._forward_hooks)) for module in model.modules()]
    learned = [weight.requires_grad for weight in model.parameters()]

    def run(prediction):
        assert not any(module.training for module in model.modules())
        assert not any(weight.requires_grad for weight in model.parameters())
        scores = METHODS["input_x_gradient"].run(prediction)
        if fails:
            raise ZeroDivisionError
        return scores

    monkeypatch.setitem(METHODS, "watched", Method(run))
    if fails:
        with pytest.raises(ZeroDivisionError):
            attribute(model, some_ids(), 11, "watched")
    else:
        attribute(model, some_ids(), 11, "watched")
    assert before == [(module.training, len(module._forward_hooks)) for module in model.modules()]
    assert learned == [weight.requires_grad for weight in model.parameters()]
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("how", [torch.no_grad, torch.inference_mode])
def test_it_differentiates_where_gradients_are_off(how):
    ids = some_ids()
    expected = attribute(tiny_llama(), ids, 11).scores
    model = tiny_llama()
    with how():
        np.testing.assert_array_equal(attribute(model, ids + 0, 11).scores, expected)


def test_ids_may_be_a_list_an_array_or_a_batch_of_one():
    model, ids = tiny_llama(), some_ids()
    expected = attribute(model, ids, 11).scores
    for same in (ids.tolist(), ids.numpy().astype(np.int32), ids[None]):
        np.testing.assert_array_equal(attribute(model, same, 11).scores, expected)


def refusal(kind, *args, **kwargs):
    with pytest.raises(kind) as error:
        attribute(*args, **kwargs)
    return str(error.value)


def test_unknown_names_are_refused_with_the_nearest():
    model = tiny_llama()
    assert refusal(SelectionError, model, [3, 4], 1, "input_x_gradients") == (
        "no attribution method of that name; got 'input_x_gradients'; "
        f"did you mean 'input_x_gradient'? there is: {', '.join(sorted(METHODS))}."
    )
    assert refusal(SelectionError, model, [3, 4], 1, target="log_prob") == (
        "no attribution target of that name; got 'log_prob'; "
        "did you mean 'logprob'? there is: contrast, logit, logprob."
    )
    assert refusal(SelectionError, model, [3, 4], 1, points=3) == (
        "method 'input_x_gradient': the method has no such setting; got 'points'; "
        "there is: nothing."
    )


def test_a_target_outside_the_record_is_refused():
    model = tiny_llama()
    for n_prompt in (0, 2, 3, -1):
        assert refusal(SelectionError, model, [3, 4], n_prompt) == (
            "n_prompt: there is no target after the prompt, or no prompt before it; "
            f"got {n_prompt}, expected 1 to 1 of 2 tokens."
        )


@pytest.mark.parametrize(
    ("ids", "got"),
    [
        (torch.ones(2, 3, dtype=torch.int64), "torch.int64 of shape (2, 3)"),
        ([0.5, 1.0], "torch.float32 of shape (2,)"),
        ("12", "str"),
        ([], "torch.float32 of shape (0,)"),
    ],
)
def test_what_is_no_sequence_of_tokens_is_refused(ids, got):
    assert refusal(SelectionError, tiny_llama(), ids, 1) == (
        f"input_ids: attribution takes one sequence of token ids; got {got}, "
        "expected whole numbers of shape [token] or [1, token]."
    )


@pytest.mark.parametrize("bad", [300, -1])
def test_a_token_outside_the_vocabulary_is_refused(bad):
    assert refusal(SelectionError, tiny_llama(), [3, bad, 5], 1) == (
        f"input_ids: a token id is not in the model's vocabulary; got {bad}, expected 0 to 299."
    )


def test_quantised_weights_are_refused():
    model = tiny_llama()
    layer = model.model.layers[0].mlp.up_proj
    codes = torch.nn.Parameter(layer.weight.data.to(torch.int8), requires_grad=False)
    layer.weight = codes
    assert refusal(ModelError, model, [3, 4, 5], 1) == (
        "method 'input_x_gradient': the model's weights are quantised, so its gradients are not "
        "its own; got torch.int8; load the model unquantised, in bfloat16 if memory is short."
    )


def test_what_is_no_transformers_model_is_refused():
    assert "this is no transformers model" in refusal(ModelError, torch.nn.Linear(2, 2), [3, 4], 1)


def test_scores_that_are_no_numbers_are_refused():
    model = tiny_llama()
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = np.inf
    assert refusal(ModelError, model, [3, 7, 5], 1) == (
        "method 'input_x_gradient', step 0, token 0: a score is no finite number; got nan; "
        "float16 overflows in many models; load this one in bfloat16 or float32."
    )


def test_memory_that_runs_out_is_told_of(monkeypatch):
    def run(prediction):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(METHODS, "greedy", Method(run))
    assert refusal(ModelError, tiny_llama(), [3, 4, 5], 1, "greedy") == (
        "method 'greedy': memory does not suffice to attribute this sequence; got 3 tokens; "
        "shorten it, or load the model in bfloat16."
    )


def test_a_method_of_ones_own_has_settings_deltas_and_its_shape_checked(monkeypatch):
    def run(prediction):
        scores = prediction.no_scores() + prediction.params["by"]
        return scores, scores[:, 0] - 1

    monkeypatch.setitem(METHODS, "constant", Method(run, {"by": 2.0}, unit="share"))
    found = attribute(tiny_llama(), [3, 4, 5], 1, "constant", by=3.0)
    np.testing.assert_array_equal(found.scores, [[3, np.nan, np.nan], [3, 3, np.nan]])
    assert found.delta.tolist() == [2, 2]
    assert found.params == {"by": 3.0, "target": "logprob", "unit": "share"}
    monkeypatch.setitem(METHODS, "short", Method(lambda prediction: torch.zeros(2, 2)))
    assert refusal(ModelError, tiny_llama(), [3, 4, 5], 1, "short") == (
        "method 'short': the method returned scores of the wrong shape; got (2, 2), "
        "expected (2, 3); start from prediction.no_scores()."
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_an_accelerator_finds_the_same():
    expected = attribute(tiny_llama(), some_ids(), 11).scores
    found = attribute(tiny_llama().cuda(), some_ids(), 11).scores
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
