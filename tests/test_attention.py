"""Recorded attention against eager attention, and every sabotage caught."""

import copy
import dataclasses
import itertools
import warnings

import pytest
import torch

from attnprobe.attention import certificate as certificate_module
from attnprobe.attention import check_canary, compat, record
from attnprobe.attention import recording as recording_module
from attnprobe.attention import rows as rows_module
from attnprobe.errors import CertificateError, ModelError, SelectionError
from tests.tiny import tiny_llama

LENGTHS = (12, 7, 9)


def padded_batch(lengths=LENGTHS, seed=1):
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.randint(3, 300, (len(lengths), width), generator=generator)
    mask = (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}


def eager(model, inputs, index=0, length=None):
    """One example's attentions in float64 from transformers' own eager path, without padding."""
    reference = copy.deepcopy(model).double()
    reference.set_attn_implementation("eager")
    ids = inputs["input_ids"][index : index + 1, -(length or inputs["input_ids"].shape[1]) :]
    with torch.no_grad():
        return reference(input_ids=ids, output_attentions=True).attentions


@torch.no_grad()
def recorded(model, inputs, keep, **kwargs):
    with record(model, keep, **kwargs) as recording:
        model(**inputs)
    return recording


def sub_square(attention, index, length):
    """The part of a left-padded square that belongs to one example."""
    return attention[index, :, -length:, -length:]


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1], ids=["MHA", "GQA", "MQA"])
def test_full_rows_of_a_left_padded_batch_equal_eager(n_kv_heads):
    model = tiny_llama(n_kv_heads)
    inputs = padded_batch()
    recording = recorded(model, inputs, ["full"])
    assert sorted(recording.full) == [0, 1, 2]
    for index, length in enumerate(LENGTHS):
        for layer, reference in enumerate(eager(model, inputs, index, length)):
            full = recording.full[layer]
            assert full.dtype == torch.float32
            torch.testing.assert_close(
                sub_square(full, index, length).double(),
                reference[0], atol=1e-5, rtol=0,
            )  # fmt: skip
            assert full[index, :, : 12 - length].isnan().all()


