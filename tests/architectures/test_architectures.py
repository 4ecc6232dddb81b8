"""Recorded attention of every architecture against float64 eager attention."""

import warnings
from collections.abc import Iterable

import pytest
import torch

from attnprobe.attention import record
from tests.architectures.reference import (
    ARCHITECTURES,
    LENGTHS,
    N_GENERATED,
    Architecture,
    Attentions,
    batch_of,
    example_of,
    grown,
    prompt_of,
    real_columns,
    truth_of,
)

GENERATE_READY = True
"""Whether `generate` with a cache can be recorded."""
NOT_READY: dict[str, str] = {}
"""{architecture: why it cannot be recorded yet}; a test that passes all the same fails."""

TOLERANCE = 1e-4
SPANS = [[(0, 1), (1, 5), (5, length)] for length in LENGTHS]
QUERIES = [[0, length // 2, length - 2, length - 1] for length in LENGTHS]


def _marks(architecture: Architecture) -> list[pytest.MarkDecorator]:
    if (why := NOT_READY.get(architecture.name)) is not None:
        return [pytest.mark.xfail(reason=why, strict=True)]
    return []


def _each(names: Iterable[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "architecture",
        [
            pytest.param(ARCHITECTURES[name], id=name, marks=_marks(ARCHITECTURES[name]))
            for name in names
        ],
    )


EVERY = _each(ARCHITECTURES)
SELF_ONLY = _each(n for n, a in ARCHITECTURES.items() if a.kind != "encoder-decoder")
GENERATING = _each(n for n, a in ARCHITECTURES.items() if a.kind != "encoder")
ONE_OF_EACH_CACHE = _each(
    ["llama-gqa", "mistral-sliding", "llama4_text", "gemma2", "gpt_oss", "deepseek_v3",
     "qwen3_next", "lfm2", "diffllama", "t5"]
)  # fmt: skip
NEEDS_GENERATE = pytest.mark.skipif(not GENERATE_READY, reason="generate is not recorded yet")


@torch.no_grad()
def recorded(model, inputs, keep=("full",), **kwargs):
    with record(model, keep, **kwargs) as recording:
        model(**inputs)
    return recording


def assert_close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one.double(), other.double(), atol=TOLERANCE, rtol=0)


def assert_equals_truth(
    found: Attentions, truth: Attentions, queries: list[slice], keys: list[slice]
) -> None:
    """Compare what belongs to each example; rows of pads are NaN, columns of pads 0."""
    assert sorted(found) == sorted(truth)
    for layer, weights in found.items():
        assert weights.dtype == torch.float32
        assert weights.shape == truth[layer].shape
        for index, (query, key) in enumerate(zip(queries, keys, strict=True)):
            assert_close(weights[index, :, query, key], truth[layer][index, :, query, key])
            pads = torch.ones(weights.shape[-2], dtype=torch.bool)
            pads[query] = False
            assert weights[index][:, pads].isnan().all()
            pads = torch.ones(weights.shape[-1], dtype=torch.bool)
            pads[key] = False
            assert (weights[index, :, query][..., pads] == 0).all()


def assert_all_equal_truth(recording, architecture: Architecture, truth, columns) -> None:
    """Compare every kind of attention that the architecture has."""
    if architecture.kind != "encoder-decoder":
        return assert_equals_truth(recording.full, truth.own, columns, columns)
    whole = [slice(None)] * len(columns)
    assert_equals_truth(recording.full, truth.own, whole, whole)
    assert_equals_truth(recording.of("encoder").full, truth.encoder, columns, columns)
    return assert_equals_truth(recording.of("cross").full, truth.cross, whole, columns)


@pytest.fixture(autouse=True)
def quiet():
    """Slow fallbacks of recurrent layers warn once; that is no business of these tests."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*falling back.*")
        yield


def columns_of(architecture: Architecture) -> list[slice]:
    return [real_columns(architecture, index) for index in range(len(LENGTHS))]


# --- the reference itself ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_reference_is_sound(name):
    architecture = ARCHITECTURES[name]
    model = architecture.build()
    assert model.config._attn_implementation == architecture.base
    batch = truth_of(architecture, model, batch_of(architecture))
    columns = columns_of(architecture)
    for index in range(len(LENGTHS)):
        alone = truth_of(architecture, model, example_of(architecture, index))
        own = columns[index] if architecture.kind != "encoder-decoder" else slice(None)
        for layer, weights in batch.own.items():
            assert_close(weights[index, :, own, own], alone.own[layer][0])
            sums = alone.own[layer].sum(-1)
            assert (sums < 1 + 1e-9).all()
            assert not architecture.sums_to_one or (sums > 1 - 1e-9).all()
            assert alone.own[layer].amax(-1).mean() > 0.25, "attention is too even to test anything"


# --- one pass ------------------------------------------------------------------------------------


@EVERY
def test_full_of_a_padded_batch(architecture):
    model, inputs = architecture.build(), batch_of(architecture)
    recording = recorded(model, inputs)
    truth = truth_of(architecture, model, inputs)
    assert_all_equal_truth(recording, architecture, truth, columns_of(architecture))
    assert max(recording.certificate.worst.values()) < 1e-4


@EVERY
def test_full_of_a_single_prompt(architecture):
    model, inputs = architecture.build(), example_of(architecture, 0)
    recording = recorded(model, inputs)
    truth = truth_of(architecture, model, inputs)
    assert_all_equal_truth(recording, architecture, truth, [slice(0, None)])


@SELF_ONLY
def test_rows_steps_and_pooled_of_a_padded_batch(architecture):
    model, inputs = architecture.build(), batch_of(architecture)
    recording = recorded(
        model, inputs, ("rows", "steps", "pooled"), queries=QUERIES, spans=SPANS
    )  # fmt: skip
    truth = truth_of(architecture, model, inputs).own
    assert sorted(recording.rows) == sorted(recording.pooled) == sorted(truth)
    for layer, attention in truth.items():
        for index, columns in enumerate(columns_of(architecture)):
            square = attention[index, :, columns, columns]
            masses = torch.stack([square[..., a:b].sum(-1) for a, b in SPANS[index]], -1)
            chosen = QUERIES[index]
            assert_close(recording.rows[layer][index, ..., columns], square[:, chosen])
            assert_close(recording.steps[layer][index], masses[:, chosen])
            assert_close(recording.pooled[layer][index, :, columns], masses)
            seen = (square > 0).all(0)  # float64 does not underflow here
            assert torch.equal(recording.visible[layer][index][..., columns], seen[chosen])
            counts = torch.stack([seen[:, a:b].sum(-1) for a, b in SPANS[index]], -1)
            assert torch.equal(recording.visible_counts[layer][index, columns].long(), counts)


@EVERY
def test_the_model_answers_as_before_and_leaves_as_it_came(architecture):
    model, inputs = architecture.build(), batch_of(architecture)
    before = _state(model)
    with torch.no_grad():
        plain = model(**inputs).logits
        with record(model, ("full",)):
            under = model(**inputs).logits
        after = model(**inputs).logits
    assert torch.equal(plain, under)
    assert torch.equal(plain, after)
    assert _state(model) == before


def _state(model: torch.nn.Module) -> list[object]:
    """Everything that switching could leave behind."""
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return [[config._attn_implementation for config in configs], hooks, model.training]


# --- too faint for a certificate to see ----------------------------------------------------------


@_each(["gemma2"])
def test_a_softcap_far_above_the_scores_is_applied(architecture):
    model, inputs = architecture.build(), batch_of(architecture)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.attn_logit_softcapping = 50.0
            layer.self_attn.q_proj.weight.mul_(0.15)
    check_closely(architecture, model, inputs)


@_each(["gpt_oss"])
def test_a_sink_far_below_the_scores_is_counted(architecture):
    model, inputs = architecture.build(), batch_of(architecture)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.sinks.fill_(-14.5)
    check_closely(architecture, model, inputs)


def check_closely(architecture: Architecture, model, inputs) -> None:
    """Compare with a tenth of the usual tolerance."""
    full = recorded(model, inputs).full
    for layer, weights in truth_of(architecture, model, inputs).own.items():
        for index, columns in enumerate(columns_of(architecture)):
            torch.testing.assert_close(
                full[layer][index, :, columns].double(), weights[index, :, columns],
                atol=TOLERANCE / 10, rtol=0,
            )  # fmt: skip


# --- generate, with a cache ----------------------------------------------------------------------


@NEEDS_GENERATE
@GENERATING
def test_generate_of_a_padded_batch(architecture):
    check_generate(architecture, batch_of(architecture), columns_of(architecture))


@NEEDS_GENERATE
@GENERATING
def test_generate_of_a_single_prompt(architecture):
    check_generate(architecture, example_of(architecture, 0), [slice(0, None)])


@NEEDS_GENERATE
@pytest.mark.parametrize(
    "settings",
    [{"do_sample": True}, {"num_beams": 3}, {"cache_implementation": "static"}],
    ids=["sampling", "beams", "static cache"],
)
@ONE_OF_EACH_CACHE
def test_generate_in_other_ways(architecture, settings):
    check_generate(architecture, batch_of(architecture), columns_of(architecture), **settings)


def check_generate(architecture: Architecture, inputs, columns: list[slice], **settings) -> None:
    model = architecture.build()
    settings = {"max_new_tokens": N_GENERATED, "do_sample": False, **prompt_of(inputs), **settings}
    torch.manual_seed(0)
    plain = model.generate(**settings)
    torch.manual_seed(0)
    with record(model, ("full",)) as recording:
        sequences = model.generate(**settings)
    assert torch.equal(sequences, plain)
    truth = truth_of(architecture, model, grown(architecture, inputs, sequences))
    if architecture.kind == "decoder":
        columns = [slice(column.start, None) for column in columns]
    assert_all_equal_truth(recording, architecture, truth, columns)
