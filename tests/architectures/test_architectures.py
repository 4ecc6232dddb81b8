"""Recorded attention of every architecture against float64 eager attention."""

import warnings

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

GENERATE_READY = False
"""Whether `generate` with a cache can be recorded."""
KINDS_READY = False
"""Whether encoder and cross attention can be recorded."""
NOT_READY: dict[str, str] = {}
"""{architecture: why it cannot be recorded yet}; a test that passes all the same fails."""

TOLERANCE = 1e-4
SPANS = [[(0, 1), (1, 5), (5, length)] for length in LENGTHS]
QUERIES = [[0, length // 2, length - 2, length - 1] for length in LENGTHS]


def _marks(architecture: Architecture) -> list[pytest.MarkDecorator]:
    if (why := NOT_READY.get(architecture.name)) is not None:
        return [pytest.mark.xfail(reason=why, strict=True)]
    if architecture.kind != "decoder" and not KINDS_READY:
        return [pytest.mark.skip(reason="encoder and cross attention are not recorded yet")]
    return []


def _each(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "architecture",
        [
            pytest.param(architecture, id=name, marks=_marks(architecture))
            for name, architecture in ARCHITECTURES.items()
            if architecture.kind in kinds
        ],
    )


EVERY = _each("decoder", "encoder", "encoder-decoder")
SELF_ONLY = _each("decoder", "encoder")
GENERATING = _each("decoder", "encoder-decoder")
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
    assert_all_equal_truth(recording, architecture, truth, [slice(None)])


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


# --- generate, with a cache ----------------------------------------------------------------------


@NEEDS_GENERATE
@GENERATING
def test_generate_of_a_padded_batch(architecture):
    check_generate(architecture, batch_of(architecture), columns_of(architecture))


@NEEDS_GENERATE
@GENERATING
def test_generate_of_a_single_prompt(architecture):
    check_generate(architecture, example_of(architecture, 0), [slice(None)])


def check_generate(architecture: Architecture, inputs, columns: list[slice]) -> None:
    model = architecture.build()
    prompt = prompt_of(inputs)
    settings = {"max_new_tokens": N_GENERATED, "do_sample": False}
    plain = model.generate(**prompt, **settings)
    with record(model, ("full",)) as recording:
        sequences = model.generate(**prompt, **settings)
    assert torch.equal(sequences, plain)
    truth = truth_of(architecture, model, grown(architecture, inputs, sequences))
    if architecture.kind == "decoder":
        columns = [slice(column.start, None) for column in columns]
    assert_all_equal_truth(recording, architecture, truth, columns)