def test_rows_of_a_single_example_equal_eager_and_obey_the_laws(llama):
    inputs = {"input_ids": padded_batch()["input_ids"][:1]}
    queries = [[0, 5, 11]]
    rows = recorded(llama, inputs, ["rows"], queries=queries).rows
    for layer, reference in enumerate(eager(llama, inputs)):
        torch.testing.assert_close(
            rows[layer].double(), reference[:, :, queries[0]], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(rows[layer].sum(-1), torch.ones(1, 4, 3))
        for row, query in enumerate(queries[0]):
            assert (rows[layer][0, :, row, query + 1 :] == 0).all()


def test_a_batch_equals_its_examples_alone(llama):
    inputs = padded_batch()
    queries = [[length - 3, length - 1] for length in LENGTHS]
    spans = [[(0, 1), (1, 4), (4, length)] for length in LENGTHS]
    keep = ["rows", "steps", "pooled"]
    together = recorded(llama, inputs, keep, queries=queries, spans=spans)
    for index, length in enumerate(LENGTHS):
        alone = recorded(
            llama, {"input_ids": inputs["input_ids"][index : index + 1, -length:]}, keep,
            queries=queries[index : index + 1], spans=spans[index : index + 1],
        )  # fmt: skip
        for layer in range(3):
            for one, other in (
                (together.rows[layer][index, :, :, -length:], alone.rows[layer][0]),
                (together.steps[layer][index], alone.steps[layer][0]),
                (together.pooled[layer][index, :, -length:], alone.pooled[layer][0]),
            ):
                torch.testing.assert_close(one, other, atol=5e-5, rtol=0)


@pytest.mark.parametrize("n_spans", [1, 3, 11], ids=["one", "three", "more than the head size"])
def test_pooled_equals_rows_summed(llama, n_spans):
    inputs = padded_batch((24, 20, 24))
    spans = []
    for length in (24, 20, 24):
        edges = torch.linspace(0, length, n_spans + 1).int().tolist()
        spans.append(list(itertools.pairwise(edges)))
    recording = recorded(llama, inputs, ["full", "pooled"], spans=spans)
    for layer in range(3):
        for index, length in enumerate((24, 20, 24)):
            square = sub_square(recording.full[layer], index, length)
            pooled = recording.pooled[layer][index, :, -length:]
            expected = torch.stack([square[..., a:b].sum(-1) for a, b in spans[index]], -1)
            torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(pooled.sum(-1), torch.ones(4, length))


def test_visible_counts_come_from_the_real_mask(llama):
    spans = [[(0, 4), (4, length)] for length in LENGTHS]
    recording = recorded(llama, padded_batch(), ["pooled"], spans=spans)
    for index, length in enumerate(LENGTHS):
        counts = recording.visible_counts[0][index, -length:]
        expected = [[min(q + 1, 4), max(q + 1 - 4, 0)] for q in range(length)]
        assert counts.tolist() == expected
    alone = recorded(
        llama, {"input_ids": padded_batch()["input_ids"][:1]}, ["pooled"], spans=spans[:1]
    )
    assert torch.equal(alone.visible_counts[0][0], recording.visible_counts[0][0].to(torch.long))


def test_ragged_queries_are_nan_where_an_example_has_none(llama):
    recording = recorded(llama, padded_batch(), ["rows"], queries=[[1, 2, 3], [4], [5, 6]])
    rows = recording.rows[0]
    assert rows.shape == (3, 4, 3, 12)
    assert not rows[0].isnan().any()
    assert rows[1, :, 1:].isnan().all()
    assert not rows[1, :, 0].isnan().any()
    assert rows[2, :, 2].isnan().all()


def test_only_the_layers_asked_for_are_kept(llama):
    inputs = {"input_ids": padded_batch()["input_ids"][:1]}
    recording = recorded(llama, inputs, ["full"], layers=[1])
    assert sorted(recording.full) == [1]


def test_the_model_leaves_as_it_came_also_after_an_exception(llama):
    inputs = padded_batch()
    before = llama(**inputs).logits
    with pytest.raises(RuntimeError, match="on purpose"), record(llama, ["full"]):
        raise RuntimeError("on purpose")
    recorded(llama, inputs, ["full"])
    assert llama.config._attn_implementation == "sdpa"
    assert not llama._forward_pre_hooks
    assert not llama.training
    assert torch.equal(llama(**inputs).logits, before)


def test_capture_does_not_change_the_output(llama):
    inputs = padded_batch()
    with torch.no_grad():
        plain = llama(**inputs).logits
        with record(llama, ["full"]):
            under = llama(**inputs).logits
    assert torch.equal(plain, under)


def test_an_eager_model_is_recorded_too(llama):
    llama.set_attn_implementation("eager")
    recording = recorded(llama, padded_batch(), ["full"])
    reference = eager(llama, padded_batch(), 1, 7)
    torch.testing.assert_close(
        sub_square(recording.full[2], 1, 7).double(), reference[2][0],
        atol=1e-5, rtol=0,
    )  # fmt: skip
    assert llama.config._attn_implementation == "eager"


def test_bfloat16_is_certified_by_its_own_tolerance(llama):
    recording = recorded(llama.bfloat16(), padded_batch(), ["full"])
    assert recording.certificate.tolerance == 3e-2
    assert 1e-5 < max(recording.certificate.worst.values()) <= 3e-2


def test_a_right_padded_batch_is_recorded_in_unpadded_positions(llama):
    inputs = padded_batch((6, 6))
    inputs["attention_mask"][0, 4:] = 0
    inputs["position_ids"] = torch.arange(6).expand(2, 6)
    rows = recorded(llama, inputs, ["rows"], queries=[[3], [5]]).rows
    alone = recorded(llama, {"input_ids": inputs["input_ids"][:1, :4]}, ["rows"], queries=[[3]])
    torch.testing.assert_close(rows[2][0, :, 0, :4], alone.rows[2][0, :, 0], atol=1e-5, rtol=0)


# --- what is refused -----------------------------------------------------------------------------


def message(error, action):
    with pytest.raises(error) as caught:
        action()
    return str(caught.value)


def test_bad_requests_are_refused(llama):
    inputs = padded_batch()
    assert message(SelectionError, lambda: recorded(llama, inputs, ["row"])) == (
        "cannot keep 'row'; did you mean 'rows'? there is: full, pooled, rows, steps."
    )
    assert "need the queries" in message(SelectionError, lambda: recorded(llama, inputs, ["rows"]))
    assert "need spans" in message(SelectionError, lambda: recorded(llama, inputs, ["pooled"]))
    assert message(
        SelectionError, lambda: recorded(llama, inputs, ["rows"], queries=[[0], [7], [0]])
    ) == ("example 1: a query lies outside its example; got 7, expected 0 to 6.")
    assert "span is empty or lies outside" in message(
        SelectionError, lambda: recorded(llama, inputs, ["pooled"], spans=[[(0, 13)], [], []])
    )
    assert "given per example" in message(
        SelectionError, lambda: recorded(llama, inputs, ["rows"], queries=[[0]])
    )


def test_record_inside_record_is_an_error(llama):
    with record(llama, ["full"]):
        assert "active already" in message(ModelError, lambda: record(llama, ["full"]).__enter__())
        llama(**padded_batch())


def test_two_passes_in_one_recording_are_an_error(llama):
    def twice():
        with record(llama, ["full"]):
            llama(**padded_batch())
            llama(**padded_batch())

    assert "one recording holds one forward pass" in message(ModelError, twice)


def test_a_recording_without_a_pass_is_an_error(llama):
    def nothing():
        with record(llama, ["full"]):
            pass

    assert "no attention was seen" in message(CertificateError, nothing)


def test_attention_over_a_cache_is_refused(llama):
    cache = llama(input_ids=torch.tensor([[3, 4, 5]]), use_cache=True).past_key_values

    def go_on():
        with record(llama, ["full"]):
            llama(input_ids=torch.tensor([[6, 7]]), past_key_values=cache)

    assert "over a cache that was filled before the recording" in message(ModelError, go_on)
    assert llama.config._attn_implementation == "sdpa"


def test_holes_in_the_attention_mask_are_refused(llama):
    inputs = padded_batch()
    inputs["attention_mask"][0, 5] = 0
    assert "padding in its midst" in message(ModelError, lambda: recorded(llama, inputs, ["full"]))


def test_a_model_without_attention_is_refused():
    def run():
        with record(torch.nn.Linear(2, 2), ["full"]):
            pass

    assert "no attention was seen" in message(CertificateError, run)


def test_a_compiled_model_is_refused_with_what_to_do(llama):
    compiled = torch.compile(llama, backend="eager")
    assert "record the model before torch.compile" in message(
        ModelError, lambda: record(compiled, ["full"]).__enter__()
    )
    recorded(compiled._orig_mod, padded_batch(), ["full"])
    llama.compile(backend="eager")
    assert "compiled model" in message(
        ModelError, lambda: recorded(llama, padded_batch(), ["full"])
    )


def test_a_model_split_over_devices_is_refused_with_what_to_do(llama):
    llama.model.layers[2].to("meta")
    assert message(ModelError, lambda: record(llama, ["full"]).__enter__()) == (
        "LlamaForCausalLM: this model is split over several devices; got cpu, meta, expected one "
        "device; load it without device_map; --dtype bfloat16 halves what it takes."
    )


def test_other_kernels_are_refused_with_what_to_do(llama):
    llama.config._attn_implementation_internal = "flex_attention"
    assert message(ModelError, lambda: record(llama, ["full"]).__enter__()) == (
        "LlamaForCausalLM: this attention implementation cannot be recorded; got flex_attention, "
        "expected sdpa or eager; call model.set_attn_implementation('sdpa') first."
    )


def test_a_quantised_model_is_recorded(llama):
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = quantize_dynamic(llama, {torch.nn.Linear}, dtype=torch.qint8)
    recording = recorded(small, padded_batch(), ["full"])
    assert max(recording.certificate.worst.values()) < 1e-5


# --- generation ----------------------------------------------------------------------------------


def generated(model, **settings):
    inputs = padded_batch()
    return {
        "input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"],
        "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, **settings,
    }  # fmt: skip


