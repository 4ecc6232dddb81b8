"""Captures: what is cut out of a batch, and that it is the same as alone."""

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from attnprobe.capturing import CaptureSettings, batches, capture
from attnprobe.encode import encode
from attnprobe.errors import EncodeError
from attnprobe.models import LoadedModel
from attnprobe.types import Record, Segment
from tests.tiny import make_record, make_tokenizer, tiny_llama


@pytest.fixture(scope="module")
def loaded():
    return LoadedModel(tiny_llama(), make_tokenizer(), "tiny")


def encodings_of(loaded, lengths=(6, 3, 9, 4)):
    return [encode(make_record(n, length=k), loaded.tokenizer) for n, k in enumerate(lengths)]


def captures_of(loaded, encodings, **settings):
    sink = []
    capture(loaded, encodings, CaptureSettings(**settings), sink)
    return sink


def test_batches_hold_every_record_once_and_similar_lengths_together():
    lengths = [9, 2, 7, 2, 8, 1]
    assert list(batches(lengths, 2)) == [[5, 1], [3, 2], [4, 0]]
    assert list(batches(lengths, 1)) == [[0], [1], [2], [3], [4], [5]]


def test_captures_come_in_the_order_of_the_records(loaded):
    encodings = encodings_of(loaded)
    done = []
    sink = []
    capture(loaded, encodings, CaptureSettings(batch_size=3), sink, done.append)
    assert [c.encoding.record.id for c in sink] == [e.record.id for e in encodings]
    assert done == [3, 1]


def test_a_batch_equals_single_records(loaded):
    encodings = encodings_of(loaded)
    keep = ("rows", "steps", "pooled")
    alone = captures_of(loaded, encodings, keep=keep)
    together = captures_of(loaded, encodings, keep=keep, batch_size=4)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.rows.weights, other.rows.weights, atol=5e-5)
        np.testing.assert_array_equal(one.rows.length, other.rows.length)
        np.testing.assert_allclose(one.pooled.mass, other.pooled.mass, atol=5e-5)
        np.testing.assert_allclose(one.step_mass.mass, other.step_mass.mass, atol=5e-5)
        np.testing.assert_array_equal(one.visible, other.visible)
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-4)
        np.testing.assert_array_equal(one.predicted, other.predicted)


def test_rows_are_the_steps_and_sum_to_one(loaded):
    (one,) = captures_of(loaded, encodings_of(loaded)[:1])
    encoding = one.encoding
    assert one.rows.queries.tolist() == list(encoding.step_queries)
    assert one.rows.start.tolist() == [0] * encoding.n_steps
    assert one.rows.length.tolist() == [query + 1 for query in encoding.step_queries]
    edges = np.r_[0, one.rows.length[:-1].cumsum()]
    sums = np.add.reduceat(one.rows.weights, edges, axis=2)
    np.testing.assert_allclose(sums, 1, atol=1e-5)
    assert one.step_mass is None
    assert one.pooled is None


def test_step_masses_and_pooled_masses_are_the_rows_summed(loaded):
    (one,) = captures_of(loaded, encodings_of(loaded)[:1], keep=("full", "steps", "pooled"))
    encoding = one.encoding
    starts = [group.start for group in encoding.groups]
    assert one.rows.queries.tolist() == list(range(encoding.n_tokens))
    square = np.zeros((3, 4, encoding.n_tokens, encoding.n_tokens), np.float32)
    pairs = np.split(one.rows.weights, one.rows.length.cumsum()[:-1], axis=2)
    for query, row in enumerate(pairs):
        square[:, :, query, : query + 1] = row
    masses = np.add.reduceat(square, starts, axis=3)
    np.testing.assert_allclose(one.pooled.mass, masses, atol=1e-5)
    np.testing.assert_allclose(
        one.step_mass.mass, masses[:, :, list(encoding.step_queries)], atol=1e-5
    )
    assert one.step_mass.queries.tolist() == list(encoding.step_queries)


