"""Every architecture by interception, although transformers' interface reaches most of them."""

import pytest
import torch

from attnprobe.attention import Survey, record
from tests.architectures.reference import (
    ARCHITECTURES,
    LENGTHS,
    N_GENERATED,
    batch_of,
    example_of,
    grown,
    prompt_of,
    truth_of,
)
from tests.architectures.test_architectures import (
    QUERIES,
    SPANS,
    TOLERANCE,
    assert_all_equal_truth,
    columns_of,
    quiet,  # noqa: F401
)

LEGACY = {
    "bloom", "mpt", "gptj", "gpt_neo", "codegen", "xglm", "openai-gpt", "falcon-rotary",
    "falcon-new", "falcon-alibi",
}  # fmt: skip
REACHED = pytest.mark.parametrize(
    "architecture", [pytest.param(a, id=n) for n, a in ARCHITECTURES.items() if n not in LEGACY]
)


@torch.no_grad()
def recorded(model, inputs, route, keep=("full",), **kwargs):
    with record(model, keep, survey=Survey(model, route), **kwargs) as recording:
        model(**inputs)
    assert recording.certificate.route == route
    return recording


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_route_is_chosen_by_what_reaches_the_model(name):
    expected = "interception" if name in LEGACY else "interface"
    assert Survey(ARCHITECTURES[name].build()).route == expected


@REACHED
def test_full_of_a_padded_batch(architecture):
    model, inputs = architecture.build(), batch_of(architecture)
    recording = recorded(model, inputs, "interception")
    truth = truth_of(architecture, model, inputs)
    assert_all_equal_truth(recording, architecture, truth, columns_of(architecture))


@REACHED
def test_rows_masses_and_visible_keys_equal_those_of_the_interface(architecture):
    if architecture.kind == "encoder-decoder":
        queries, spans = [[0, 3, 6]] * 3, [[(0, 1), (1, 4), (4, 7)]] * 3
    else:
        queries, spans = QUERIES, SPANS
    model, inputs = architecture.build(), batch_of(architecture)
    keep = ("rows", "steps", "pooled")
    one, other = (
        recorded(model, inputs, route, keep, queries=queries, spans=spans)
        for route in ("interface", "interception")
    )
    for name in keep:
        for layer, tensor in getattr(one, name).items():
            torch.testing.assert_close(
                getattr(other, name)[layer], tensor, atol=TOLERANCE, rtol=0, equal_nan=True
            )
    real = ~one.batch_layout.pads
    for layer in one.rows:
        assert torch.equal(other.visible[layer], one.visible[layer])
        counts = (one.visible_counts[layer], other.visible_counts[layer])
        assert torch.equal(*(count.expand(len(real), -1, -1)[real].long() for count in counts))


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(a, id=n) for n, a in ARCHITECTURES.items()
     if n not in LEGACY and a.kind != "encoder"],
)  # fmt: skip
@pytest.mark.parametrize("padded", [True, False], ids=["padded batch", "single"])
def test_generate(architecture, padded):
    model = architecture.build()
    inputs = batch_of(architecture) if padded else example_of(architecture, 0)
    settings = {"max_new_tokens": N_GENERATED, "do_sample": False, **prompt_of(inputs)}
    plain = model.generate(**settings)
    with record(model, ("full",), survey=Survey(model, "interception")) as recording:
        sequences = model.generate(**settings)
    assert torch.equal(sequences, plain)
    truth = truth_of(architecture, model, grown(architecture, inputs, sequences))
    columns = columns_of(architecture) if padded else [slice(0, None)]
    if architecture.kind == "decoder":
        columns = [slice(column.start, None) for column in columns]
    assert_all_equal_truth(recording, architecture, truth, columns)


@pytest.mark.parametrize("name", ["llama-gqa", "gemma2", "gpt_oss", "bloom", "falcon-rotary"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_certified_by_its_own_tolerance(name, dtype):
    architecture = ARCHITECTURES[name]
    model, inputs = architecture.build().to(dtype), batch_of(architecture)
    recording = recorded(
        model, inputs, "interception", ("rows", "pooled"), queries=QUERIES, spans=SPANS
    )
    certificate = recording.certificate
    assert certificate.tolerance == 3e-2
    assert 0 < max(certificate.worst.values()) <= 3e-2
    for rows in recording.rows.values():
        if architecture.sums_to_one:
            assert torch.allclose(rows.sum(-1), torch.ones(rows.shape[:-1]), atol=1e-4)
    for layer, visible in recording.visible.items():
        for index, queries in enumerate(QUERIES):
            first = max(LENGTHS) - LENGTHS[index]
            assert not visible[index, :, :first].any()
            if name in ("bloom", "falcon-rotary"):  # no windows
                assert visible[index].sum(-1).tolist() == [query + 1 for query in queries], layer