def test_rows_and_masses_under_generate_equal_one_pass(llama):
    queries = [[length - 1, length + 2] for length in LENGTHS]
    spans = [[(0, 1), (1, length), (length, length + 4)] for length in LENGTHS]
    keep = ["rows", "steps", "pooled"]
    with record(llama, keep, queries=queries, spans=spans) as under:
        sequences = llama.generate(**generated(llama))
    for index, length in enumerate(LENGTHS):
        ids = sequences[index : index + 1, 12 - length : -1]
        alone = recorded(
            llama, {"input_ids": ids}, keep, queries=[queries[index]], spans=[spans[index]]
        )
        for layer in range(3):
            for one, other in (
                (under.rows[layer][index, :, :, 12 - length :], alone.rows[layer][0]),
                (under.steps[layer][index], alone.steps[layer][0]),
                (under.pooled[layer][index, :, 12 - length :], alone.pooled[layer][0]),
            ):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
            counts = under.visible_counts[layer][index, 12 - length :]
            assert torch.equal(counts.long(), alone.visible_counts[layer][0].long())
    assert under.rows[0].shape == (3, 4, 2, 16)


def test_every_decoded_token_is_certified(llama, monkeypatch):
    original = rows_module.softmax_rows

    def spoiled(call, columns):
        weights = original(call, columns)
        return weights.roll(1, 1) if call.key.shape[2] == 15 else weights

    monkeypatch.setattr(recording_module, "softmax_rows", spoiled)

    def run():
        with record(llama, ["full"]):
            llama.generate(**generated(llama))

    assert "not what the model used" in message(CertificateError, run)