@pytest.mark.parametrize("keep", [("rows",), ("steps",), ("pooled",), ("full",)])
def test_visible_keys_are_counted_for_the_queries_spoken_of(loaded, keep):
    (one,) = captures_of(loaded, encodings_of(loaded)[:1], keep=keep)
    groups = one.encoding.groups
    expected = [[min(max(q + 1 - g.start, 0), len(g)) for g in groups] for q in one.visible_queries]
    every = keep[0] in ("pooled", "full")
    assert len(one.visible_queries) == (one.encoding.n_tokens if every else one.encoding.n_steps)
    assert one.visible.tolist() == [expected] * 3


def test_log_probabilities_and_predictions_are_the_models_own(loaded):
    (one,) = captures_of(loaded, encodings_of(loaded)[:1])
    encoding = one.encoding
    ids = torch.from_numpy(encoding.ids.astype(np.int64))[None]
    with torch.no_grad():
        logits = loaded.model(ids).logits[0, list(encoding.step_queries)]
    expected = logits.log_softmax(-1)[range(encoding.n_steps), ids[0, encoding.n_prompt :]]
    np.testing.assert_allclose(one.log_probs, expected, atol=1e-5)
    assert one.predicted.tolist() == logits.argmax(-1).tolist()


def test_layers_and_heads_are_selected(loaded):
    encodings = encodings_of(loaded)[:1]
    (whole,) = captures_of(loaded, encodings, keep=("rows", "pooled"))
    (part,) = captures_of(loaded, encodings, keep=("rows", "pooled"), layers=(0, 2), heads=(3, 1))
    np.testing.assert_array_equal(part.rows.weights, whole.rows.weights[[0, 2]][:, [3, 1]])
    np.testing.assert_array_equal(part.pooled.mass, whole.pooled.mass[[0, 2]][:, [3, 1]])
    assert part.errors.shape == (2,)


def test_a_sliding_window_leaves_invisible_keys_out():
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=5,
        initializer_range=0.4,
    )  # fmt: skip
    loaded = LoadedModel(MistralForCausalLM(config).eval(), make_tokenizer(), "window")
    encoding = encode(make_record(length=5), loaded.tokenizer)
    (one,) = captures_of(loaded, [encoding], keep=("rows", "pooled"))
    assert one.rows.length.tolist() == [5] * encoding.n_steps
    assert one.rows.start.tolist() == [query - 4 for query in encoding.step_queries]
    assert one.visible.sum(-1).max() == 5
    np.testing.assert_allclose(one.pooled.mass.sum(-1), 1, atol=1e-5)


def test_teacher_forcing_without_a_target_is_an_error(loaded):
    record = Record("a", "a", "s", (Segment("history", "1 2"),))
    with pytest.raises(EncodeError, match="record 'a': teacher forcing needs a target"):
        captures_of(loaded, [encode(record, loaded.tokenizer)])


class Plain(LlamaForCausalLM):
    """A model whose forward pass knows neither `logits_to_keep` nor `use_cache`."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None):
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids
        )


def test_a_model_without_logits_to_keep_is_read_right(loaded):
    old = Plain(loaded.model.config).eval()
    old.load_state_dict(loaded.model.state_dict())
    odd = LoadedModel(old, loaded.tokenizer, "tiny")
    encodings = encodings_of(loaded)
    for one, other in zip(
        captures_of(loaded, encodings, batch_size=2),
        captures_of(odd, encodings, batch_size=2),
        strict=True,
    ):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)
        np.testing.assert_array_equal(one.predicted, other.predicted)
        np.testing.assert_allclose(one.rows.weights, other.rows.weights, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_captures_what_the_cpu_captures(loaded):
    encodings = encodings_of(loaded)[:2]
    on_cpu = captures_of(loaded, encodings, keep=("rows", "pooled"))
    there = LoadedModel(tiny_llama().to("cuda"), loaded.tokenizer, "tiny")
    for one, other in zip(
        on_cpu, captures_of(there, encodings, keep=("rows", "pooled")), strict=True
    ):
        np.testing.assert_allclose(one.rows.weights, other.rows.weights, atol=1e-4)
        np.testing.assert_allclose(one.pooled.mass, other.pooled.mass, atol=1e-4)