def test_generate_is_left_as_it_was(llama):
    before = llama.generate
    with record(llama, ["full"]):
        llama.generate(**generated(llama, num_beams=2))
    assert llama.generate == before
    assert "generate" not in vars(llama)


# --- sabotage: each must be caught, for rows and for pooled --------------------------------------

SPANS = [[(0, 1), (1, 4), (4, length)] for length in LENGTHS]
QUERIES = [[length - 4, length - 3, length - 2, length - 1] for length in LENGTHS]
KEEPS = pytest.mark.parametrize("keep", ["rows", "pooled"])


def capture_all(model, keep):
    return recorded(model, padded_batch(), [keep], queries=QUERIES, spans=SPANS)


@KEEPS
def test_honest_work_passes(llama, keep):
    worst = capture_all(llama, keep).certificate.worst
    assert max(worst.values()) < 1e-5
    assert check_canary(llama, [keep]) < 1e-4


@KEEPS
@torch.no_grad()
def test_heads_whose_values_are_all_zero_pass(llama, keep, monkeypatch):
    """0 from 0 is no error; 0 from other values, or something from 0, is."""
    llama.model.layers[1].self_attn.v_proj.weight[: llama.config.head_dim] = 0.0
    worst = capture_all(llama, keep).certificate.worst
    assert max(worst.values()) < 1e-5
    original = rows_module.rows_times_values
    monkeypatch.setattr(
        certificate_module, "rows_times_values", lambda *args: original(*args) + 1e-6
    )
    assert "layer 1: the captured attention is not what the model used" in message(
        CertificateError, lambda: capture_all(llama, keep)
    )


@KEEPS
def test_a_missing_mask_function_is_caught(llama, keep, monkeypatch):
    monkeypatch.setattr(compat, "_mask", lambda *args, **kwargs: None)
    assert "answers differently from the untouched model" in message(
        CertificateError, lambda: check_canary(llama, [keep])
    )


@KEEPS
def test_a_wrong_scale_is_caught(llama, keep, monkeypatch):
    original = rows_module.softmax_rows
    monkeypatch.setattr(
        recording_module, "softmax_rows",
        lambda call, *rest: original(_changed(call, scaling=call.scaling * 1.05), *rest),
    )  # fmt: skip
    assert "not what the model used" in message(CertificateError, lambda: capture_all(llama, keep))


@KEEPS
def test_rolled_kv_heads_are_caught(llama, keep, monkeypatch):
    original = rows_module.softmax_rows
    monkeypatch.setattr(
        recording_module, "softmax_rows",
        lambda call, *rest: original(_changed(call, key=call.key.roll(1, 1)), *rest),
    )  # fmt: skip
    assert "not what the model used" in message(CertificateError, lambda: capture_all(llama, keep))


@KEEPS
def test_wrong_rows_of_the_longest_example_are_caught(llama, keep, monkeypatch):
    original = rows_module.softmax_rows

    def spoiled(call, columns):
        weights = original(call, columns)
        weights[0, :, 9:] = weights[0, :, 9:].roll(1, 0)  # beyond the rows of the other examples
        return weights

    monkeypatch.setattr(recording_module, "softmax_rows", spoiled)
    inputs = padded_batch((24, 9, 17))
    queries = [range(length) for length in (24, 9, 17)]
    spans = [[(0, 4), (4, length)] for length in (24, 9, 17)]
    assert "not what the model used" in message(
        CertificateError, lambda: recorded(llama, inputs, [keep], queries=queries, spans=spans)
    )


def test_unknown_arguments_of_the_attention_function_are_refused(llama, monkeypatch):
    original = llama.model.layers[1].self_attn.forward
    monkeypatch.setattr(
        llama.model.layers[1].self_attn, "forward", lambda **kw: original(**kw, temperature=30.0)
    )
    assert "passes 'temperature' to its attention" in message(
        ModelError, lambda: recorded(llama, padded_batch(), ["full"])
    )


@KEEPS
def test_dropout_is_caught(keep):
    model = tiny_llama(attention_dropout=0.2).train()
    assert "not what the model used" in message(CertificateError, lambda: capture_all(model, keep))
    assert model.training


@KEEPS
def test_the_rows_of_another_layer_are_caught(llama, keep, monkeypatch):
    original = rows_module.softmax_rows
    earlier = []

    def previous(call, columns):
        earlier.append(original(call, columns))
        return earlier[max(0, len(earlier) - 2)]

    monkeypatch.setattr(recording_module, "softmax_rows", previous)
    assert "layer 1: the captured attention" in message(
        CertificateError, lambda: capture_all(llama, keep)
    )


def test_shifted_spans_are_caught(llama, monkeypatch):
    original = rows_module.pooled_masses
    monkeypatch.setattr(
        recording_module, "pooled_masses", lambda call, edges: original(call, edges + 1)
    )
    assert "not what the model used" in message(
        CertificateError, lambda: capture_all(llama, "pooled")
    )


def test_pooled_from_other_keys_is_caught(llama, monkeypatch):
    original = rows_module.pooled_masses
    monkeypatch.setattr(
        recording_module, "pooled_masses", lambda call, edges: original(call, edges).flip(1)
    )
    assert "not what the model used" in message(
        CertificateError, lambda: capture_all(llama, "pooled")
    )


@KEEPS
def test_a_skipped_layer_is_caught(llama, keep, monkeypatch):
    original = recording_module.Recording.observe

    def forgetful(self, call, output):
        if call.layer != 1:
            original(self, call, output)

    monkeypatch.setattr(recording_module.Recording, "observe", forgetful)
    assert "layers [1] missing" in message(CertificateError, lambda: capture_all(llama, keep))


@KEEPS
def test_nan_attention_is_caught(llama, keep):
    with torch.no_grad():
        llama.model.layers[1].self_attn.q_proj.weight[0, 0] = torch.nan
    assert "layer 1" in message(CertificateError, lambda: capture_all(llama, keep))


def _changed(call, **changes):
    return dataclasses.replace(call, **changes)
